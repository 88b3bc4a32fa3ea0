"""Which part of a picture a figure zooms into, and the numbers written below it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.compare.figures import absolute_error


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The part of ``image`` (H, W, C)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def most_different_box(image: np.ndarray, target: np.ndarray, edge: int) -> Box:
    """The square in which two pictures differ most (mean absolute error): where there was most to restore.

    Args:
        image: 8-bit picture (H, W, 3).
        target: Another of the same shape.
        edge: Edge of the square in pixels; a picture smaller than that gives a smaller box.
    """
    height, width = min(edge, image.shape[0]), min(edge, image.shape[1])
    sums = cv2.integral(absolute_error(image, target))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    # Rounded, so that among equal windows the first is taken whatever the rounding errors of the sums are.
    top, left = np.unravel_index(np.argmax(windows.round(6)), windows.shape)
    return Box(int(top), int(left), height, width)


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """PSNR in dB of 8-bit pictures in RGB, over all pixels; infinite for equal ones."""
    error = float(np.mean((image.astype(np.float32) - target.astype(np.float32)) ** 2, dtype=np.float64))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")
