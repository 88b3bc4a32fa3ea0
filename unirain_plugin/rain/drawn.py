"""Rain as simple programs draw it: lines of one colour, round drops with another content. For training only.

Nothing here follows how rain comes about (that is :mod:`~unirain_plugin.rain.streaks` and
:mod:`~unirain_plugin.rain.drops`): a network that has seen many crude ways to draw rain relies less on the looks
of one. Everything is mixed in sRGB codes, as such programs do. Pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

import cv2
import numpy as np

from unirain_plugin.rain.light import log_uniform
from unirain_plugin.rain.params import REFERENCE_SIDE


def draw_lines(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw 20 to 1,000 lines, in longish pictures more, of one grey and about one direction.

    In a picture of the reference size the longest are 5 to 60 pixels long and at least four times their width, others
    down to 0.3 of that; they are 1 to 4 wide, sharp or softened, mixed with the picture or added to it.
    """
    height, width = picture.shape[:2]
    scale = min(height, width) / REFERENCE_SIDE
    thickness = max(round(scale * log_uniform(rng, (0.7, 4))), 1)
    length = max(scale * log_uniform(rng, (5, 60)), 4 * thickness)
    count = round(log_uniform(rng, (20, 1000)) * max(height, width) / min(height, width))
    angles = np.radians(rng.normal(0, 15) + rng.uniform(0, 4) * rng.standard_normal(count))
    starts = rng.uniform(-0.1, 1, (count, 2)) * (width, height)
    reach = length * rng.uniform(rng.uniform(0.3, 1), 1, count)[:, None]
    lines = np.stack([starts, starts + reach * np.stack([np.sin(angles), np.cos(angles)], -1)], 1)
    drawn = np.zeros((height, width), np.uint8)
    cv2.polylines(drawn, list(np.round(16 * lines).astype(np.int32)), False, 255, thickness, cv2.LINE_AA, 4)
    cover = np.float32(rng.uniform(0.15, 1) / 255) * drawn[..., None]
    if rng.random() < 0.5:
        cover = cv2.GaussianBlur(cover, (0, 0), scale * rng.uniform(0.3, 1))[..., None]
    grey = np.float32(rng.uniform(130, 255))
    return _to_uint8(picture + cover * (grey if rng.random() < 0.4 else grey - picture))


def draw_drops(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw 2 to 60 ellipses, in longish pictures more, which show the picture blurred, or mirrored and minified.

    All have one tone, rim and opacity. In a picture of the reference size they are 6 to 56 pixels wide, those of one
    scene within a factor of 3, and 0.75 to 1.4 times as high.
    """
    height, width = picture.shape[:2]
    scale = min(height, width) / REFERENCE_SIDE
    largest = log_uniform(rng, (5, 28))
    count = round(log_uniform(rng, (4, 60)) * min(12 / largest, 1) * max(height, width) / min(height, width))
    opacity, edge, tone = rng.uniform(0.5, 1), rng.uniform(0.03, 0.5), rng.uniform(0.75, 1.25)
    rim, highlight = rng.uniform(-0.3, 0.6), rng.uniform(0, 1) * (rng.random() < 0.5)
    blurred = cv2.GaussianBlur(picture, (0, 0), scale * rng.uniform(3, 10)).astype(np.float32)
    mirrored = cv2.flip(cv2.GaussianBlur(picture, (0, 0), scale * rng.uniform(1, 4)), -1).astype(np.float32)
    is_lens, view = rng.random() < 0.65, rng.uniform(0.2, 1)
    rainy = picture.astype(np.float32)
    for _ in range(count):
        radius = scale * max(largest * rng.uniform(1 / 3, 1), 3)
        x, y, stretch = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.75, 1.4)
        top, bottom = max(int(y - 1.2 * stretch * radius), 0), min(int(y + 1.2 * stretch * radius) + 2, height)
        left, right = max(int(x - 1.2 * radius), 0), min(int(x + 1.2 * radius) + 2, width)
        u = (np.arange(left, right, dtype=np.float32) - np.float32(x))[None] / np.float32(radius)
        v = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None] / np.float32(radius * stretch)
        rho = np.hypot(u, v)
        window = np.s_[top:bottom, left:right]
        content = _lens(mirrored, u, v, x, y, view) if is_lens else blurred[window]
        content = content * (tone * (1 - rim * np.minimum(rho, 1) ** 3))[..., None]
        content += 255 * highlight * np.exp(-((u + 0.3) ** 2 + (v + 0.4) ** 2) / 0.03)[..., None]
        cover = opacity * np.clip((1 + edge / 2 - rho) / edge, 0, 1)[..., None]
        rainy[window] += cover * (content - rainy[window])
    return _to_uint8(rainy)


def _lens(mirrored: np.ndarray, u: np.ndarray, v: np.ndarray, x: float, y: float, view: float) -> np.ndarray:
    """What a drop in (x, y) shows: the part of the mirrored picture around it, ``view`` of the picture wide."""
    height, width = mirrored.shape[:2]
    columns = np.broadcast_to(width - 1 - x + u * np.float32(view * width / 2), np.broadcast_shapes(u.shape, v.shape))
    rows = np.broadcast_to(height - 1 - y + v * np.float32(view * height / 2), columns.shape)
    return cv2.remap(
        mirrored, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def _to_uint8(codes: np.ndarray) -> np.ndarray:
    return np.clip(np.round(codes), 0, 255).astype(np.uint8)
