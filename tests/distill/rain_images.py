"""Small photographs and files for the pipeline's tests."""

import cv2
import numpy as np


def photographs(size=128):
    """Square crops of scikit-image's photographs, by name."""
    from skimage import data

    crops = {}
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        photo = getattr(data, name)()
        side = min(photo.shape[:2])
        crops[name] = cv2.resize(photo[:side, :side], (size, size), interpolation=cv2.INTER_AREA)
    return crops


def write_png(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
