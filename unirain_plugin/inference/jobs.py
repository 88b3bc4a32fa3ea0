"""What is to be restored: from the command line's input to a list of files with their targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unirain_plugin.data.folders import IMAGE_SUFFIXES, UNWRITTEN, walk_files
from unirain_plugin.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts")
_KEPT_CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")
PIXEL_FORMATS = ("keep", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
"""What videos can be written as; ``keep``: the source's chroma sampling, and 10 bits if it has more than 8."""


@dataclass(frozen=True)
class VideoSettings:
    """How videos are restored.

    Attributes:
        deinterlace: Whether interlaced frames are made whole before they are restored.
        pixel_format: One of :data:`PIXEL_FORMATS`.
        damaged: Whether what can be decoded of a damaged source is restored; else it is refused.
        at_once: How many frames are restored at the same time, at most, by threads of their own.
        made_from: What results depend on besides the source, as JSON can tell it: a run that was killed goes on where
            it is the same. None: nothing is kept of a run that was killed.
    """

    deinterlace: bool = False
    pixel_format: str = "keep"
    damaged: bool = False
    at_once: int = 1
    made_from: object = None


def video_target(path: Path) -> Path:
    """The name of the restored video: H.264 in the same container where it can hold it, else in Matroska."""
    return path if path.suffix.lower() in _KEPT_CONTAINERS else path.with_suffix(".mkv")


@dataclass(frozen=True)
class Job:
    """One file.

    Attributes:
        source: The picture or video.
        target: Where the restored one goes.
        compare: Where the side-by-side one goes, or None.
        is_video: Whether it is a video.
    """

    source: Path
    target: Path
    compare: Path | None
    is_video: bool

    def is_done(self) -> bool:
        """Whether everything that it would write is there."""
        return all(path.is_file() for path in self.outputs())

    def outputs(self) -> list[Path]:
        """The files that it would write."""
        return [self.target] if self.compare is None else [self.target, self.compare]


@dataclass(frozen=True)
class Plan:
    """The jobs of a run, the files that are neither pictures nor videos, and (folder, reason) of those not searched."""

    jobs: list[Job]
    other_files: list[Path]
    unlisted: list[tuple[str, str]]


def plan_jobs(source: Path, output: Path, picture_format: str = "keep", compare: bool = False) -> Plan:
    """Find the files; a folder is searched with its subfolders, which the output mirrors.

    Args:
        source: A picture, a video, or a folder.
        output: The folder for results; it may lie inside ``source``, and is not searched then.
        picture_format: ``keep`` or the suffix (without dot) that all results get.
        compare: Whether side-by-side pictures are wanted, in ``output/compare``.

    Raises:
        DataError: If the output is no folder, the source is missing or unsupported, the folder holds no picture, a
            result would overwrite a source, or two files would be written to the same name.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: the output must be a folder, this is a file.")
    if output.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not output.exists():
        raise DataError(f"{output}: the output must be a folder, this is the name of a picture or video.")
    unlisted: list[tuple[str, str]] = []
    if source.is_dir():
        files = sorted(source / name for name in walk_files(source, unlisted, output))
        root = source
    elif source.is_file():
        files, root = [source], source.parent
    else:
        raise DataError(f"{source}: there is no such file or folder.")
    jobs = [job for path in files if (job := _job(path, root, output, picture_format, compare))]
    others = [path for path in files if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    if not jobs:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        what = f"it holds no picture or video ({len(others)} other files)" if source.is_dir() else "unsupported file"
        what += "".join(f"; {folder} {reason}" for folder, reason in unlisted)
        raise DataError(f"{source}: {what}; supported: {known}.")
    _refuse_collisions(jobs)
    return Plan(jobs, others, unlisted)


def _job(path: Path, root: Path, output: Path, picture_format: str, compare: bool) -> Job | None:
    suffix, name = path.suffix.lower(), path.relative_to(root)
    if suffix in VIDEO_SUFFIXES:
        name = video_target(name)
    elif suffix not in IMAGE_SUFFIXES:
        return None
    elif picture_format != "keep" or suffix in UNWRITTEN:
        name = name.with_suffix(f".{picture_format.replace('keep', 'png')}")
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
