"""Crop, flip and rotation as the toolbox draws them, decided before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to both images of a pair.

    Attributes:
        top: First row of the crop in the (padded) image.
        left: First column of the crop.
        size: Side of the square crop in pixels; None keeps the whole image.
        hflip: Mirror left and right.
        vflip: Mirror top and bottom (after ``hflip``).
        rot90: Swap rows and columns (after the flips), as the toolbox does for its rotations.
    """

    top: int = 0
    left: int = 0
    size: int | None = None
    hflip: bool = False
    vflip: bool = False
    rot90: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Flip and rotate a crop of shape (H, W, C). Returns a view: no pixel is copied."""
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        return image.transpose(1, 0, 2) if self.rot90 else image


def draw_augmentation(
    rng: np.random.Generator, height: int, width: int, size: int, hflip: bool, rotation: bool
) -> Augmentation:
    """Draw a crop of ``size``² and its flips for an image of ``height`` × ``width`` (both at least ``size``).

    All five numbers are drawn whatever is switched on, so switching one off leaves the others as they were.
    """
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    coins = rng.random(3) < 0.5
    return Augmentation(
        top, left, size, bool(hflip and coins[0]), bool(rotation and coins[1]), bool(rotation and coins[2])
    )


def pad_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reflect-pad an image (H, W, C) at the bottom and the right up to ``height`` × ``width``."""
    bottom, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not bottom and not right:
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)


def to_float_chw(image: np.ndarray) -> np.ndarray:
    """Turn uint8 BGR (H, W, 3) into contiguous float32 RGB (3, H, W) in [0, 1], in one pass over the pixels.

    Bit for bit the toolbox's ``imfrombytes(float32=True)`` followed by ``img2tensor``: a float32 division by 255.
    """
    out = np.empty((3, *image.shape[:2]), np.float32)
    return np.divide(image.transpose(2, 0, 1)[::-1], np.float32(255), out=out)
