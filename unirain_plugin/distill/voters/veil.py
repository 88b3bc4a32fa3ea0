"""Haze and snow veil a whole scene; the voters then compare the rainy image with the clean one under the same veil."""

import cv2
import numpy as np

HAZE = "haze"
VEILED = frozenset({HAZE, "snow"})  # rain types whose rainy images may be veiled all over
_GAMMA = 2.2
_LINEAR = ((np.arange(256) / 255) ** _GAMMA).astype(np.float32)
_ROUNDS = 3
_FLAKE = 0.02  # light beyond the veil from which a pixel counts as a flake's, which says nothing about the veil
_FLAT = 1e-5  # variance of light below which a window shows no contrast to measure


def veiled(lq: np.ndarray, gt: np.ndarray) -> tuple[np.ndarray, float]:
    """Put the veil of the rainy image over the clean one, both uint8 RGB (H, W, 3); and the veil's mean opacity 1 − t.

    The veil is Koschmieder's: rainy = t · clean + (1 − t) · airlight in linear light, with 0 ≤ t ≤ 1 and an airlight
    that vary slowly over the image. Both are fitted by least squares in windows of a quarter of the shorter side, over
    the pixels that no flake covers.
    """
    rainy, clean = _LINEAR[lq], _LINEAR[gt]
    side = 2 * (min(lq.shape[:2]) // 8) + 1
    grey_rainy, grey_clean = rainy.mean(axis=2), clean.mean(axis=2)
    weight = np.ones(lq.shape[:2], np.float32)
    for _ in range(_ROUNDS):
        total = _mean(weight, side) + 1e-3
        x, y = _mean(weight * grey_clean, side) / total, _mean(weight * grey_rainy, side) / total
        spread = _mean(weight * grey_clean**2, side) / total - x * x
        common = _mean(weight * grey_clean * grey_rainy, side) / total - x * y
        transmission = np.clip(_mean(common, side) / (_mean(spread, side) + _FLAT), 0, 1)
        rest = weight[..., None] * (rainy - transmission[..., None] * clean)
        light = np.maximum(_mean(rest, side) / total[..., None], 0)
        under = transmission[..., None] * clean + light
        weight = (grey_rainy - under.mean(axis=2) < _FLAKE).astype(np.float32)
    codes = np.round(255 * np.clip(under, 0, 1) ** (1 / _GAMMA)).astype(np.uint8)
    return codes, float(1 - transmission.mean())


def _mean(plane: np.ndarray, side: int) -> np.ndarray:
    return cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT_101)
