"""From photographs on disk to pairs in RainRAG's layout: one independent, repeatable job a pair."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.data.folders import GT_FOLDER, IMAGE_SUFFIXES, LQ_FOLDER, walk_images
from unirain_plugin.data.images import EncodedImage
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain.params import REAL_RAIN, RainParams, finer
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.variation import CHANGES, vary_colours
from unirain_plugin.support.files import is_full, write_png
from unirain_plugin.support.packages import import_own, own_code
from unirain_plugin.support.processes import map_in_processes

_REAL_SHARE = 0.8
"""Share of the pairs whose rain is of one of the kinds that real rain shows, where rain varies (our choice)."""


_SMALL_SIDE = 192
"""Shorter side of the smallest images whose rain larger windows show, pixels (our choice)."""


@dataclass(frozen=True)
class PairJob:
    """One pair to make. Its pixels depend on the photograph and on all that follows but ``output`` and ``name``."""

    photo: str  # the photograph's file
    key: str  # its name relative to the input folder, with ``/``: what the random stream is derived from
    output: str  # root of the data set
    name: str  # file name of the pair
    rain_type: str  # which rain
    index: int  # number of the pair among those of this photograph and type
    size: Sequence[int] | None  # (height, width) of the crop, or None for the whole photograph
    seed: int  # the run's seed
    vary_colours: bool  # whether the photograph is first given other colours, see :func:`vary_colours`
    # whether most of the pairs show one of the kinds of :data:`REAL_RAIN`, and some photographs are first
    # :func:`toned`, made :func:`soft`, crossed by bars (:func:`add_bars`) or :func:`compressed`
    vary_rain: bool
    # half of the pairs show rain up to this many times as large as rain of the window's size, at least 1; if it is
    # above 1 the other half rain as small as that of a window of :data:`_SMALL_SIDE`
    rain_scale: float
    dry_share: float  # share of the pairs without rain (``lq`` = ``gt``), 0 to 1: what is clean is to be left alone
    # share of those kinds' streaks by day before a darker scene, 0 to 1; the clean image keeps its light. None
    # for the kinds' own shares.
    dull_share: float | None
    # kinds of images to accept with a conversion (:data:`unirain_plugin.data.images.CONVERSIONS`)
    convert: Sequence[str]
    imports: tuple[str, ...] = ()  # modules of a user's own, which add rain types

    @property
    def paths(self) -> tuple[Path, Path]:
        """Files of the rainy and of the clean image."""
        folder = Path(self.output, self.rain_type)
        return folder / LQ_FOLDER / self.name, folder / GT_FOLDER / self.name

    def generator(self) -> np.random.Generator:
        """The pair's own random stream: independent of all other pairs, of the order and of the workers."""
        key = unicodedata.normalize("NFC", self.key)
        digest = hashlib.sha256(f"{key}\n{self.rain_type}\n{self.index}".encode("utf-8", "surrogateescape")).digest()
        return np.random.default_rng([self.seed, *np.frombuffer(digest, "<u4").tolist()])


def output_names(keys: Sequence[str]) -> list[str]:
    """Base names for photographs given by relative paths: unique, also where upper and lower case are one.

    ``a/b.jpg`` becomes ``a__b``; where two photographs would get one name, the ending is kept: ``b_jpg``, ``b_png``. If
    two names are still equal that is a DataError.
    """

    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    plain = [os.path.splitext(key)[0].replace("/", "__") for key in keys]
    counts = Counter(map(folded, plain))
    names, seen = [], {}
    for key, name in zip(keys, plain, strict=True):
        if counts[folded(name)] > 1:
            name = f"{name}_{os.path.splitext(key)[1][1:]}"
        other = seen.setdefault(folded(name), key)
        if other != key:
            raise DataError(f"{key} and {other} would both be written as '{name}'; rename one of them.")
        names.append(name)
    return names


