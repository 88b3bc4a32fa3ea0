"""Snow and haze by day, to which the paper extends its network: what falls and what veils, on linear light."""

import math

import cv2
import numpy as np

from unirain_plugin.rain.light import log_uniform, relief, smoothstep
from unirain_plugin.rain.params import REFERENCE_SIDE, HazeParams, SnowParams
from unirain_plugin.rain.streaks import splat, tracks

_SIZES = (0.6, 0.85, 1.3)  # radii of a layer's flakes relative to its mean one
_MOST_COVERED = 0.5  # most area of a layer's flakes, all added up, relative to the image's


def add_haze(
    scene: np.ndarray, light: np.ndarray, rng: np.random.Generator, params: HazeParams
) -> tuple[np.ndarray, np.ndarray]:
    """Veil a scene by Koschmieder's law: scene · t + airlight · (1 − t), t = exp(−β · distance).

    A photograph comes without depth: the distance grows towards the top, with a soft random relief (our choice).
    ``scene``: linear light, (H, W, 3) float32; ``light``: linear RGB (3,) of the bright part of the surroundings.
    Returns the hazy scene, and the haze's opacity 1 − t, (H, W) float32.
    """
    shape = scene.shape[:2]
    far, near = rng.uniform(*params.far), rng.uniform(*params.near)
    surface = relief(shape, 5, rng)
    rows = np.linspace(1, 0, shape[0], dtype=np.float32)[:, None]
    distance = smoothstep(0, 1, rows + rng.uniform(*params.relief) * surface)
    opacity = 1 - np.exp(math.log(max(1 - far, 1e-9)) * (near + (1 - near) * distance))
    grey = float(light.mean())
    airlight = rng.uniform(*params.airlight) * (0.3 * light + 0.7 * grey * (1 + rng.normal(0, params.tint, 3)))
    return _mixed(scene, airlight.astype(np.float32), opacity.astype(np.float32)), opacity.astype(np.float32)


def add_snow(
    scene: np.ndarray, light: np.ndarray, rng: np.random.Generator, params: SnowParams
) -> tuple[np.ndarray, np.ndarray]:
    """Let snow fall before a scene, as :func:`add_haze`: layers of flakes by depth, the nearest large, and a veil."""
    veiled, veil = add_haze(scene, light, rng, params.veil)
    flakes = _flake_opacity(scene.shape[:2], rng, params)
    snowy = _mixed(veiled, rng.uniform(*params.brightness) * float(light.mean()), flakes)
    return snowy, 1 - (1 - veil) * (1 - flakes)


def _flake_opacity(shape: tuple[int, int], rng: np.random.Generator, params: SnowParams) -> np.ndarray:
    """Opacity (H, W) float32 in [0, 1) of all flakes; each layer is farther by ``depth_step`` and has more of them."""
    scale = min(shape) / REFERENCE_SIDE
    radius, length = rng.uniform(*params.radius) * scale, rng.uniform(*params.length) * scale
    angle, jitter = rng.uniform(*params.angle), rng.uniform(*params.angle_jitter)
    opacity, defocus = rng.uniform(*params.opacity), rng.uniform(*params.defocus)
    density = log_uniform(rng, params.density) * shape[0] * shape[1] / min(shape) ** 2 / len(_SIZES)
    present, clear = np.ones(shape, np.float32), np.ones(shape, np.float32)
    for layer in range(int(rng.integers(*params.depths, endpoint=True))):
        depth = params.depth_step**layer
        for size in _SIZES:
            flake = max(size * radius / depth, 0.6)
            most = _MOST_COVERED * shape[0] * shape[1] / len(_SIZES) / (math.pi * flake**2 + 2 * flake * length / depth)
            count = min(int(rng.poisson(density * depth**2)), int(most))
            track = max(length / depth, 0.5)
            drawn = splat(shape, *tracks(present, count, track, (angle, jitter, 0.0), rng, (0.0, 0.0)))
            kernel = _flake(flake, rng)
            cover = cv2.filter2D(drawn / track, -1, kernel, borderType=cv2.BORDER_CONSTANT)
            soft = max(0.35, defocus * flake * params.depth_step**-layer)
            cover = cv2.GaussianBlur(cover, (0, 0), soft, borderType=cv2.BORDER_REFLECT_101)
            clear *= np.exp(-2 * opacity * depth**-params.depth_fading * np.maximum(cover, 0))
    return 1 - clear


def _flake(radius: float, rng: np.random.Generator) -> np.ndarray:
    """A flake's cover, (K, K) float32 in [0, 1]: a disc with a ragged edge."""
    half = math.ceil(1.3 * radius)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle, edge = np.arctan2(y, x), np.full(x.shape, radius, np.float32)
    for waves in (2, 3, 5):
        edge += radius * rng.uniform(0, 0.12) * np.cos(waves * angle + rng.uniform(0, 2 * math.pi))
    return np.clip(edge - np.hypot(x, y) + 0.5, 0, 1)


def _mixed(scene: np.ndarray, light: np.ndarray | float, opacity: np.ndarray) -> np.ndarray:
    return scene + opacity[..., None] * (np.float32(light) - scene)
