"""Reading images for the pipeline, and the thumbnails of the structural level."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.distill.errors import UnreadableImageError
from unirain_plugin.distill.fast_png import decode_png
from unirain_plugin.errors import DataError

T = TypeVar("T")


def read_file(path: Path) -> bytes:
    """Read a file's bytes.

    Raises:
        UnreadableImageError: If it is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_rgb(data: bytes, path: Path, convert: Collection[str] = CONVERSIONS) -> np.ndarray:
    """Decode a whole image file to uint8 RGB (H, W, 3).

    Args:
        data: The file's bytes.
        path: The file, for messages.
        convert: Kinds of images to accept with a conversion (grey, 16 bits, …).

    Raises:
        UnreadableImageError: If the bytes are empty, truncated, no image, or of a kind that is not accepted.
    """
    try:
        encoded = EncodedImage(data, str(path), convert)
        image = decode_png(data, encoded.header) if encoded.header is not None else None
        return cv2.cvtColor(encoded.decode(), cv2.COLOR_BGR2RGB) if image is None else image
    except DataError as error:
        raise UnreadableImageError(str(error)) from error


def read_rgb(path: Path, convert: Collection[str] = CONVERSIONS) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3).

    Raises:
        UnreadableImageError: As :func:`read_file` and :func:`decode_rgb`.
    """
    return decode_rgb(read_file(path), path, convert)


def check_same_size(lq: np.ndarray, gt: np.ndarray, lq_path: Path, gt_path: Path) -> None:
    """Refuse a pair of different sizes.

    Raises:
        UnreadableImageError: Naming both files and sizes.
    """
    if lq.shape != gt.shape:
        raise UnreadableImageError(
            f"{lq_path} is {lq.shape[1]}×{lq.shape[0]} but its ground truth {gt_path} is {gt.shape[1]}×{gt.shape[0]}; "
            "a pair must have one size."
        )


def remembered(function: Callable[[np.ndarray], T]) -> Callable[[np.ndarray], T]:
    """Have a function of one array keep its answers as long as the array lives: several parts ask about one picture.

    The array must not be changed in place between two questions.
    """
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


shared_luminance = remembered(luminance)
"""The same, computed once for each picture."""


def thumbnail(luma: np.ndarray, size: int) -> np.ndarray:
    """Shrink (or enlarge) a luma plane (H, W) to (size, size), the aspect ratio given up, by area averaging."""
    shrinks = luma.shape[0] >= size and luma.shape[1] >= size
    return cv2.resize(luma, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