def list_images(what: str, folder: Path, least: int = 1) -> list[Path]:
    """The images below a folder, sorted; a DataError names ``what`` if it is missing or holds fewer than ``least``."""
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{what}: {folder}: {reason}; expected a folder of photographs.")
    found = [folder / name for name in sorted(walk_images(folder))]
    if not found:
        raise DataError(
            f"{what}: {folder}: holds no photographs; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    if len(found) < least:
        raise DataError(f"{what}: {folder}: holds {len(found)} image(s); at least {least} are needed.")
    return found


def read_photo(path: str | os.PathLike, convert: Collection[str] = ()) -> np.ndarray:
    """Read a colour photograph, (H, W, 3) uint8 RGB, upright; DataError if it cannot be, see ``EncodedImage``."""
    image = EncodedImage(read_file(os.fspath(path)), str(path), convert)
    return cv2.cvtColor(image.decode(), cv2.COLOR_BGR2RGB)


_cached_photo = lru_cache(maxsize=1)(read_photo)


def cut(photo: np.ndarray, size: Sequence[int] | None, rng: np.random.Generator) -> np.ndarray:
    """Cut a random window of ``size`` out of a photograph that is first shrunk by a random factor.

    The factor lies log-uniformly between 1 (a detail at full sharpness) and the one at which the window just fits. A
    photograph smaller than the window is a DataError; images are never enlarged.
    """
    if size is None:
        return photo
    height, width = photo.shape[:2]
    if height < size[0] or width < size[1]:
        raise DataError(f"the photograph has {height}×{width} pixels, less than --size {size[0]} {size[1]}.")
    smallest = max(size[0] / height, size[1] / width)
    factor = float(np.exp(rng.uniform(np.log(smallest), 0)))
    shape = max(round(width * factor), size[1]), max(round(height * factor), size[0])
    if shape != (width, height):
        photo = cv2.resize(photo, shape, interpolation=cv2.INTER_AREA)
    return photo[_window(photo, size, rng)]


def make_pair(job: PairJob) -> None:
    """Render one pair and write both files, each by an atomic rename; the rainy file, written last, completes it."""
    photo = _cached_photo(job.photo, tuple(job.convert))
    rng = job.generator()
    try:
        size, factor = _frame_size(photo, job, rng)
        frame = cut(photo, size, rng)
        frame = vary_colours(frame, rng) if job.vary_colours else frame
        varied = job.vary_rain or job.dry_share > 0
        real, dry = rng.random(2) < (_REAL_SHARE * job.vary_rain, job.dry_share) if varied else (False, False)
        if job.vary_rain:
            for change, share in CHANGES.items():
                frame = change(frame, rng) if rng.random() < share else frame
        with own_code(f"the renderer of '{job.rain_type}'", str(job.photo), OptionError):
            params = _real_rain(job, rng) if real else None
            params = finer(params or RainParams(), factor) if factor != 1 else params
            pair = render_rain(frame, job.rain_type, rng, params)
    except DataError as error:
        raise DataError(f"{job.photo}: {error}") from None
    window = _window(frame, job.size, rng)
    lq, gt = job.paths
    write_png(gt, pair.gt[window][..., ::-1])
    write_png(lq, (pair.gt if dry else pair.lq)[window][..., ::-1])


def _real_rain(job: PairJob, rng: np.random.Generator) -> RainParams:
    kinds = REAL_RAIN.get(job.rain_type, (RainParams(),))
    params = kinds[rng.integers(len(kinds))]
    dark = params.camera.dark_share if job.dull_share is None else job.dull_share
    return replace(params, camera=replace(params.camera, dark_share=dark))


def _frame_size(photo: np.ndarray, job: PairJob, rng: np.random.Generator) -> tuple[Sequence[int] | None, float]:
    """Size of the image to render, of which the pair is a window, and how large its rain is for that size.

    Rain grows with the image that it falls on. A window of a larger image shows larger rain than its own.
    """
    if job.size is None or job.rain_scale == 1:
        return job.size, 1.0
    if rng.random() < 0.5:
        return job.size, float(np.exp(rng.uniform(min(np.log(_SMALL_SIDE / min(job.size)), 0), 0)))
    largest = min(job.rain_scale, *(have / want for have, want in zip(photo.shape, job.size, strict=False)))
    scale = float(np.exp(rng.uniform(0, np.log(max(largest, 1)))))
    return (round(scale * job.size[0]), round(scale * job.size[1])), 1.0


def _window(frame: np.ndarray, size: Sequence[int] | None, rng: np.random.Generator) -> tuple[slice, slice]:
    size = size or frame.shape[:2]
    starts = [int(rng.integers(0, have - want + 1)) for have, want in zip(frame.shape, size, strict=False)]
    return slice(starts[0], starts[0] + size[0]), slice(starts[1], starts[1] + size[1])


def _attempt(job: PairJob) -> tuple[PairJob, str]:
    """Make a pair; a bad photograph comes back as its message, so that the caller decides what to do."""
    import_own(job.imports)  # a worker process knows none of them yet
    try:
        make_pair(job)
    except DataError as error:
        if is_full(error):
            raise
        return job, str(error)
    return job, ""


def make_pairs(jobs: Sequence[PairJob], workers: int) -> Iterable[tuple[PairJob, str]]:
    """Make all pairs, in ``workers`` processes (else DataError); yields each job with its error message or none."""
    return map_in_processes(_attempt, jobs, workers, chunk=1, or_else=" or a --size")
