"""Videos: frames are restored and become a film again, with all else that the source holds.

PyAV, not the program ffmpeg: time stamps, streams and errors are objects rather than text to be parsed, its wheel
brings the libraries, and no child process can outlive a killed run.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from tqdm import tqdm

from unirain_plugin.errors import DataError, reason
from unirain_plugin.inference.images import StoredImage, side_by_side
from unirain_plugin.inference.jobs import Job, VideoSettings
from unirain_plugin.inference.video_merging import Plan, merge, plan_streams
from unirain_plugin.inference.video_reading import (
    COLOURS,
    Video,
    check_whole,
    output_tags,
    probe,
    read_frames,
    timed_frames,
    ycbcr,
)
from unirain_plugin.support.files import put_in_place, sole_user
from unirain_plugin.support.processes import map_in_order

__all__ = ["FilmWriter", "Video", "probe", "read_frames", "restore_video", "writer"]

_PART_PIXELS = 2**25
_PART_FRAMES = 48
"""A part is finished after so many pixels (on a CPU about a minute's work), but not of fewer frames than this."""
_MADE_FROM = "made_from.json"
_AVX512 = 13  # OpenCV's number of AVX-512F, for which its Python module has no name


class FilmWriter:
    """Takes the frames of a result in their order; made by :func:`writer`.

    Frames go to parts, each a file of its own that is put in place when it is whole: a run that was killed goes on
    after its last whole part. Parts end at the same frames in every run, so the result has the same frames as that of
    one that was never interrupted. The first ``done`` frames were finished by earlier runs, and may be given as None.
    """

    def __init__(self, path: Path, video: Video, width: int, folder: Path, plan: Plan) -> None:
        self.path, self.video, self.width, self.folder, self.plan = path, video, width, folder, plan
        self.rate = Fraction(video.rate)
        self.part_frames = max(_PART_FRAMES, _PART_PIXELS // (width * video.height))
        parts = self._parts()
        self.done = 0
        if parts:
            with av.open(str(parts[-1])) as last:
                packets = sum(packet.size > 0 for packet in last.demux(video=0))
            self.done = len(parts[:-1]) * self.part_frames + packets
        self.stamps: list[int] = []
        self.notes = video.notes + plan.notes  # what of the source the result does not hold
        self._part: _Part | None = None

    def __call__(self, frame: np.ndarray | None, stamp: int | None = None) -> None:
        """Take the next frame, ``(H, width, 3)`` RGB, uint8 or uint16 as the source's, or None for one that is done.

        ``stamp`` is its time in ``video.time_base``; by default at the source's mean rate.
        """
        index = len(self.stamps)
        if stamp is None:
            stamp = round(index / (self.rate * self.video.time_base))
        self.stamps.append(stamp)
        if index < self.done:
            return
        with _writing(self.path):
            if self._part is None:
                self._part = _Part(self.folder / "part.tmp", self.video, self.width)
            self._part.encode(frame, index % self.part_frames)
            if len(self.stamps) % self.part_frames == 0:
                self._finish_part()

    def finish(self) -> None:
        if not self.stamps:
            raise DataError(f"{self.video.path}: no frame can be decoded.")
        with _writing(self.path):
            if self._part is not None:
                self._finish_part()
            whole = self.folder / f"whole{self.path.suffix}"
            self.notes += merge(whole, self.video, self.plan, self._parts(), self.stamps, self.width)
            put_in_place(whole, self.path)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.mp4"))

    def _finish_part(self) -> None:
        part, self._part = self._part, None
        part.close()
        put_in_place(part.path, self.folder / f"{(len(self.stamps) - 1) // self.part_frames:06d}.mp4")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: cannot be written: {reason(error)}.") from error


@contextmanager
def writer(path: Path, video: Video, width: int, made_from: object = None) -> Iterator[FilmWriter]:
    """Write frames, with the sound and all else of ``video``, to ``path``: complete, or not at all.

    They have ``width`` columns. ``made_from`` is what they depend on besides the source, as JSON can tell it: parts of
    an earlier run that was made from the same are used; with None, none are kept. A DataError if encoding or writing
    fails, or another process writes to the same file.
    """
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    folder = path.parent / f".{name}.parts"  # never longer than a name may be
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    with sole_user(folder, f"another run is making {path.name}; wait for it, or end it."):
        film = None
        try:
            with _writing(path):
                record, identity = folder / _MADE_FROM, _identity(video, width, made_from)
                same = made_from is not None and record.is_file() and record.read_text(encoding="utf-8") == identity
                for entry in folder.iterdir():
                    if entry.name != ".lock" and not (same and entry.suffix == ".mp4" and entry.stem.isdigit()):
                        entry.unlink()
                record.write_text(identity, encoding="utf-8")
            film = FilmWriter(path, video, width, folder, plan_streams(video, path))
            yield film
            film.finish()
            made_from = None  # the parts have served
        finally:
            if film is not None and film._part is not None:  # not whole
                film._part.drop()
            if made_from is None or not any(folder.glob("[0-9]*.mp4")):
                shutil.rmtree(folder)


def _identity(video: Video, width: int, made_from: object) -> str:
    state = video.path.stat()
    source = [str(video.path.resolve()), state.st_size, state.st_mtime_ns]
    options = [video.settings.deinterlace, video.settings.pixel_format, video.settings.damaged]
    encoder = [width, _PART_PIXELS, _PART_FRAMES, av.__version__, os.cpu_count()]
    return json.dumps([source, options, encoder, made_from], sort_keys=True)


class _Part:
    """An encoder and its file. Time stamps in it count frames."""

    def __init__(self, path: Path, video: Video, width: int) -> None:
        self.path, self.rate = path, Fraction(video.rate)
        pixels = video.output_format(width)
        self.source = "rgb48le" if video.deep else "rgb24"
        self.graph = ycbcr(video, (width, video.height), pixels)
        self.container = av.open(str(path), "w", format="mp4", options={"movflags": "write_colr"})
        fields = video.interlaced and not video.settings.deinterlace and video.height % 4 == 0
        settings = [f"{video.interlaced}=1"] * bool(fields)
        # x264 165 shares out bits by what happens to lie in memory where it uses AVX-512 (at 848 columns and
        # less, not at 640): the same frames were encoded up to 1.2 levels apart. Without AVX-512 it is as fast.
        settings += ["asm=avx2"] * cv2.checkHardwareSupport(_AVX512)
        options = {"crf": "14", "preset": "fast", "x264-params": ":".join(settings)}
        self.stream = self.container.add_stream("libx264", self.rate, options, width=width, height=video.height)
        codec = self.stream.codec_context
        codec.pix_fmt, codec.time_base = pixels, 1 / self.rate
        codec.sample_aspect_ratio = Fraction(video.aspect)
        for name, code in zip(COLOURS, output_tags(video, width), strict=True):
            setattr(codec, name, code)

    def encode(self, frame: np.ndarray, index: int) -> None:
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), self.source)
        image.pts, image.time_base = index, 1 / self.rate
        image.colorspace, image.color_range = 0, 2  # RGB
        self.graph.vpush(image)
        self.container.mux(self.stream.encode(self.graph.vpull()))

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def drop(self) -> None:
        with suppress(av.FFmpegError):
            self.container.close()
        self.path.unlink(missing_ok=True)


