"""Night from a photograph taken by day: lamps, glow, a camera's exposure, response curve and noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.rain.light import LUMA, kelvin_to_rgb, log_uniform, smoothstep, to_codes
from unirain_plugin.rain.params import NightParams, Range


@dataclass(frozen=True)
class Night:
    """A scene at night and the camera that takes it."""

    scene: np.ndarray  # linear light of the clean scene with its lamps and their glow, (H, W, 3) float32, exposed
    light: np.ndarray  # light that reaches rain at each pixel, (H, W, 3), same unit
    noise: np.ndarray  # standard normal field (H, W, 3); the same one serves the clean and the rainy image
    shot: float  # variance of the shot noise per unit of signal
    read: float  # standard deviation of the read noise

    def photograph(self, linear: np.ndarray) -> np.ndarray:
        """Expose an image: sensor noise, the response's shoulder (1 - exp(-x)), sRGB codes (H, W, 3) uint8."""
        signal = linear + self.noise * np.sqrt(self.shot * linear + self.read**2)
        return to_codes(1 - np.exp(-np.maximum(signal, 0)))


def make_night(day: np.ndarray, rng: np.random.Generator, params: NightParams, rain_gain: Range) -> Night:
    """Relight ``day``, linear light, (H, W, 3) float32 in [0, 1].

    It is taken for the reflectance of the scene, which is lit by a weak bluish ambient light and by lamps whose light
    falls off with the square of the distance, softened by the height of the lamp. A bright upper part (sky) does not
    reflect light and goes dark. ``rain_gain``: brightness of lit rain relative to the lit scene.
    """
    shape = day.shape[:2]
    ambient = log_uniform(rng, params.ambient) * kelvin_to_rgb(rng.uniform(*params.ambient_kelvin))
    lit, rain, halo, glow = _lamps(shape, rng, params)
    scene = day * (ambient + lit) * (1 - 0.75 * _sky(day))[..., None]
    level = max(float(np.mean(scene @ LUMA)), 0.25 * float(np.quantile(scene[::4, ::4], 0.98)), 1e-4)
    gain = rng.uniform(*params.exposure) / level
    light = (rng.uniform(*rain_gain) * rain + ambient) * gain
    noise = cv2.GaussianBlur(rng.standard_normal(day.shape, dtype=np.float32), (0, 0), 0.5)  # demosaicing correlates
    noise /= noise.std()
    return Night(
        scene * gain + halo + glow, light, noise, rng.uniform(*params.shot_noise), rng.uniform(*params.read_noise)
    )


def _lamps(shape: tuple[int, int], rng: np.random.Generator, params: NightParams) -> tuple[np.ndarray, ...]:
    """Lamps: their light on the scene, their light on the rain, their halo, and their cores, each (H, W, 3)."""
    rows, columns = _coarse_grid(shape)
    lit, rain, halo = (np.zeros((rows.size, columns.size, 3), np.float32) for _ in range(3))
    glow = np.zeros((*shape, 3), np.float32)
    strength = rng.uniform(*params.halo)
    for _ in range(int(rng.integers(params.lamps[0], params.lamps[1], endpoint=True))):
        x, y = _lamp_place(rng)
        colour = _lamp_colour(rng, params, 0.35)
        power, reach = rng.uniform(*params.lamp_power), rng.uniform(*params.reach)
        size = rng.uniform(0.004, 0.016)
        square = ((columns - x * shape[1]) ** 2 + (rows - y * shape[0])[:, None] ** 2)[..., None] / min(shape) ** 2
        lit += power * colour / (1 + square / reach**2)
        rain += power * colour / (1 + square / (0.6 * reach) ** 2)
        halo += strength * colour / (1 + square / (4 * size) ** 2)
        _add_core(glow, (x, y), size, colour)
    for _ in range(int(rng.integers(params.far_lamps[0], params.far_lamps[1], endpoint=True))):
        _add_core(glow, _lamp_place(rng), rng.uniform(0.002, 0.005), _lamp_colour(rng, params, 0.9))
    return *(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_LINEAR) for field in (lit, rain, halo)), glow


def _coarse_grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, in pixels, of the centres of a grid whose shorter side has at most about 200 cells."""
    step = max(1, min(shape) // 192)
    return tuple((np.arange(n // step, dtype=np.float32) + 0.5) * (n / (n // step)) - 0.5 for n in shape)


def _lamp_place(rng: np.random.Generator) -> tuple[float, float]:
    """Place of a lamp relative to width and height; lamps hang in the upper part."""
    return rng.uniform(0.02, 0.98), rng.beta(1.5, 3.5)


def _lamp_colour(rng: np.random.Generator, params: NightParams, saturation: float) -> np.ndarray:
    """Linear RGB of a lamp with luminance 1: a black body, or a signal's colour of this saturation."""
    kelvin, neon, hue = rng.uniform(*params.lamp_kelvin), rng.random(), rng.uniform(0, 2 * np.pi)
    if neon >= params.neon_share:
        return kelvin_to_rgb(kelvin)
    colour = 1 + saturation * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)
    return (colour / float(colour @ LUMA)).astype(np.float32)


def _add_core(glow: np.ndarray, place: tuple[float, float], size: float, colour: np.ndarray) -> None:
    """Add a lamp as the camera sees it to an image (H, W, 3) in place: far beyond saturation, soft, fading out.

    ``size`` is the core's standard deviation relative to the shorter side; the tail ends after ``reach`` of them.
    """
    shape, reach = glow.shape[:2], 16
    x, y, sigma = place[0] * shape[1], place[1] * shape[0], size * min(shape)
    rows = slice(max(int(y - reach * sigma), 0), int(y + reach * sigma) + 2)
    columns = slice(max(int(x - reach * sigma), 0), int(x + reach * sigma) + 2)
    window = glow[rows, columns]
    dy = (np.arange(window.shape[0], dtype=np.float32) + rows.start - y) / sigma
    dx = (np.arange(window.shape[1], dtype=np.float32) + columns.start - x) / sigma
    square = dx**2 + dy[:, None] ** 2
    tail = np.maximum(1 - square / reach**2, 0) ** 2 / ((1 + square) * np.sqrt(1 + square))
    window += colour * (6 * np.exp(-0.5 * square) + 1.5 * tail)[..., None]


def _sky(day: np.ndarray) -> np.ndarray:
    """Likelihood (H, W) of sky in [0, 1]: a bright pixel near bright and smooth ones in the upper part."""
    luminance = day @ LUMA
    rows, columns = _coarse_grid(day.shape[:2])
    small = cv2.resize(luminance, (columns.size, rows.size), interpolation=cv2.INTER_AREA)
    size = max(min(small.shape) / 60, 0.8)
    mean = cv2.GaussianBlur(small, (0, 0), size)
    detail = cv2.GaussianBlur(np.abs(small - mean), (0, 0), size)
    height = np.linspace(0, 1, rows.size, dtype=np.float32)[:, None]
    smooth = smoothstep(0.15, 0.5, mean) * smoothstep(0.06, 0.015, detail) * smoothstep(1.0, 0.3, height)
    reach = 2 * int(2 * size) + 1  # back to the outline that the blur has eaten
    near = cv2.blur(cv2.dilate(smooth, np.ones((reach, reach), np.uint8)), (reach, reach))
    near = cv2.resize(near, day.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return near * smoothstep(0.08, 0.4, luminance)
