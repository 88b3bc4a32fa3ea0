"""Rain streaks on linear light: depth layers of motion-blurred falling drops, and mist."""

import math

import cv2
import numpy as np

from unirain_plugin.rain.light import LUMA, log_uniform, relief, smoothstep
from unirain_plugin.rain.params import REFERENCE_SIDE, StreakParams

_SPACING = 0.5  # distance of two samples along a streak, pixels
_SPLAT_SIGMA = 0.45  # blur that bilinear splatting itself causes, pixels (standard deviation, mean over positions)
_MOST_COVERED = 1.5  # most area of a layer's streaks, all added up, relative to the image's: broad ones are fewer


def streak_opacity(shape: tuple[int, int], rng: np.random.Generator, params: StreakParams) -> np.ndarray:
    """Opacity (H, W) float32 in [0, 1) of a scene's streaks, 0 where there are none.

    Each layer is farther by ``depth_step``: its streaks are shorter, thinner, fainter and more. They share the
    direction of the fall and differ in direction by a jitter, in length and in opacity.
    """
    scale = min(shape) / REFERENCE_SIDE
    angle = rng.uniform(*params.angle)
    jitter = rng.uniform(*params.angle_jitter)
    length = rng.uniform(*params.length) * scale
    width = rng.uniform(*params.width) * scale
    opacity = rng.uniform(*params.opacity)
    density = log_uniform(rng, params.density) * shape[0] * shape[1] / min(shape) ** 2
    more = rng.spawn(1)[0]
    fan, clumping, taper = (more.uniform(*bounds) for bounds in (params.fan, params.clumping, params.taper))
    presence = 1 - clumping * smoothstep(0.2, -0.4, relief(shape, 4, more))
    clear = np.ones(shape, np.float32)
    for layer in range(int(rng.integers(params.depths[0], params.depths[1], endpoint=True))):
        depth = params.depth_step**layer
        sigma = max(width / depth, 0.35)
        count = int(rng.poisson(density * depth**params.density_growth))
        count = min(count, int(_MOST_COVERED * shape[0] * shape[1] / (max(length / depth, 1) * 2.5 * sigma)))
        crosses = layer > 0 and more.random() < params.crossing
        direction = (more.uniform(*params.angle) if crosses else angle, jitter, fan)
        streaks = tracks(presence, count, length / depth, direction, rng, (params.modulation, taper))
        profile = splat(shape, *streaks)
        profile = cv2.GaussianBlur(profile, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        peak = math.sqrt(2 * math.pi * (sigma**2 + _SPLAT_SIGMA**2)) * opacity * depth**-params.depth_fading
        clear *= np.exp(-peak * profile)
    for _ in range(int(more.integers(*params.sheets, endpoint=True))):
        turned = more.uniform(*params.angle) if more.random() < params.crossing else angle + more.normal(0, jitter)
        clear *= 1 - _sheet(shape, log_uniform(more, params.sheet), turned, length, more, params)
    return 1 - clear


def _sheet(
    shape: tuple[int, int], opacity: float, angle: float, length: float, rng: np.random.Generator, params: StreakParams
) -> np.ndarray:
    """Opacity (H, W) in [0, ``opacity``] of a layer made as image editors make rain: noise smeared along the fall.

    Only its highest part shows, ``params.cover`` of the image, and of this a part has the full opacity.
    """
    grain, cover, full = (log_uniform(rng, bounds) for bounds in (params.grain, params.cover, params.full))
    length = float(np.clip(length * rng.uniform(0.3, 1), 4, min(shape) / 2))
    coarse = [max(round(edge / grain), 2) for edge in shape]
    points = np.maximum(rng.standard_normal(coarse), rng.uniform(-1, 2)).astype(np.float32)
    noise = cv2.resize(points, shape[::-1], interpolation=cv2.INTER_CUBIC)
    t = length * np.linspace(-0.5, 0.5, 2 * math.ceil(length / _SPACING) + 1)
    middle = math.ceil(length / 2) + 1
    turn = math.radians(angle)
    weight = smoothstep(0.5, 0.49 * rng.uniform(0, 1), np.abs(t / length))
    kernel = splat((2 * middle + 1,) * 2, middle + t * math.sin(turn), middle + t * math.cos(turn), weight)
    smeared = cv2.filter2D(noise, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    low, high = np.quantile(smeared[::2, ::2], (1 - cover, 1 - cover * full))
    return opacity * np.clip((smeared - low) / max(high - low, 1e-6), 0, 1)


def tracks(
    presence: np.ndarray,
    count: int,
    length: float,
    direction: tuple[float, float, float],
    rng: np.random.Generator,
    profile: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample points (x, y) and weights of ``count`` streaks; a streak's weights add up to its strength x length.

    ``presence`` (H, W) weakens the streaks whose middle it is; ``direction`` is angle, jitter and fan, degrees;
    ``profile`` modulation and taper.
    """
    height, width = presence.shape
    lengths = length * rng.uniform(0.5, 1.3, count)
    angles = np.deg2rad(rng.normal(direction[0], direction[1], count))
    strength = rng.uniform(0.3, 1.0, count)
    phase, cycles = rng.uniform(0, 2 * np.pi, count), rng.uniform(1.0, 4.0, count)
    margin = length
    centre_x = rng.uniform(-margin, width + margin, count)
    centre_y = rng.uniform(-margin, height + margin, count)
    angles += np.deg2rad(direction[2]) * (centre_x / width - 0.5)
    places = [np.clip(x, 0, n - 1).astype(np.int64) for x, n in ((centre_y, height), (centre_x, width))]
    strength *= presence[tuple(places)]
    samples = np.maximum((lengths / _SPACING).astype(np.int64), 2)
    owner = np.repeat(np.arange(count), samples)
    position = np.arange(owner.size) - np.repeat(np.cumsum(samples) - samples, samples)
    t = (position + 0.5) / samples[owner] - 0.5  # -0.5 … 0.5 along the streak
    fade = smoothstep(0.5, 0.49 - 0.29 * profile[1], np.abs(t))
    wave = 1 + profile[0] * np.sin(phase[owner] + 2 * np.pi * cycles[owner] * t)
    x = centre_x[owner] + t * lengths[owner] * np.sin(angles)[owner]
    y = centre_y[owner] + t * lengths[owner] * np.cos(angles)[owner]
    return x, y, strength[owner] * fade * wave * (lengths / samples)[owner]


def splat(shape: tuple[int, int], x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Add weighted points to an image, each spread bilinearly over its four pixels."""
    height, width = shape
    inside = (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)
    x, y, weight = x[inside], y[inside], weight[inside]
    column, row = x.astype(np.int64), y.astype(np.int64)
    dx, dy = x - column, y - row
    index = row * width + column
    image = np.zeros(height * width)
    for offset, share in (
        (0, (1 - dx) * (1 - dy)),
        (1, dx * (1 - dy)),
        (width, (1 - dx) * dy),
        (width + 1, dx * dy),
    ):
        image += np.bincount(index + offset, weight * share, image.size)
    return image.reshape(shape).astype(np.float32)


def veil_opacity(scene: np.ndarray, rng: np.random.Generator, params: StreakParams) -> np.ndarray:
    """Opacity (H, W) of the mist before a scene (H, W, 3), rain too far to be resolved: 1 - exp(-beta * distance).

    A photograph comes without depth: the distance grows towards the top with a soft random relief and is 0 below a
    line, so that the near part stays free of mist (our choice). By ``params.veil_depth`` it is also that of the
    brightness, smoothed along edges, and of a curtain of rain at one side.
    """
    shape = scene.shape[:2]
    drawn, strength = rng.random(), rng.uniform(*params.veil)
    near, height = rng.uniform(0.35, 0.8), rng.uniform(0.05, 0.2)
    surface = relief(shape, 5, rng)
    if drawn >= params.veil_share:
        return np.zeros(shape, np.float32)
    rows = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    distance = smoothstep(0, near, near - rows + height * surface)
    more = rng.spawn(1)[0]
    if depth := more.uniform(*params.veil_depth):
        distance = (1 - depth) * distance + depth * _distance(scene, more)
    return (1 - np.exp(math.log(max(1 - strength, 1e-9)) * distance)).astype(np.float32)


def _distance(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A likely distance (H, W) in [0, 1] of a scene's parts."""
    height, width = scene.shape[:2]
    bright = np.sqrt(np.clip(scene @ LUMA, 0, 1)).astype(np.float32)
    bright = cv2.bilateralFilter(cv2.resize(bright, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), 9, 0.2, 4)
    bright = smoothstep(0.2, 0.9, cv2.resize(bright, (width, height), interpolation=cv2.INTER_LINEAR))
    side = np.linspace(0, 1, width, dtype=np.float32)[:: int(rng.choice((-1, 1)))]
    curtain = smoothstep(rng.uniform(0.15, 0.5), 0, side) * (rng.random() < 0.3)
    rows = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    return np.maximum(np.clip(bright * rng.uniform(0.3, 1) + rng.uniform(0, 0.5) * rows, 0, 1), curtain)
