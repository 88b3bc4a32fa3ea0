"""PNG files that appear whole."""

from __future__ import annotations

import os

import cv2
import numpy as np

from unirain_plugin.support.files import write_whole


def write_png(path: str | os.PathLike[str], pixels: np.ndarray, level: int | None = None, sync: bool = False) -> None:
    """Write an image.

    Args:
        path: The file; its folder is made if missing.
        pixels: (H, W, 3) or (H, W), uint8 or uint16, in OpenCV's order (BGR).
        level: Compression, 0 to 9; None leaves it to OpenCV.
        sync: See :func:`unirain_plugin.support.files.whole_file`.

    Raises:
        DataError: If it cannot be written.
    """
    parameters = [] if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    write_whole(path, cv2.imencode(".png", np.ascontiguousarray(pixels), parameters)[1].data, sync)
