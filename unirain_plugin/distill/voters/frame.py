"""What the default voters look at: the middle of a pair at a bounded size, as luma planes and a pyramid of them."""

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.distill.records import luminance, shared_luminance

MAX_SIDE = 640
"""Largest side of the window that is measured, pixels; its cost must not grow with the image (our choice)."""
REDUCE_ABOVE = 1152
"""Images whose shorter side is longer are first reduced by a whole factor: 4K holds no detail at pixel level."""
MIN_SIDE = 64  # below this there are too few blocks to tell anything; the voters abstain
LEVELS = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """The measured window of a pair."""

    lq: np.ndarray  # rainy image, uint8 RGB (H, W, 3)
    gt: np.ndarray  # clean image, likewise
    lq_luma: list[np.ndarray]  # pyramid of the rainy luma planes, uint8: full, half, quarter, eighth
    gt_luma: list[np.ndarray]  # the same of the clean one
    factor: int  # pixels of the file for one pixel of the window
    lq_detail: np.ndarray  # fine detail of the rainy luma in blocks of 8² pixels (:func:`fine_detail`)
    gt_detail: np.ndarray  # the same of the clean one


def make_frame(lq: np.ndarray, gt: np.ndarray) -> Frame | None:
    """Cut and reduce a pair of uint8 RGB images of one size; None if they are smaller than :data:`MIN_SIDE`."""
    if min(lq.shape[:2]) < MIN_SIDE:
        return None
    factor = 1 if min(lq.shape[:2]) <= REDUCE_ABOVE else round(min(lq.shape[:2]) / (REDUCE_ABOVE // 2))
    windows = [window(image, factor) for image in (lq, gt)]
    if factor == 1:
        lumas = [_pyramid(window(shared_luminance(image))) for image in (lq, gt)]
    else:
        lumas = [_pyramid(luminance(image)) for image in windows]
    return Frame(*windows, *lumas, factor, *(fine_detail(planes[0]) for planes in lumas))


def window(image: np.ndarray, factor: int = 1) -> np.ndarray:
    """The middle of an image, (≤ 640, ≤ 640, C), reduced by a whole factor."""
    height, width = (min(side, MAX_SIDE * factor) // factor * factor for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    part = image[top : top + height, left : left + width]
    if factor > 1:
        return cv2.resize(part, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(part)


def _pyramid(plane: np.ndarray) -> list[np.ndarray]:
    planes = [plane]
    for _ in range(LEVELS - 1):
        last = planes[-1]
        planes.append(cv2.resize(last, (last.shape[1] // 2, last.shape[0] // 2), interpolation=cv2.INTER_AREA))
    return planes


def block_means(plane: np.ndarray, size: int) -> np.ndarray:
    """Means over blocks of ``size``² pixels, float32; an incomplete last row or column of blocks is left out."""
    height, width = (side // size * size for side in plane.shape)
    part = plane[:height, :width]
    if part.dtype == np.uint8:  # sums of rows first: integers are added faster than they are converted
        rows = part.reshape(height // size, size, width).sum(axis=1, dtype=np.uint16).astype(np.float32)
        return cv2.resize(rows, (width // size, height // size), interpolation=cv2.INTER_AREA) / np.float32(size)
    return cv2.resize(part, (width // size, height // size), interpolation=cv2.INTER_AREA)


def quantile(values: np.ndarray, share: float) -> float:
    """The quantile of an array by linear interpolation, as ``numpy.quantile`` but in a fraction of its time."""
    position = share * (values.size - 1)
    low = int(position)
    high = min(low + 1, values.size - 1)
    parted = np.partition(values, (low, high), axis=None)
    return float(parted[low]) + (position - low) * (float(parted[high]) - float(parted[low]))


def fine_detail(plane: np.ndarray) -> np.ndarray:
    """Mean absolute Laplacian of a uint8 plane in blocks of 8² pixels, float32."""
    return block_means(cv2.convertScaleAbs(cv2.Laplacian(plane, cv2.CV_16S)), 8)


def high_pass(plane: np.ndarray, size: int = 9) -> np.ndarray:
    """A plane without its local mean over ``size``² pixels, float32."""
    plane = plane.astype(np.float32)
    return plane - cv2.blur(plane, (size, size))
