"""A figure of results: rainy, restored, clean and error map, a row for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ERROR_SCALE = 0.2
"""Absolute error (mean over channels, of a range of 1) that gets the brightest colour of an error map."""

INK, PAPER = (20, 20, 20), (255, 255, 255)
"""Colours of text and background (RGB)."""

_GAP, _HEAD, _FOOT = 6, 30, 24


@dataclass(frozen=True)
class Row:
    """One picture: 8-bit BGR (H, W, 3) arrays of one size, a title, and the PSNR (dB) of both."""

    title: str
    lq: np.ndarray
    restored: np.ndarray
    gt: np.ndarray
    psnr_lq: float
    psnr_restored: float


def text_font(size: float) -> ImageFont.FreeTypeFont:
    """The font of all figures: the one inside Pillow, so that a figure looks alike on every machine."""
    return ImageFont.load_default(size=size)


def absolute_error(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Absolute error of 8-bit pictures, mean over the channels, of a range of 1: (H, W) float32."""
    return np.abs(image.astype(np.float32) - target.astype(np.float32)).mean(axis=2) / 255


def error_colours(error: np.ndarray, scale: float = ERROR_SCALE) -> np.ndarray:
    """Errors on a fixed colour scale from 0 (black) to ``scale`` and above (pale yellow): (H, W, 3) BGR."""
    return cv2.applyColorMap((error / scale * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)


def error_map(image: np.ndarray, target: np.ndarray, scale: float = ERROR_SCALE) -> np.ndarray:
    """Absolute error of 8-bit pictures (H, W, 3) on the fixed colour scale: (H, W, 3) BGR."""
    return error_colours(absolute_error(image, target), scale)


def comparison_grid(rows: Sequence[Row], cell: int = 256) -> np.ndarray:
    """Draw the rows below one another, every picture ``cell`` pixels wide.

    Returns:
        An 8-bit RGB picture.
    """
    titles = ("rainy", "restored", "clean", f"error, 0 to {ERROR_SCALE}")
    strips = [_strip(row, cell) for row in rows]
    width = len(titles) * (cell + _GAP) + _GAP
    canvas = Image.new("RGB", (width, _HEAD + sum(s.shape[0] + _FOOT for s in strips)), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = text_font(15)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (cell + _GAP), 7), title, INK, font)
    top = _HEAD
    for row, strip in zip(rows, strips, strict=True):
        canvas.paste(Image.fromarray(strip), (0, top))
        top += strip.shape[0]
        for column, caption in enumerate((f"{row.title}: {row.psnr_lq:.2f} dB", f"{row.psnr_restored:.2f} dB")):
            draw.text((_GAP + column * (cell + _GAP), top + 2), caption, INK, font)
        top += _FOOT
    return np.asarray(canvas)


def _strip(row: Row, cell: int) -> np.ndarray:
    height = round(row.gt.shape[0] * cell / row.gt.shape[1])
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    parts = [gap]
    for image in (row.lq, row.restored, row.gt, error_map(row.restored, row.gt)):
        resized = cv2.resize(image, (cell, height), interpolation=cv2.INTER_AREA)
        parts += [cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), gap]
    return np.concatenate(parts, axis=1)
