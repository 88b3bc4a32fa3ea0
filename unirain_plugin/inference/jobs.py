"""The files of a run, and their restoration: read ahead and written behind in threads while the network computes."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unirain_plugin.data.folders import IMAGE_SUFFIXES, UNWRITTEN, walk_files
from unirain_plugin.errors import DataError
from unirain_plugin.inference.images import StoredImage, read_image, side_by_side, write_image
from unirain_plugin.support.files import is_full
from unirain_plugin.support.packages import own_place

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts",
)  # fmt: skip
_KEPT_CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")  # those that can hold H.264; other videos become Matroska
PIXEL_FORMATS = ("keep", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
"""What videos can be written as; ``keep``: the source's chroma sampling, and 10 bits if it has more than 8."""


@dataclass(frozen=True)
class VideoSettings:
    """How videos are restored."""

    deinterlace: bool = False  # whether interlaced frames are made whole before they are restored
    pixel_format: str = "keep"  # one of :data:`PIXEL_FORMATS`
    damaged: bool = False  # whether what can be decoded of a damaged source is restored; else it is refused
    at_once: int = 1  # how many frames are restored at the same time, at most, by threads of their own
    # what results depend on besides the source, as JSON can tell it: a run that was killed goes on where it is the
    # same. None: nothing is kept of a run that was killed.
    made_from: object = None


@dataclass(frozen=True)
class Job:
    """One image or video."""

    source: Path
    target: Path  # where the restored one goes
    compare: Path | None  # where the side-by-side one goes
    is_video: bool

    def outputs(self) -> list[Path]:
        return [self.target] if self.compare is None else [self.target, self.compare]


@dataclass(frozen=True)
class Plan:
    """The jobs of a run, the files that are neither images nor videos, and (folder, reason) of those not searched."""

    jobs: list[Job]
    other_files: list[Path]
    unlisted: list[tuple[str, str]]


