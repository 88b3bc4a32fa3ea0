"""Reading images for the pipeline."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.distill.errors import UnreadableImageError


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3); grey images get three channels, alpha is dropped.

    Raises:
        UnreadableImageError: If the file is missing, empty or no image that OpenCV can decode.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror or error}.") from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise UnreadableImageError(f"{path}: not an image that can be decoded ({len(data)} bytes).")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def check_same_size(lq: np.ndarray, gt: np.ndarray, lq_path: Path, gt_path: Path) -> None:
    """Refuse a pair of different sizes.

    Raises:
        UnreadableImageError: Naming both files and sizes.
    """
    if lq.shape != gt.shape:
        raise UnreadableImageError(
            f"{lq_path} is {lq.shape[1]}×{lq.shape[0]} but its ground truth {gt_path} is {gt.shape[1]}×{gt.shape[0]}; "
            "a pair must have one size."
        )