_AHEAD = 3  # how many frames are decoded ahead
_PIXELS_AT_ONCE = 2**22  # of the frames that are restored at the same time, together: bounds the memory


def restore_video(
    job: Job, function: Callable[[np.ndarray], np.ndarray], bar: bool, settings: VideoSettings
) -> list[str]:
    """Restore one video: frames are decoded, restored and encoded at the same time, with a few of them in memory.

    ``function`` maps a frame (H, W, 3) uint8 or uint16 to one of the same shape and type, in ``settings.at_once``
    threads. Returns what the result does not hold of the source, or holds otherwise. A DataError if the source is
    damaged or cannot be kept in the result.
    """
    video = probe(job.source, settings)
    damage: list[str] = []
    total = check_whole(video, damage)
    with ExitStack() as stack:
        targets = [(job.target, video.width)]
        if job.compare is not None:
            targets.append((job.compare, 2 * video.width + 8))
        films = [stack.enter_context(writer(path, video, width, settings.made_from)) for path, width in targets]
        done = min(film.done for film in films)
        frames = timed_frames(video, damage)
        stack.callback(frames.close)
        at_once = max(min(settings.at_once, _PIXELS_AT_ONCE // (video.width * video.height)), 1)
        restored = stack.enter_context(_restored(frames, function, done, at_once))
        bar = tqdm(restored, total=total, unit="frame", disable=not bar, ncols=100, leave=False)
        for stamp, before, after in bar:
            films[0](after, stamp)
            for film in films[1:]:
                film(None if after is None else side_by_side(StoredImage(before), StoredImage(after)).pixels, stamp)
    notes = list(films[0].notes)
    if damage:
        told = list(dict.fromkeys(damage))
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        notes.append(f"the source is damaged, the result is what could be decoded: {'; '.join(told[:3])}{more}")
    return notes


@contextmanager
def _restored(
    frames: Iterator[tuple[int, np.ndarray]], function: Callable[[np.ndarray], np.ndarray], done: int, at_once: int
) -> Iterator[Iterator[tuple[int, np.ndarray, np.ndarray | None]]]:
    """Time stamps, frames, and frames restored (None for the first ``done``), in order."""
    threads = torch.get_num_threads()
    share = max(threads // at_once, 1)
    decoder = ThreadPoolExecutor(1)
    workers = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(share,))

    def restore(numbered: tuple[int, tuple[int, np.ndarray]]) -> tuple[int, np.ndarray, np.ndarray | None]:
        index, (stamp, frame) = numbered
        return stamp, frame, None if index < done else function(frame)

    ahead = map_in_order(decoder, lambda _: next(frames, None), itertools.count(), _AHEAD)
    decoded = itertools.takewhile(lambda item: item is not None, ahead)
    try:
        yield map_in_order(workers, restore, enumerate(decoded), at_once + 1)
    finally:
        workers.shutdown(wait=False, cancel_futures=True)  # what is broken off is not waited for
        decoder.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # new threads take over what was set last
