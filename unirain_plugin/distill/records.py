"""What passes through the pipeline: images, references, candidates, retrieved references, votes; and its errors."""

import functools
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError, UniRainError


class DistillError(UniRainError, RuntimeError):
    """The pipeline cannot go on; finished shards are kept and a rerun continues from them."""


class ServiceError(DistillError):
    """A server or a model that a part depends on is missing, down, refuses the key, or does not know the model."""


T = TypeVar("T")


def decode_rgb(data: bytes, path: Path, convert: Collection[str] = CONVERSIONS) -> np.ndarray:
    """Decode a whole file to uint8 RGB (H, W, 3), accepting ``convert``; DataError that names ``path`` if bad."""
    encoded = EncodedImage(data, str(path), convert)
    try:
        image = encoded.decode_rows(encoded.height)  # faster with the extra `speed`
    except DataError:
        image = encoded.decode()  # the words do not depend on what is installed
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_rgb(path: Path, convert: Collection[str] = CONVERSIONS) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3); a DataError if it is missing, or as :func:`decode_rgb`."""
    return decode_rgb(read_file(str(path)), path, convert)


def check_same_size(lq: np.ndarray, gt: np.ndarray, lq_path: Path, gt_path: Path) -> None:
    """Refuse a pair of different sizes: a DataError with both files and sizes."""
    if lq.shape != gt.shape:
        sizes = (f"{image.shape[1]}×{image.shape[0]}" for image in (lq, gt))
        found = f"{lq_path} is {next(sizes)} but its ground truth {gt_path} is {next(sizes)}"
        raise DataError(f"{found}; a pair must have one size.")


def remembered(function: Callable[[np.ndarray], T]) -> Callable[[np.ndarray], T]:
    """Have a function of one array, not to be changed in place, keep its answers as long as the array lives."""
    known: dict[int, tuple[weakref.ref, T]] = {}

    @functools.wraps(function)
    def ask(image: np.ndarray) -> T:
        key = id(image)
        entry = known.get(key)
        if entry is not None and entry[0]() is image:
            return entry[1]
        answer = function(image)
        known[key] = weakref.ref(image, lambda _: known.pop(key, None)), answer
        return answer

    return ask


def luminance(image: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of uint8 RGB (H, W, 3) as uint8 (H, W)."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


shared_luminance = remembered(luminance)  # the same, computed once for each image


def thumbnail(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an image (H, W[, C]) to (size, size[, C]), the aspect ratio given up; shrunk by area averaging."""
    shrinks = image.shape[0] >= size and image.shape[1] >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image whose longer side has more than ``side`` pixels to that, the aspect ratio kept."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def writable(text: str) -> str:
    """A text without halves of characters (which JSON can escape): they cannot be written to a file."""
    return text.encode("utf-8", "replace").decode()


@dataclass(slots=True)
class Reference:
    """A real rainy image without label or ground truth (the paper's r ∈ D_r)."""

    id: str  # unique name within the reference set; in ties the reference that is listed first wins
    path: Path
    rain_type: str | None = None  # its type where known (measures retrieval; no decision uses it)
    caption: str | None = None  # T_r, once the describing stage is done
    # voter name → what that voter's ``measure_reference`` found
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    _image: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> np.ndarray:
        """The rainy image, uint8 RGB (H, W, 3); read on first use, errors as :func:`read_rgb`."""
        if self._image is None:
            self._image = read_rgb(self.path)
        return self._image

    def release(self) -> None:
        self._image = None


@dataclass(slots=True)
class Candidate:
    """A labelled pair of a public data set (the paper's q with its ground truth)."""

    id: str  # unique name within the candidate manifest
    lq_path: Path
    gt_path: Path  # clean image of the same size
    rain_type: str  # one of the rain types, ``drs`` for example
    source: str  # its data set
    caption: str | None = None  # T_q, once the describing stage is done
    convert: tuple[str, ...] = ()  # kinds of images to accept with a conversion
    _lq: np.ndarray | None = field(default=None, repr=False, compare=False)
    _gt: np.ndarray | None = field(default=None, repr=False, compare=False)
    _derived: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lq(self) -> np.ndarray:
        """The rainy image, uint8 RGB (H, W, 3); read on first use, errors as :func:`read_rgb`."""
        if self._lq is None:
            self._lq = read_rgb(self.lq_path, self.convert)
        return self._lq

    @property
    def gt(self) -> np.ndarray:
        """The clean image likewise, of the size of ``lq`` (:func:`check_same_size`)."""
        if self._gt is None:
            image = read_rgb(self.gt_path, self.convert)
            check_same_size(self.lq, image, self.lq_path, self.gt_path)
            self._gt = image
        return self._gt

    def preload(self, lq: np.ndarray, gt: np.ndarray) -> None:
        self._lq, self._gt = lq, gt

    def derived(self, key: str, compute: Callable[["Candidate"], Any]) -> Any:
        """A result shared by several parts (luminance planes, say): computed once, dropped by :meth:`release`."""
        if key not in self._derived:
            self._derived[key] = compute(self)
        return self._derived[key]

    def release(self) -> None:
        self._lq = self._gt = None
        self._derived.clear()


@dataclass(slots=True)
class Retrieved:
    """A reference that the cascade returned, with the similarities of the three levels (paper §2)."""

    reference: Reference
    s_txt: float  # ‖φ_T(T_q) − φ_T(T_r)‖₂, smaller is nearer
    s_vis: float  # cosine of the visual features, −1 to 1
    s_perc: float  # SSIM at the working size, −1 to 1; the list is sorted by it, best first


@dataclass(slots=True)
class VoteTask:
    """One question to a voter: the candidate, its retrieved references S(q), and what was measured before."""

    candidate: Candidate  # the pair; its images are read only if the voter touches them
    retrieved: list[Retrieved]  # S(q), best first; never empty
    # voter name → what that voter's ``measure`` found on this candidate; a voter may also read the others'
    measurements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Vote:
    """A voter's answer R^i."""

    voter: str
    verdict: bool | None  # True: a realistic, useful training sample; False: not; None: the voter abstains or failed
    reason: str  # why, in words
    # whatever JSON can hold: the figures behind the verdict, a model's raw reply, ``failure`` after one
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"voter": self.voter, "verdict": self.verdict, "reason": self.reason, "details": self.details}