def plan_jobs(source: Path, output: Path, image_format: str = "keep", compare: bool = False) -> Plan:
    """Find the files; a folder is searched with its subfolders (but not the output), which the output mirrors.

    ``image_format``: ``keep`` or the suffix (without dot) that all results get; ``compare``: whether side-by-side
    images are wanted, in ``output/compare``. A DataError if the output is no folder, there is nothing to restore, a
    result would overwrite a source, or two files would be written to the same name.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: the output must be a folder, this is a file.")
    if output.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not output.exists():
        raise DataError(f"{output}: the output must be a folder, this is the name of an image or video.")
    unlisted: list[tuple[str, str]] = []
    if source.is_dir():
        files = sorted(source / name for name in walk_files(source, unlisted, output))
        root = source
    elif source.is_file():
        files, root = [source], source.parent
    else:
        raise DataError(f"{source}: there is no such file or folder.")
    jobs = [job for path in files if (job := _job(path, root, output, image_format, compare))]
    others = [path for path in files if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    if not jobs:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        what = f"it holds no image or video ({len(others)} other files)" if source.is_dir() else "unsupported file"
        what += "".join(f"; {folder} {reason}" for folder, reason in unlisted)
        raise DataError(f"{source}: {what}; supported: {known}.")
    _refuse_collisions(jobs)
    return Plan(jobs, others, unlisted)


def _job(path: Path, root: Path, output: Path, image_format: str, compare: bool) -> Job | None:
    suffix, name = path.suffix.lower(), path.relative_to(root)
    if suffix in VIDEO_SUFFIXES:
        name = name if suffix in _KEPT_CONTAINERS else name.with_suffix(".mkv")
    elif suffix not in IMAGE_SUFFIXES:
        return None
    elif image_format != "keep" or suffix in UNWRITTEN:
        name = name.with_suffix(f".{image_format.replace('keep', 'png')}")
    beside = output / "compare" / name if compare else None
    return Job(path, output / name, beside, suffix in VIDEO_SUFFIXES)


def _refuse_collisions(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs():
            if path.resolve() in sources:
                which = "its" if path.resolve() == job.source.resolve() else "another"
                raise DataError(
                    f"{job.source}: the result {path} would overwrite {which} source; choose another output folder."
                )
            other = taken.setdefault(path.resolve(), job.source)
            if other != job.source:
                raise DataError(f"{other} and {job.source} would both be written to {path}; rename one of them.")


_AHEAD = 3  # images read ahead and, again, waiting to be written: bounds the memory, and hides the coding

ArrayFunction = Callable[[np.ndarray], np.ndarray]


@dataclass
class Outcome:
    """What became of a run."""

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)  # files whose results were there
    failed: list[tuple[Path, str]] = field(default_factory=list)  # (file, reason)
    lost: dict[str, list[Path]] = field(default_factory=dict)  # what of a file's data is not in its result → the files
    notes: list[tuple[Path, str]] = field(default_factory=list)  # (file, what of it is lost or was changed)


def restore_files(
    jobs: Sequence[Job],
    function: ArrayFunction,
    overwrite: bool = False,
    bar: bool = True,
    videos: VideoSettings | None = None,
) -> Outcome:
    """Restore every file (``overwrite``: also with a result); a broken one is noted and the others go on.

    ``function`` maps an array (H, W, C) uint8 or uint16 to one of the same shape and type.
    """
    outcome = Outcome()
    todo = []
    for job in jobs:
        if overwrite or not job.target.is_file():
            todo.append(job)
        elif all(path.is_file() for path in job.outputs()):
            outcome.skipped.append(job.source)
        else:
            reason = f"{job.target} is there, without its side-by-side image; --overwrite makes both anew"
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

        for job, image in _read_ahead(todo, readers):
            progress.set_postfix_str(job.source.name[-40:])
            try:
                if job.is_video:
                    notes = _restore_video(job, function, bar, videos or VideoSettings())
                    outcome.notes += [(job.source, note) for note in notes]
                    written = writers.submit(tuple)
                else:
                    before = image.result()
                    written = writers.submit(_write, job, before, before.with_pixels(function(before.pixels)))
            except Exception as error:  # whatever is wrong with one file, the others are to be restored
                written = Future()
                written.set_exception(error)
            waiting.append((job, written))
            while len(waiting) > _AHEAD:
                finish(*waiting.popleft())
        while waiting:
            finish(*waiting.popleft())
    return outcome


def _note(outcome: Outcome, job: Job, result: Future) -> None:
    try:
        for what in result.result():
            outcome.lost.setdefault(what, []).append(job.source)
        outcome.done.append(job.source)
    except Exception as error:  # as above
        if is_full(error):
            raise
        place = own_place(error)
        text = f"{type(error).__name__}: {error}{place}" if place else str(error) or type(error).__name__
        outcome.failed.append((job.source, text.removeprefix(f"{job.source}: ")))


def _read_ahead(jobs: Sequence[Job], readers: ThreadPoolExecutor) -> Iterator[tuple[Job, Future | None]]:
    queue: deque[tuple[Job, Future | None]] = deque()
    for job in jobs:
        queue.append((job, None if job.is_video else readers.submit(read_image, job.source)))
        if len(queue) > _AHEAD:
            yield queue.popleft()
    while queue:
        yield queue.popleft()


def _write(job: Job, before: StoredImage, after: StoredImage) -> tuple[str, ...]:
    problem = None
    if job.compare is not None:
        try:
            write_image(job.compare, side_by_side(before, after))
        except DataError as error:  # twice as wide as the result, which the format may still take
            if is_full(error):
                raise
            problem = error
    lost = write_image(job.target, after)  # last: its being there says that the job is done
    if problem is not None:
        raise DataError(f"{job.target} is written, its side-by-side image is not: {problem}") from problem
    return lost


def _restore_video(job: Job, function: ArrayFunction, bar: bool, settings: VideoSettings) -> list[str]:
    try:
        from unirain_plugin.inference.video import restore_video
    except ImportError as error:
        raise DataError(f"{job.source}: videos need PyAV: pip install av ({error}).") from None
    return restore_video(job, function, bar, settings)
