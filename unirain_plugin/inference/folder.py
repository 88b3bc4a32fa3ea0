"""Restores many files: reads ahead and writes behind in threads while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unirain_plugin.inference.images import Picture, read_picture, side_by_side, write_picture
from unirain_plugin.inference.jobs import Job
from unirain_plugin.inference.video import probe, read_frames, writer

_AHEAD = 3
"""Pictures read ahead and, again, waiting to be written: bounds the memory, and hides the coding."""

ArrayFunction = Callable[[np.ndarray], np.ndarray]


@dataclass
class Outcome:
    """What became of a run: files restored, files skipped because they were there, and (file, reason) of failures."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


def restore_files(jobs: Sequence[Job], function: ArrayFunction, overwrite: bool = False, bar: bool = True) -> Outcome:
    """Restore every file; a broken one is noted and the others go on.

    Args:
        jobs: The files.
        function: Maps an array (H, W, C) uint8 or uint16 to one of the same shape and type.
        overwrite: Also those whose results exist.
        bar: Whether to draw a progress bar.
    """
    outcome = Outcome()
    todo = []
    for job in jobs:
        if overwrite or not job.target.is_file():
            todo.append(job)
        elif job.is_done():
            outcome.skipped.append(job.source)
        else:
            reason = f"{job.target} is there, without its side-by-side picture; --overwrite makes both anew"
            outcome.failed.append((job.source, reason))
    waiting: deque[tuple[Job, Future]] = deque()
    workers = min(_AHEAD, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(workers) as readers,
        ThreadPoolExecutor(workers) as writers,
        tqdm(total=len(todo), unit="file", disable=not bar, ncols=100) as progress,
    ):

        def finish(job: Job, result: Future) -> None:
            _note(outcome, job, result)
            progress.update()

        for job, picture in _read_ahead(todo, readers):
            progress.set_postfix_str(job.source.name[-40:])
            try:
                if job.is_video:
                    _restore_video(job, function, bar)
                    waiting.append((job, writers.submit(lambda: None)))
                else:
                    before = picture.result()
                    after = before.with_pixels(function(before.pixels))
                    waiting.append((job, writers.submit(_write, job, before, after)))
            except Exception as error:  # whatever is wrong with one file, the others are to be restored
                failed: Future = Future()
                failed.set_exception(error)
                waiting.append((job, failed))
            while len(waiting) > _AHEAD:
                finish(*waiting.popleft())
        while waiting:
            finish(*waiting.popleft())
    return outcome


def _note(outcome: Outcome, job: Job, result: Future) -> None:
    try:
        result.result()
        outcome.done.append(job.source)
    except Exception as error:  # as above
        text = str(error) or type(error).__name__
        outcome.failed.append((job.source, text.removeprefix(f"{job.source}: ")))


def _read_ahead(jobs: Sequence[Job], readers: ThreadPoolExecutor) -> Iterator[tuple[Job, Future | None]]:
    queue: deque[tuple[Job, Future | None]] = deque()
    for job in jobs:
        queue.append((job, None if job.is_video else readers.submit(read_picture, job.source)))
        if len(queue) > _AHEAD:
            yield queue.popleft()
    while queue:
        yield queue.popleft()


def _write(job: Job, before: Picture, after: Picture) -> None:
    if job.compare is not None:
        write_picture(job.compare, side_by_side(before, after))
    write_picture(job.target, after)  # last: its being there says that the job is done


def _restore_video(job: Job, function: ArrayFunction, bar: bool) -> None:
    video = probe(job.source)
    with ExitStack() as stack:
        put = stack.enter_context(writer(job.target, video, video.width))
        both = None
        if job.compare is not None:
            both = stack.enter_context(writer(job.compare, video, 2 * video.width + 8))
        frames = read_frames(video)
        stack.callback(frames.close)
        total = video.frames or None
        for frame in tqdm(frames, total=total, unit="frame", disable=not bar, ncols=100, leave=False):
            restored = function(frame)
            put(restored)
            if both is not None:
                both(side_by_side(Picture(frame), Picture(restored)).pixels)
