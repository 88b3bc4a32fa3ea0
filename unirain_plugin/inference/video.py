"""Videos, frame by frame through ffmpeg's pipes: nothing but a few frames is in memory; sound is copied as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from unirain_plugin.errors import DataError
from unirain_plugin.support.files import whole_file

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts")
_KEPT_CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")


@dataclass(frozen=True)
class Video:
    """What ffprobe tells of a video.

    Attributes:
        path: The file.
        width: Columns as shown (after any rotation).
        height: Rows as shown.
        rate: Frames a second, as a fraction (``30000/1001``).
        frames: About how many, 0 if unknown.
        matrix: Colour matrix between RGB and YCbCr, in ffmpeg's name.
        aspect: Width to height of a pixel as shown, as ``16/11``.
        tags: ffmpeg's options for the colours' primaries and transfer curve, where the file tells them.
    """

    path: Path
    width: int
    height: int
    rate: str
    frames: int
    matrix: str
    aspect: str = "1/1"
    tags: tuple[str, ...] = ()


def video_target(path: Path) -> Path:
    """The name of the restored video: H.264 in the same container where it can hold it, else in Matroska."""
    return path if path.suffix.lower() in _KEPT_CONTAINERS else path.with_suffix(".mkv")


def probe(path: Path) -> Video:
    """Look into a video.

    Raises:
        DataError: If ffmpeg is not installed, or the file holds no video that it can read.
    """
    for program in ("ffprobe", "ffmpeg"):
        if shutil.which(program) is None:
            raise DataError(f"{path}: videos need the program {program}; install ffmpeg (ffmpeg.org) and run again.")
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_streams", "-show_format", "-of", "json"]
    result = subprocess.run([*command, _url(path)], capture_output=True, text=True)
    streams = json.loads(result.stdout or "{}").get("streams", [])
    if result.returncode or not streams:
        reason = result.stderr.strip().splitlines()[-1:] or ["it holds no video stream"]
        raise DataError(f"{path}: cannot be read as a video: {reason[0]}.")
    stream = streams[0]
    width, height = int(stream["width"]), int(stream["height"])
    told = stream.get("sample_aspect_ratio", "1:1")
    aspect = Fraction(1) if told in ("0:1", "N/A") else Fraction(told.replace(":", "/"))
    rotation = sum(int(entry.get("rotation", 0)) for entry in stream.get("side_data_list", []))
    if rotation % 180:
        width, height, aspect = height, width, 1 / aspect  # ffmpeg turns the frames upright
    rate = stream.get("avg_frame_rate", "0/0")
    if rate.startswith("0/") or rate.endswith("/0"):
        rate = stream.get("r_frame_rate", "25/1")
    duration = float(stream.get("duration") or json.loads(result.stdout).get("format", {}).get("duration") or 0)
    frames = int(stream.get("nb_frames") or 0) or round(duration * Fraction(rate))
    matrix = stream.get("color_space", "unknown")
    if matrix not in ("bt709", "smpte170m", "bt470bg", "bt2020nc"):
        matrix = "bt709" if height >= 720 else "smpte170m"  # what players assume of untagged video
    tags: list[str] = []
    for option, key in (("-color_primaries", "color_primaries"), ("-color_trc", "color_transfer")):
        if stream.get(key, "unknown") not in ("unknown", "reserved"):
            tags += [option, stream[key]]
    ratio = f"{aspect.numerator}/{aspect.denominator}"
    return Video(path, width, height, rate, frames, matrix, ratio, tuple(tags))


def read_frames(video: Video) -> Iterator[np.ndarray]:
    """The frames ``(H, W, 3)`` uint8 RGB at a constant rate (so that sound stays in step).

    Raises:
        DataError: If decoding fails.
    """
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", _url(video.path), "-map", "0:v:0", "-r", video.rate]
    command += ["-vf", f"scale=in_color_matrix={_scale_name(video.matrix)}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size = video.width * video.height * 3
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            while len(data := process.stdout.read(size)) == size:
                yield np.frombuffer(data, np.uint8).reshape(video.height, video.width, 3)
            if process.wait() or data:
                raise DataError(f"{video.path}: decoding failed: {_last_line(errors)}.")
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


@contextmanager
def writer(path: Path, video: Video, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Write frames, with the sound of ``video``, to ``path``: complete, or nothing is left.

    Args:
        path: The file to be made.
        video: Where rate, height and sound are from.
        width: Columns of the frames to come.

    Yields:
        A function that takes the next frame ``(H, width, 3)`` uint8 RGB.

    Raises:
        DataError: If encoding fails.
    """
    with whole_file(path) as target, tempfile.TemporaryFile() as errors:
        temporary = Path(target.name)
        process = subprocess.Popen(
            _encode_command(video, width, temporary), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            with suppress(BrokenPipeError):  # the encoder has given up; its exit status tells why
                yield lambda frame: process.stdin.write(np.ascontiguousarray(frame).data)
            with suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                raise DataError(f"{path}: encoding failed: {_last_line(errors)}.")
        finally:
            process.kill()
            process.wait()


def _encode_command(video: Video, width: int, target: Path) -> list[str]:
    odd = width % 2 or video.height % 2  # halved colour needs even sizes
    matrix = video.matrix
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{video.height}"]
    command += ["-r", video.rate, "-i", "-", "-i", _url(video.path), "-map", "0:v:0", "-map", "1:a?", "-c:a", "copy"]
    command += ["-vf", f"scale=out_color_matrix={_scale_name(matrix)}:out_range=tv,setsar={video.aspect}"]
    command += ["-colorspace", matrix, *video.tags]
    command += ["-c:v", "libx264", "-crf", "14", "-preset", "fast", "-pix_fmt", "yuv444p" if odd else "yuv420p"]
    return [*command, "-movflags", "+faststart", _url(target)] if target.suffix != ".mkv" else [*command, _url(target)]


def _scale_name(matrix: str) -> str:
    return {"bt2020nc": "bt2020"}.get(matrix, matrix)


def _url(path: Path) -> str:
    """The file as ffmpeg takes it whatever its name looks like."""
    return f"file:{path.resolve()}"


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "ffmpeg gave no reason"
