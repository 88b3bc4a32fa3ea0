"""Linear light: transfer curves, colour temperature and the scene's bright surroundings. Images are (H, W, 3) RGB."""

import math

import cv2
import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # weights of linear RGB in luminance (ITU-R BT.709)

_CODES = np.arange(256, dtype=np.float64) / 255
_TO_LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)
_STEPS = 1 << 14
_GRID = (np.arange(_STEPS + 1) / _STEPS) ** 2  # finer in the dark, where the sRGB curve is steep
_TO_CODE = np.round(255 * np.where(_GRID <= 0.0031308, 12.92 * _GRID, 1.055 * _GRID ** (1 / 2.4) - 0.055)).astype(
    np.uint8
)


def to_linear(image: np.ndarray) -> np.ndarray:
    """From sRGB codes, uint8, to linear light, float32 in [0, 1]."""
    return _TO_LINEAR[image]


def to_codes(linear: np.ndarray) -> np.ndarray:
    """Linear light, any range (clipped to [0, 1]), to sRGB codes, uint8. Inverse of :func:`to_linear`."""
    index = np.sqrt(np.clip(linear, 0, 1)) * _STEPS + 0.5
    return _TO_CODE[index.astype(np.int32)]


def kelvin_to_rgb(kelvin: float) -> np.ndarray:
    """Linear RGB of a black body of ``kelvin`` (1,500 to 15,000) with luminance 1.

    Kim et al.'s cubic fit of the Planckian locus in CIE xy, then the sRGB primaries; negative blue is cut off.
    """
    t = 1e3 / float(np.clip(kelvin, 1667, 25000))
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    xyz = np.array([x / y, 1.0, (1 - x - y) / y])
    matrix = np.array(
        [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
    )
    rgb = np.maximum(matrix @ xyz, 0.02).astype(np.float32)
    return rgb / float(rgb @ LUMA)


def surroundings(scene: np.ndarray) -> np.ndarray:
    """Linear RGB (3,) of the bright part of a scene: what a drop gathers from its wide field of view.

    The mean of the brightest tenth, half way to grey, because a drop also sees the sky outside the image.
    """
    luminance = scene @ LUMA
    flat = luminance.ravel()
    count = max(1, flat.size // 10)
    bright = scene.reshape(-1, 3)[np.argpartition(flat, flat.size - count)[-count:]].mean(axis=0)
    return (0.5 * bright + 0.5 * float(bright @ LUMA)).astype(np.float32)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Cubic step from 0 at ``low`` to 1 at ``high`` (``low`` may be the larger one)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def relief(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random surface (H, W) float32 through ``cells`` × ``cells`` standard normal values."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw with uniformly distributed logarithm."""
    return np.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
