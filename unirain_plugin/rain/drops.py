"""Raindrops on the lens: metaball outlines, each a small inverting wide-angle lens before an unfocused pane."""

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.rain.light import log_uniform, relief, smoothstep
from unirain_plugin.rain.params import REFERENCE_SIDE, DropParams

_SUPPORT = 1.5  # a ball's field ends at this multiple of its radius; at the radius itself it has the value _LEVEL
_LEVEL = (1 - 1 / _SUPPORT**2) ** 2


@dataclass(frozen=True)
class DropField:
    """The outline of a scene's drops, all arrays (H, W) float32."""

    rho: np.ndarray  # distance from a drop's middle: 0 in the middle, 1 on the outline, more outside
    u: np.ndarray  # position relative to the middle in units of the local radius, x; ``v`` likewise, y
    v: np.ndarray
    x: np.ndarray  # middle of the drop that a pixel belongs to, pixels; ``y`` likewise
    y: np.ndarray
    radius: float  # mean radius of the balls, pixels


def drop_field(
    shape: tuple[int, int], rng: np.random.Generator, params: DropParams, places: np.ndarray | None = None
) -> DropField:
    """Draw the drops of a scene and merge them: where the fields of several balls add up, drops grow together.

    ``places``: (N, 2) positions x, y in [0, 1], among which their middles lie; None for anywhere.
    """
    balls = _balls(shape, rng, params, places)
    height, width = shape
    total, sum_x, sum_y, sum_r = (np.zeros(shape, np.float32) for _ in range(4))
    for x, y, rx, ry in balls:
        left, right = max(int(x - _SUPPORT * rx), 0), min(int(x + _SUPPORT * rx) + 2, width)
        top, bottom = max(int(y - _SUPPORT * ry), 0), min(int(y + _SUPPORT * ry) + 2, height)
        if left >= right or top >= bottom:
            continue
        dx = (np.arange(left, right, dtype=np.float32) - x) / (_SUPPORT * rx)
        dy = (np.arange(top, bottom, dtype=np.float32) - y) / (_SUPPORT * ry)
        value = np.maximum(1 - dx[None] ** 2 - dy[:, None] ** 2, 0) ** 2
        window = np.s_[top:bottom, left:right]
        total[window] += value
        sum_x[window] += value * x
        sum_y[window] += value * y
        sum_r[window] += value * np.sqrt(rx * ry)
    safe = np.maximum(total, 1e-6)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    local = np.maximum(sum_r / safe, 1e-3)
    x, y = sum_x / safe, sum_y / safe
    rho = _SUPPORT * np.sqrt(1 - np.sqrt(np.minimum(total, 1)))
    radius = float(np.mean([np.sqrt(rx * ry) for _, _, rx, ry in balls]))
    u, v = (np.where(rho < 1, (grid - middle) / local, 0) for grid, middle in ((columns, x), (rows, y)))
    return DropField(rho, np.clip(u, -3, 3), np.clip(v, -3, 3), x, y, radius)  # outside: no lens


def _balls(
    shape: tuple[int, int], rng: np.random.Generator, params: DropParams, places: np.ndarray | None
) -> list[tuple[float, ...]]:
    """Balls (x, y, radius x, radius y) of all drops."""
    scale = min(shape) / REFERENCE_SIDE
    count = max(1, round(log_uniform(rng, params.count) * max(shape) / min(shape)))
    low, high = np.log(params.radius)
    span = (high - low) * params.size_spread
    start = rng.uniform(low, high - span)
    # few large drops or many small ones: keep the covered area of a scene in bounds
    count = max(3, round(count * np.exp(low + 0.45 * (high - low) - (start + span / 2))))
    balls: list[tuple[float, ...]] = []
    drops = np.empty((0, 3))
    for _ in range(count):
        radius = scale * np.exp(rng.uniform(start, start + span))
        free = rng.uniform(0, 1, (4, 2)) if places is None else rng.choice(places, 4)
        x, y = _freest(free * shape[::-1], drops, radius)
        drops = np.vstack([drops, (x, y, radius)])
        stretch = rng.uniform(0.85, 1.3)
        balls.append((x, y, radius / np.sqrt(stretch), radius * np.sqrt(stretch)))
        for _ in range(rng.poisson(params.merge)):
            turn, size = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.4, 0.8)
            away = radius * rng.uniform(0.3, 0.8)
            balls.append((x + away * np.cos(turn), y + away * np.sin(turn), size, size * rng.uniform(0.9, 1.3)))
        if radius > 8 * scale and rng.random() < params.trail_share:
            balls += _trail(x, y, radius, rng)
    return balls


def _freest(places: np.ndarray, drops: np.ndarray, radius: float) -> tuple[float, float]:
    """The freest of a few random places: drops that touch have mostly merged, so most stand apart."""
    if not len(drops):
        return tuple(places[0])
    away = np.hypot(places[:, :1] - drops[:, 0], places[:, 1:] - drops[:, 1])
    return tuple(places[np.argmax((away / (drops[:, 2] + radius)).min(axis=1))])


