"""What rain looks like in numbers, from the rainy image alone: light, streaks, drops, blur. No weights, no model.

Streaks brighten all three channels alike, are thin, and share one steep direction: they show in the minimum of the
channels as lines of that direction, in most places. Drops are lenses: compact and round. At night the sensor's
amplification makes neighbouring pixels differ in colour, and most of the image is dark. The two logistic combinations
at the end were calibrated on images rendered by :mod:`unirain_plugin.rain.render` (our choice).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.distill.records import remembered, thumbnail

SIZE = 256
"""Side to which images are shrunk (the aspect ratio given up); 2 to 5 pixels wide streaks of a 512² survive it."""
ANGLES = tuple(range(50, 131, 8))
"""Directions of streaks that are looked for, in degrees; 90 is vertical, less leans to the right at the top."""
_GRID = 8
_LINE = 13
_STREAK_WIDTH = 5


@dataclass(frozen=True, slots=True)
class RainCues:
    """The measurements of one image."""

    brightness: float  # mean luma, 0 to 1
    contrast: float  # standard deviation of luma, 0 to 0.5
    dark: float  # share of pixels with luma below 40 of 255
    calm: float  # share of horizontal neighbours of equal red-difference chroma: small under colour noise
    night: float  # 0 (day) to 1 (night)
    streaks: float  # evidence of streaks against drops, 0 to 1
    angle: int  # direction of the strongest lines, degrees, 90 is vertical
    density: float  # mean height of the streaks above their surroundings, 0 to 1
    lines: np.ndarray  # energy along each of :data:`ANGLES`
    roundness: float  # how round the compact structures are, 0 to 1
    drops: int  # number of distinct round structures
    drop_size: float  # their mean diameter as a share of the image's width; 0 if there are none
    sharpness: float  # fine detail against coarse, 0 to about 1


@remembered
def rain_cues(image: np.ndarray) -> RainCues:
    """Measure a uint8 RGB image (H, W, 3); asked again about the same array, the answer is remembered."""
    small = thumbnail(image, SIZE)
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    red, green, blue = cv2.split(small)
    brightness, contrast = (float(v[0, 0]) / 255 for v in cv2.meanStdDev(luma))
    dark = float(np.count_nonzero(luma < 40)) / luma.size
    calm = _calm_chroma(image)
    lines, steady, typical = _streak_lines(cv2.min(cv2.min(red, green), blue))
    roundness, drops, drop_size = _round_structures(luma)
    night = _logistic(_NIGHT, np.log(calm + 0.02), brightness, dark)
    streaks = _logistic(_STREAKS, np.log(steady + 0.02), np.log(typical + 0.02), np.log(roundness + 0.02))
    best = int(lines.argmax())
    fine = cv2.mean(np.abs(cv2.Laplacian(luma, cv2.CV_32F)))[0]
    coarse = cv2.mean(np.abs(cv2.Sobel(luma, cv2.CV_32F, 1, 0)))[0]
    return RainCues(
        brightness, contrast, dark, calm, night, streaks, ANGLES[best], float(lines[best]) / 255, lines,
        roundness, drops, drop_size, fine / (fine + coarse + 1),
    )  # fmt: skip


def _calm_chroma(image: np.ndarray) -> float:
    """Share of horizontal neighbours with equal chroma (Cr), in every fourth row at full resolution."""
    chroma = cv2.cvtColor(np.ascontiguousarray(image[::4]), cv2.COLOR_RGB2YCrCb)[..., 1]
    if chroma.shape[1] < 2:
        return 1.0
    return float(np.count_nonzero(chroma[:, 1:] == chroma[:, :-1])) / (chroma.shape[0] * (chroma.shape[1] - 1))


def _line_kernel(degrees: int) -> np.ndarray:
    kernel = np.zeros((_LINE, _LINE), np.uint8)
    middle = _LINE // 2
    dx, dy = middle * np.cos(np.deg2rad(degrees)), -middle * np.sin(np.deg2rad(degrees))
    ends = [(round(middle + sign * dx), round(middle + sign * dy)) for sign in (-1, 1)]
    return cv2.line(kernel, *ends, 1, 1)


_LINES = [_line_kernel(degrees) for degrees in ANGLES]
_ACROSS = np.ones((1, _STREAK_WIDTH), np.uint8)


def _streak_lines(minimum: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Thin bright lines by direction: a top-hat keeps what is narrower than a streak, an opening what is long that way.

    Returns mean energy for each direction; how far the best direction stands out in the average cell of a grid; how far
    its median over the cells exceeds that of the median direction.
    """
    thin = cv2.morphologyEx(minimum, cv2.MORPH_TOPHAT, _ACROSS)
    side = SIZE // _GRID
    opened = [cv2.morphologyEx(thin, cv2.MORPH_OPEN, kernel).reshape(_GRID, side, SIZE) for kernel in _LINES]
    rows = np.stack([one.sum(axis=1, dtype=np.uint16) for one in opened])
    cells = rows.reshape(len(_LINES), -1, side).sum(axis=2, dtype=np.uint32).astype(np.float32) / side**2
    steady = float((cells / (cells.mean(axis=0) + 0.1)).mean(axis=1).max())
    middle = np.median(cells, axis=1)
    return cells.mean(axis=1), steady, float(middle.max() / (np.median(middle) + 0.03))


def _round_structures(luma: np.ndarray) -> tuple[float, int, float]:
    """Compact structures of drop size by the Hessian: how round they are, how many, how large."""
    half = cv2.resize(luma, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA).astype(np.float32)
    roundness, count, sizes = 0.0, 0, 0.0
    for sigma in (1.75, 3.0):
        smooth = cv2.GaussianBlur(half, (0, 0), sigma)
        xx, yy, xy = (cv2.Sobel(smooth, -1, *order, ksize=3) for order in ((2, 0), (0, 2), (1, 1)))
        trace = xx + yy
        round_ = np.clip(4 * (xx * yy - xy * xy) / (trace * trace + 1e-3), 0, 1)
        contrast = np.abs(trace) * (sigma * sigma) / (smooth + 20)
        roundness = float((contrast * round_).sum() / (contrast.sum() + 1))  # of the coarser scale in the end
        peaks = (contrast == cv2.dilate(contrast, np.ones((7, 7)))) & (round_ > 0.5) & (contrast > 0.8)
        found = int(np.count_nonzero(peaks))
        count, sizes = count + found, sizes + found * 2 * np.sqrt(2) * sigma / half.shape[1]
    return roundness, count, sizes / count if count else 0.0


_NIGHT = (-2.3, -4.4, -7.9, -0.2)
_STREAKS = (-7.0, 2.8, 0.8, -6.25)


def _logistic(weights: tuple[float, ...], *values: float) -> float:
    score = weights[0] + sum(w * v for w, v in zip(weights[1:], values, strict=True))
    return float(1 / (1 + np.exp(-np.clip(score, -30, 30))))
