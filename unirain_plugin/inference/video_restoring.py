"""Restores a video: frames are decoded, restored and encoded at the same time, with a few of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from tqdm import tqdm

from unirain_plugin.inference.images import Picture, side_by_side
from unirain_plugin.inference.jobs import Job, VideoSettings
from unirain_plugin.inference.video import writer
from unirain_plugin.inference.video_reading import check_whole, probe, timed_frames

_AHEAD = 3
"""Frames decoded ahead."""
_PIXELS_AT_ONCE = 2**22
"""Of the frames that are restored at the same time, together: bounds the memory."""


def restore_video(
    job: Job, function: Callable[[np.ndarray], np.ndarray], bar: bool, settings: VideoSettings
) -> list[str]:
    """Restore one video.

    Args:
        job: The file and its targets.
        function: Maps a frame (H, W, 3) uint8 or uint16 to one of the same shape and type; called by
            ``settings.at_once`` threads.
        bar: Whether to draw a progress bar.
        settings: How.

    Returns:
        What the result does not hold of the source, or holds otherwise.

    Raises:
        DataError: If the source is damaged or cannot be kept in the result.
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
        for stamp, before, after in tqdm(
            restored, total=total, unit="frame", disable=not bar, ncols=100, leave=False, initial=0
        ):
            films[0](after, stamp)
            for film in films[1:]:
                film(None if after is None else side_by_side(Picture(before), Picture(after)).pixels, stamp)
    notes = list(films[0].notes)
    if damage:
        notes.append(f"the source is damaged, the result is what could be decoded: {_several(damage)}")
    return notes


def _several(damage: list[str]) -> str:
    told = list(dict.fromkeys(damage))
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")


@contextmanager
def _restored(
    frames: Iterator[tuple[int, np.ndarray]], function: Callable[[np.ndarray], np.ndarray], done: int, at_once: int
) -> Iterator[Iterator[tuple[int, np.ndarray, np.ndarray | None]]]:
    """Time stamps, frames, and frames restored (None for the first ``done``), in order."""
    threads = torch.get_num_threads()
    share = max(threads // at_once, 1)
    decoder = ThreadPoolExecutor(1)
    workers = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(share,))

    def results() -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        decoded = deque(decoder.submit(next, frames, None) for _ in range(_AHEAD))
        waiting: deque[tuple[int, np.ndarray, Future | None]] = deque()
        index = 0
        while (item := decoded.popleft().result()) is not None:
            decoded.append(decoder.submit(next, frames, None))
            stamp, frame = item
            waiting.append((stamp, frame, workers.submit(function, frame) if index >= done else None))
            index += 1
            if len(waiting) > at_once:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())

    try:
        yield results()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)  # what is broken off is not waited for
        decoder.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # new threads take over what was set last


def _result(stamp: int, frame: np.ndarray, future: Future | None) -> tuple[int, np.ndarray, np.ndarray | None]:
    return stamp, frame, None if future is None else future.result()
