"""SSIM of one image against many, batched: the values of the toolbox's ``calculate_ssim`` at a fraction of its time.

What makes it fast: float32 around each image's mean instead of float64 (values agree to 1e-5; centring keeps the
variances from cancelling), the Gaussian applied as two one-dimensional passes, everything that belongs to one image
computed once per image instead of once per pair, and a pair's arrays so small that they stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_WINDOW, _SIGMA = 11, 1.5  # the toolbox's (and the SSIM paper's) Gaussian window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MARGIN = _WINDOW // 2
_KERNEL = cv2.getGaussianKernel(_WINDOW, _SIGMA).astype(np.float32)
MIN_SIZE = _WINDOW
"""Smallest side for which a window fits."""


@dataclass(frozen=True, slots=True)
class SsimTerms:
    """What SSIM needs of one image: float32 planes; the local ones have the H − 10 rows in which the window fits.

    They keep all W columns, so that they lie in memory without gaps; the outer five on either side do not count.

    Attributes:
        centred: Pixels minus the image's mean, (H, W).
        mean: Local mean of the centred pixels.
        bright: Local mean of the pixels.
        bright2: Its square + C1 / 2.
        variance: Local variance + C2 / 2.
    """

    centred: np.ndarray
    mean: np.ndarray
    bright: np.ndarray
    bright2: np.ndarray
    variance: np.ndarray


def ssim_terms(plane: np.ndarray) -> SsimTerms:
    """Prepare a uint8 plane (H, W), H and W ≥ 11."""
    centre = np.float32(cv2.mean(plane)[0])
    centred = np.subtract(plane, centre, dtype=np.float32)
    mean = _blur(centred)
    bright = mean + centre
    bright2 = bright * bright
    bright2 += np.float32(_C1 / 2)
    variance = _blur(centred * centred, _C2 / 2)
    variance -= mean * mean
    return SsimTerms(centred, mean, bright, bright2, variance)


def ssim_one_to_many(query: SsimTerms, others: Sequence[SsimTerms]) -> np.ndarray:
    """SSIM of a plane with each of ``others`` (all of one size), float64 (n,).

    Raises:
        ValueError: If sizes differ.
    """
    if any(other.centred.shape != query.centred.shape for other in others):
        raise ValueError("SSIM needs planes of one size.")
    # In the notation of the SSIM paper, x: query, y: other, everything doubled once per query:
    twice, twice_mean, twice_bright = 2 * query.centred, 2 * query.mean, 2 * query.bright
    product, filtered = np.empty_like(query.centred), np.empty_like(query.centred)
    top = filtered[_MARGIN:-_MARGIN]
    term, low = np.empty_like(query.mean), np.empty_like(query.mean)
    counted = top[:, _MARGIN:-_MARGIN]
    values = np.empty(len(others), np.float64)
    for i, other in enumerate(others):
        np.multiply(twice, other.centred, out=product)
        cv2.sepFilter2D(product, -1, _KERNEL, _KERNEL, filtered, delta=_C2)
        np.multiply(twice_mean, other.mean, out=term)
        np.subtract(top, term, out=top)  # 2 σ_xy + C2
        np.multiply(twice_bright, other.bright, out=term)
        np.add(term, _C1, out=term)  # 2 μ_x μ_y + C1
        np.multiply(top, term, out=top)
        np.add(query.bright2, other.bright2, out=term)
        np.add(query.variance, other.variance, out=low)
        np.multiply(low, term, out=low)
        np.divide(top, low, out=top)
        values[i] = cv2.sumElems(counted)[0]
    return values / counted.size


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of two uint8 images, (H, W) or (H, W, C) with channels averaged, as ``calculate_ssim(…, crop_border=0)``."""
    first, second = np.atleast_3d(first), np.atleast_3d(second)
    if first.shape != second.shape:
        raise ValueError(f"SSIM needs images of one size; got {first.shape} and {second.shape}.")
    channels = range(first.shape[2])
    values = [ssim_one_to_many(ssim_terms(first[..., c]), [ssim_terms(second[..., c])])[0] for c in channels]
    return float(np.mean(values))


def ssim_of_pairs(
    queries: np.ndarray, rows: Sequence[np.ndarray], load: Callable[[int], np.ndarray]
) -> list[np.ndarray]:
    """SSIM of each query with references of its own, each reference prepared once however many queries share it.

    Args:
        queries: uint8 planes (n, S, S).
        rows: For each query the numbers of its references.
        load: Number → uint8 plane (S, S).

    Returns:
        For each query its values, float64, in the order of ``rows``.
    """
    terms = [ssim_terms(np.asarray(query)) for query in queries]
    values = [np.empty(len(numbers), np.float64) for numbers in rows]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for query, numbers in enumerate(rows):
        for place, number in enumerate(numbers.tolist()):
            wanted.setdefault(number, []).append((query, place))
    for number in sorted(wanted):  # in the order of the file
        pairs = wanted[number]
        found = ssim_one_to_many(ssim_terms(np.asarray(load(number))), [terms[query] for query, _ in pairs])
        for (query, place), value in zip(pairs, found, strict=True):
            values[query][place] = value
    return values


def _blur(plane: np.ndarray, more: float = 0.0) -> np.ndarray:
    """Gaussian window in the rows where it fits whole, (H − 10, W), plus a constant."""
    return cv2.sepFilter2D(plane, -1, _KERNEL, _KERNEL, delta=more)[_MARGIN:-_MARGIN]
