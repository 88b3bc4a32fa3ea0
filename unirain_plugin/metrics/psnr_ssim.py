"""PSNR and SSIM of 8-bit images, equal to the toolbox's ``calculate_psnr`` and ``calculate_ssim`` and faster.

The toolbox filters SSIM's five maps with an 11 × 11 window over the whole image, a channel at a time. Here the window
is taken apart into its two 11-tap factors (it is an outer product), the two variances, of which only the sum is needed,
share a map, all channels go at once, and the image is worked through in tiles that stay in the processor's cache.
Everything is in double precision, so that results agree to about 1e-14.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from unirain_plugin.errors import DataError

WINDOW = 11
"""Side of SSIM's Gaussian window (σ 1.5): the smallest image that has an SSIM."""

_TILE = 128
_THREADS = min(4, os.cpu_count() or 1)
_WORTH_THREADS = 10**6
_KERNEL = cv2.getGaussianKernel(WINDOW, 1.5)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WEIGHTS = (65.481, 128.553, 24.966)


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Args:
        image: (H, W, 3) or (H, W, 1) uint8; or floating in [0, 255], as :func:`luma` gives it.
        target: Of the same shape and type.

    Raises:
        DataError: If the shapes differ.
    """
    _check(image, target)
    error = cv2.norm(np.ascontiguousarray(image), np.ascontiguousarray(target), cv2.NORM_L2SQR) / image.size
    return math.inf if error == 0 else 10 * math.log10(255 * 255 / error)


def ssim(image: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity, the mean over channels; NaN where a side is shorter than the window.

    Args:
        image: As for :func:`psnr`.
        target: Likewise.

    Raises:
        DataError: If the shapes differ.
    """
    _check(image, target)
    height, width, channels = image.shape
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    if min(rows, columns) < 1:
        return math.nan
    strips = range(0, rows, _TILE)
    if image.size < _WORTH_THREADS:
        sums = [_strip_sum(image, target, top) for top in strips]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:  # OpenCV and numpy let go of the interpreter's lock
            sums = list(pool.map(lambda top: _strip_sum(image, target, top), strips))
    return math.fsum(sums) / (rows * columns * channels)


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite values; infinite where all are.

    One image equal to its target has an infinite PSNR, which would hide all others; a cap of our choice would weigh
    more than they do. So the mean is over the others, and whoever prints it says how many were left out.
    """
    finite = [value for value in values if not math.isinf(value)]
    return sum(finite) / len(finite) if finite else math.inf


def luma(image: np.ndarray) -> np.ndarray:
    """Y of MATLAB's ``rgb2ycbcr`` (ITU-R BT.601, 16 to 235, not rounded), in the toolbox's float32 steps.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 1) float32 in [16, 235].
    """
    levels = (np.arange(256, dtype=np.float32) / 255).astype(np.float64)
    red, green, blue = (
        cv2.LUT(plane, levels * weight) for plane, weight in zip(cv2.split(image), _WEIGHTS, strict=True)
    )
    blue += green
    blue += red
    blue += 16.0
    blue /= 255.0
    return (blue.astype(np.float32) * np.float32(255))[..., None]


def _strip_sum(image: np.ndarray, target: np.ndarray, top: int) -> float:
    """Sum of the SSIM map over ``_TILE`` rows from ``top``."""
    tiles, scratch = [], {}
    for left in range(0, image.shape[1] - WINDOW + 1, _TILE):
        window = np.s_[top : top + _TILE + WINDOW - 1, left : left + _TILE + WINDOW - 1]
        shape = image[window].shape
        if shape not in scratch:
            scratch[shape] = np.empty((7, *shape))
        tiles.append(_tile_sum(image[window], target[window], scratch[shape]))
    return math.fsum(tiles)


def _tile_sum(image: np.ndarray, target: np.ndarray, scratch: np.ndarray) -> float:
    """Sum of the SSIM map where the window lies inside the tile (h, w, C); ``scratch`` is (7, h, w, C) float64.

    Every step goes over the whole tile, its border included, since whole arrays are several times faster than views
    of their inner part; the border is left out of the sum.
    """
    x, y, product, mean_x, mean_y, covariance, variances = scratch
    np.copyto(x, image)
    np.copyto(y, target)
    np.multiply(x, y, out=product)
    _blur(x, mean_x)
    _blur(y, mean_y)
    _blur(product, covariance, 2, _C1 + _C2)
    x *= x
    y *= y
    x += y
    _blur(x, variances, 1, _C1 + _C2)
    numerator, denominator = x, y
    np.multiply(mean_x, mean_y, out=numerator)
    numerator *= 2
    numerator += _C1  # 2·μx·μy + C1
    mean_x *= mean_x
    mean_y *= mean_y
    np.add(mean_x, mean_y, out=denominator)
    denominator += _C1  # μx² + μy² + C1
    covariance -= numerator  # 2·σxy + C2
    variances -= denominator  # σx² + σy² + C2
    numerator *= covariance
    denominator *= variances
    numerator /= denominator
    half = WINDOW // 2
    return float(numerator[half : x.shape[0] - half, half : x.shape[1] - half].sum())


def _blur(tile: np.ndarray, out: np.ndarray, factor: float = 1, offset: float = 0) -> None:
    """``out = factor · blurred tile + offset``, both (h, w, C) float64."""
    source, target = (tile, out) if tile.shape[2] > 1 else (tile[..., 0], out[..., 0])
    cv2.sepFilter2D(source, -1, _KERNEL, _KERNEL * factor, dst=target, delta=offset)


def _check(image: np.ndarray, target: np.ndarray) -> None:
    if image.shape != target.shape or image.ndim != 3:
        raise DataError(f"images of one size are compared; found {_size(image)} and {_size(target)} (height × width).")


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape[:2] if image.ndim == 3 else image.shape))