def _crowd(rng: np.random.Generator, params: DropParams) -> np.ndarray | None:
    """Places that fill one in ``crowding`` parts of the pane, (N, 2) positions x, y in [0, 1]; None for anywhere."""
    share = rng.uniform(*params.crowding)
    if share == 1:
        return None
    side = 64
    found = np.argsort(relief((side, side), int(rng.integers(3, 9)), rng), axis=None)[-round(side * side / share) :]
    return (np.stack([found % side, found // side], axis=1) + rng.random((len(found), 2))) / side


def _trail(x: float, y: float, radius: float, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Beads that a drop running down has left above itself: smaller with the distance."""
    beads = []
    for _ in range(int(rng.integers(3, 8))):
        y -= radius * rng.uniform(0.5, 1.1)
        x += radius * rng.normal(0, 0.12)
        size = radius * rng.uniform(0.15, 0.5)
        beads.append((x, y, size, size * rng.uniform(1.0, 2.2)))
    return beads


def add_drops(
    scene: np.ndarray, light: np.ndarray, sky: np.ndarray, rng: np.random.Generator, params: DropParams
) -> tuple[np.ndarray, np.ndarray]:
    """Look at a scene through a pane with drops; all light is linear, ``sky`` that above the image.

    A drop is a thick lens: a pixel at the position (u, v) of a drop sees the scene at the mirrored position, farther
    from the drop's middle by the minification, the more so near the rim. The rim is darker, the inverted sky fills the
    lower part, a highlight of ``light`` sits in the upper part. As the pane is not in focus, everything that belongs to
    the drop is smeared by the circle of confusion, which makes small drops semi-transparent. Returns the rainy image
    (H, W, 3) and the drops' opacity (H, W) in [0, 1].
    """
    shape = scene.shape[:2]
    more = rng.spawn(1)[0]
    field = drop_field(shape, rng, params, _crowd(more.spawn(1)[0], params))
    view = rng.uniform(*params.view) * min(shape)
    opacity = rng.uniform(*params.opacity)
    inside = smoothstep(1.0, 0.9, field.rho) * opacity
    radiance = _refract(scene, field, view)
    rim = rng.uniform(*params.rim)
    even = more.uniform(*params.even)
    mean = scene.mean(axis=(0, 1)) + np.float32(more.uniform(0, 0.6)) * (sky - scene.mean(axis=(0, 1)))
    radiance += np.float32(even) * (mean - radiance)
    radiance *= (1 - rim * smoothstep(0.55, 1.0, field.rho))[..., None]
    radiance += (rng.uniform(*params.sky) * smoothstep(-0.2, 1.0, field.v))[..., None] * sky
    spot = (field.u - rng.uniform(-0.5, 0.5)) ** 2 + (field.v + rng.uniform(0.35, 0.55)) ** 2
    radiance += (rng.uniform(*params.highlight) * np.exp(-spot / 0.03))[..., None] * light
    confusion = rng.uniform(*params.defocus) * field.radius
    covered = np.dstack([radiance * inside[..., None], inside])
    covered = _defocus(covered.astype(np.float32), confusion, int(more.uniform(*params.blades)))
    mask = covered[..., 3]
    mask[mask < 2e-3] = 0
    scene, film = _wet(scene, more, params)
    scene, mist = _milky(scene, mean, more, params)
    return scene * (1 - mask[..., None]) + covered[..., :3], np.maximum.reduce([mask, film, mist])


def _wet(scene: np.ndarray, rng: np.random.Generator, params: DropParams) -> tuple[np.ndarray, np.ndarray]:
    """The scene behind a film of water, which blurs parts of it, and where that is, (H, W) in [0, 1]."""
    shape = scene.shape[:2]
    sigma = rng.uniform(*params.film) * min(shape) / REFERENCE_SIDE
    if rng.random() >= params.film_share:
        return scene, np.zeros(shape, np.float32)
    film = smoothstep(0.0, 0.8, relief(shape, 5, rng))
    return scene + film[..., None] * (cv2.GaussianBlur(scene, (0, 0), max(sigma, 0.3)) - scene), film


def _milky(
    scene: np.ndarray, mean: np.ndarray, rng: np.random.Generator, params: DropParams
) -> tuple[np.ndarray, np.ndarray]:
    """The scene behind drops too small and too far out of focus to be told apart, and their opacity, (H, W) in [0, 1].

    Each sees a wide view, so that they show its light, smooth over the image: they lighten what is dark.
    """
    shape = scene.shape[:2]
    opacity = rng.uniform(*params.mist)
    if rng.random() >= params.mist_share:
        return scene, np.zeros(shape, np.float32)
    mist = np.float32(opacity) * smoothstep(-1.5, 1.5, relief(shape, int(rng.integers(2, 8)), rng))
    wide = cv2.resize(cv2.resize(scene, (3, 3), interpolation=cv2.INTER_AREA), shape[::-1])
    light = np.float32(rng.uniform(0.7, 1.3)) * (wide + np.float32(rng.random()) * (mean - wide))
    return scene + mist[..., None] * (light - scene), mist


def _refract(scene: np.ndarray, field: DropField, view: float) -> np.ndarray:
    """The inverted and minified image in each drop; beyond the image's edge the scene is continued by reflection."""
    shrink = max(1, int(0.4 * view / max(field.radius, 1)))
    height, width = scene.shape[:2]
    size = (max(width // shrink, 2), max(height // shrink, 2))
    small = cv2.GaussianBlur(cv2.resize(scene, size, interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    reach = view * (0.8 + 0.4 * np.minimum(field.rho, 1) ** 2)
    x = (field.x - field.u * reach + 0.5) * size[0] / width - 0.5
    y = (field.y - field.v * reach + 0.5) * size[1] / height - 0.5
    return cv2.remap(small, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _defocus(image: np.ndarray, radius: float, blades: int) -> np.ndarray:
    """Average over the aperture seen from the pane, with a soft edge: a disc, or a polygon from five blades on."""
    reach = int(np.ceil(1.3 * radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    turns = 2 * np.pi * np.arange(blades) / max(blades, 1)
    grid = np.max([x * np.cos(t) + y * np.sin(t) for t in turns], axis=0) if blades >= 5 else np.hypot(x, y)
    kernel = np.clip(radius + 0.5 - grid, 0, 1)
    return cv2.filter2D(image, -1, (kernel / kernel.sum()).astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
