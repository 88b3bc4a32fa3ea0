"""PSNR and SSIM of 8-bit images, equal to the toolbox's ``calculate_psnr`` and ``calculate_ssim`` and faster.

SSIM's window is taken apart into its two 11-tap factors, the two variances, of which only the sum is needed, share a
map, all channels go at once, and the image is worked through in tiles that stay in the processor's cache. Everything is
in double precision, so that results agree to about 1e-14.
"""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add

import cv2
import numpy as np

from unirain_plugin.errors import DataError

_TILE = 128
_THREADS = min(4, os.cpu_count() or 1)
_WORTH_THREADS = 10**6
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WEIGHTS = (65.481, 128.553, 24.966)


@dataclass(frozen=True)
class Window:
    """SSIM's window."""

    words: str  # for captions
    taps: np.ndarray  # (n, 1) float64, of sum 1: the window is the outer product of these with themselves
    # SSIM's second constant. Sample variances are n² / (n² - 1) times as large as plain ones; to have this constant
    # smaller by that factor instead gives the same quotient.
    c2: float


WINDOWS: Mapping[str, Window] = {
    "gaussian": Window("Gaussian window of 11 × 11 (σ 1.5)", cv2.getGaussianKernel(11, 1.5), _C2),
    "flat": Window("flat window of 7 × 7 (sample covariance)", np.full((7, 1), 1 / 7), _C2 * 48 / 49),
}
"""``gaussian`` is that of Wang et al. (2004), ``flat`` scikit-image's default. Smaller images have no SSIM."""


def psnr(image: np.ndarray, target: np.ndarray, epsilon: float = 0.0) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images. A DataError if the shapes differ.

    Images are (H, W, 3) or (H, W, 1) uint8, or floating in [0, 255], as :func:`luma` gives; ``epsilon`` is added to
    the mean squared error, of a range of 1.
    """
    check_sizes(image, target)
    error = cv2.norm(np.ascontiguousarray(image), np.ascontiguousarray(target), cv2.NORM_L2SQR) / image.size
    error += 255 * 255 * epsilon
    return math.inf if error == 0 else 10 * math.log10(255 * 255 / error)


def ssim(image: np.ndarray, target: np.ndarray, window: str = "gaussian", nonnegative: bool = False) -> float:
    """Structural similarity, the mean over channels; NaN where a side is shorter than the window.

    Images are as for :func:`psnr`; ``window``: a name of :data:`WINDOWS`; ``nonnegative``: take the covariance term as
    0 where it is negative.
    """
    check_sizes(image, target)
    height, width, channels = image.shape
    filtered = WINDOWS[window]
    rows, columns = height - len(filtered.taps) + 1, width - len(filtered.taps) + 1
    if min(rows, columns) < 1:
        return math.nan
    strips = range(0, rows, _TILE)
    if image.size < _WORTH_THREADS:
        sums = [_strip_sum(image, target, top, filtered, nonnegative) for top in strips]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:  # OpenCV and numpy let go of the interpreter's lock
            sums = list(pool.map(lambda top: _strip_sum(image, target, top, filtered, nonnegative), strips))
    return math.fsum(sums) / (rows * columns * channels)


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite values; infinite where all are.

    One image equal to its target has an infinite PSNR, which would hide all others. Values are added one by one, so
    that figures are the same on every Python: since 3.12 ``sum`` compensates.
    """
    finite = [value for value in values if not math.isinf(value)]
    return reduce(add, finite) / len(finite) if finite else math.inf


def luma(image: np.ndarray) -> np.ndarray:
    """Y of MATLAB's ``rgb2ycbcr`` (ITU-R BT.601, 16 to 235, not rounded), in the toolbox's float32 steps.

    (H, W, 3) uint8 RGB becomes (H, W, 1) float32 in [16, 235].
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


def _strip_sum(image: np.ndarray, target: np.ndarray, top: int, window: Window, nonnegative: bool) -> float:
    """Sum of the SSIM map over ``_TILE`` rows from ``top``."""
    tiles, scratch, border = [], {}, len(window.taps) - 1
    for left in range(0, image.shape[1] - border, _TILE):
        part = np.s_[top : top + _TILE + border, left : left + _TILE + border]
        shape = image[part].shape
        if shape not in scratch:
            scratch[shape] = np.empty((7, *shape))
        tiles.append(_tile_sum(image[part], target[part], scratch[shape], window, nonnegative))
    return math.fsum(tiles)


def _tile_sum(image: np.ndarray, target: np.ndarray, scratch: np.ndarray, window: Window, nonnegative: bool) -> float:
    """Sum of the SSIM map where the window lies inside the tile (h, w, C); ``scratch`` is (7, h, w, C) float64.

    Every step goes over the whole tile, its border included, since whole arrays are several times faster than views
    of their inner part; the border is left out of the sum.
    """
    x, y, product, mean_x, mean_y, covariance, variances = scratch
    np.copyto(x, image)
    np.copyto(y, target)
    np.multiply(x, y, out=product)
    _blur(x, mean_x, window)
    _blur(y, mean_y, window)
    _blur(product, covariance, window, 2, _C1 + window.c2)
    x *= x
    y *= y
    x += y
    _blur(x, variances, window, 1, _C1 + window.c2)
    numerator, denominator = x, y
    np.multiply(mean_x, mean_y, out=numerator)
    numerator *= 2
    numerator += _C1  # 2·μx·μy + C1
    mean_x *= mean_x
    mean_y *= mean_y
    np.add(mean_x, mean_y, out=denominator)
    denominator += _C1  # μx² + μy² + C1
    covariance -= numerator  # 2·σxy + C2
    if nonnegative:
        np.maximum(covariance, 0, out=covariance)
    variances -= denominator  # σx² + σy² + C2
    numerator *= covariance
    denominator *= variances
    numerator /= denominator
    half = len(window.taps) // 2
    return float(numerator[half : x.shape[0] - half, half : x.shape[1] - half].sum())


def _blur(tile: np.ndarray, out: np.ndarray, window: Window, factor: float = 1, offset: float = 0) -> None:
    """``out = factor · blurred tile + offset``, both (h, w, C) float64."""
    source, target = (tile, out) if tile.shape[2] > 1 else (tile[..., 0], out[..., 0])
    cv2.sepFilter2D(source, -1, window.taps, window.taps * factor, dst=target, delta=offset)


def check_sizes(image: np.ndarray, target: np.ndarray) -> None:
    """Refuse images (H, W, C) of two shapes: the DataError has both sizes."""
    if image.shape != target.shape or image.ndim != 3:
        found = ("×".join(map(str, i.shape[:2] if i.ndim == 3 else i.shape)) for i in (image, target))
        raise DataError(f"images of one size are compared; found {' and '.join(found)} (height × width).")
