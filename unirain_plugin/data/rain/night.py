"""Night from a photograph taken by day: lamps, glow, a camera's exposure, response curve and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.data.rain.light import LUMA, kelvin_to_rgb, log_uniform, smoothstep, to_codes
from unirain_plugin.data.rain.params import NightParams


@dataclass(frozen=True)
class Night:
    """A scene at night and the camera that takes it.

    Attributes:
        scene: Linear light of the clean scene with its lamps and their glow, (H, W, 3) float32, exposed.
        light: Light that reaches rain at each pixel, (H, W, 3), same unit.
        noise: Standard normal field (H, W, 3); the same one serves the clean and the rainy picture.
        shot: Variance of the shot noise per unit of signal.
        read: Standard deviation of the read noise.
    """

    scene: np.ndarray
    light: np.ndarray
    noise: np.ndarray
    shot: float
    read: float

    def photograph(self, linear: np.ndarray) -> np.ndarray:
        """Expose a picture: sensor noise, the response's shoulder (1 - exp(-x)), sRGB codes (H, W, 3) uint8."""
        signal = linear + self.noise * np.sqrt(self.shot * linear + self.read**2)
        return to_codes(1 - np.exp(-np.maximum(signal, 0)))


def make_night(day: np.ndarray, rng: np.random.Generator, params: NightParams) -> Night:
    """Relight a scene.

    The photograph's linear light is taken for the reflectance of the scene; it is lit by a weak bluish ambient light
    and by lamps whose light falls off with the square of the distance, softened by the height of the lamp. A bright
    upper part (sky) does not reflect light and goes dark.

    Args:
        day: Linear light, (H, W, 3) float32 in [0, 1].
        rng: Source of all random numbers.
        params: Ranges.
    """
    shape = day.shape[:2]
    ambient = log_uniform(rng, params.ambient) * kelvin_to_rgb(rng.uniform(*params.ambient_kelvin))
    lit, glow, rain = (np.zeros((*shape, 3), np.float32) for _ in range(3))
    halo = rng.uniform(*params.halo)
    for _ in range(int(rng.integers(params.lamps[0], params.lamps[1], endpoint=True))):
        colour, distance = _lamp_colour(rng, params), _lamp_distance(shape, rng)
        power, reach = rng.uniform(*params.lamp_power), rng.uniform(*params.reach)
        lit += power * colour / (1 + (distance / reach) ** 2)[..., None]
        rain += power * colour / (1 + (distance / (0.6 * reach)) ** 2)[..., None]
        glow += colour * _glow(distance, rng.uniform(0.008, 0.03), halo)[..., None]
    for _ in range(int(rng.integers(params.far_lamps[0], params.far_lamps[1], endpoint=True))):
        glow += (
            _lamp_colour(rng, params)
            * _glow(_lamp_distance(shape, rng), rng.uniform(0.003, 0.007), 0.3 * halo)[..., None]
        )
    scene = day * (ambient + lit) * (1 - 0.85 * _sky(day))[..., None] + 0.25 * glow
    gain = rng.uniform(*params.exposure) / float(np.mean(np.minimum(scene @ LUMA, 0.5)))
    light = (rng.uniform(*params.rain_gain) * rain + ambient) * gain
    noise = rng.standard_normal(day.shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.5)
    return Night(
        scene * gain, light, noise / noise.std(), rng.uniform(*params.shot_noise), rng.uniform(*params.read_noise)
    )


def _lamp_colour(rng: np.random.Generator, params: NightParams) -> np.ndarray:
    """Linear RGB of a lamp with luminance 1: a black body, or a saturated signal colour."""
    kelvin, neon, hue = rng.uniform(*params.lamp_kelvin), rng.random(), rng.uniform(0, 2 * np.pi)
    if neon >= params.neon_share:
        return kelvin_to_rgb(kelvin)
    colour = 0.5 + 0.45 * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)
    return (colour / float(colour @ LUMA)).astype(np.float32)


def _lamp_distance(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Distance (H, W) of every pixel from a lamp, relative to the shorter side; lamps hang in the upper part."""
    x, y = rng.uniform(0.03, 0.97) * shape[1], rng.beta(1.6, 2.6) * shape[0]
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (np.hypot(columns - x, rows - y) / min(shape)).astype(np.float32)


def _glow(distance: np.ndarray, size: float, halo: float) -> np.ndarray:
    """A lamp as the camera sees it: a saturated core and a halo with long tails (light scattered in lens and air)."""
    core = smoothstep(1.3 * size, 0.7 * size, distance)
    return 4 * core + halo * (1 + (distance / (2.5 * size)) ** 2) ** -1.25


def _sky(day: np.ndarray) -> np.ndarray:
    """Likelihood (H, W) of sky in [0, 1]: a bright pixel near bright and smooth ones in the upper part."""
    luminance = day @ LUMA
    size = max(min(day.shape[:2]) / 60, 0.8)
    mean = cv2.GaussianBlur(luminance, (0, 0), size)
    detail = cv2.GaussianBlur(np.abs(luminance - mean), (0, 0), size)
    rows = np.linspace(0, 1, day.shape[0], dtype=np.float32)[:, None]
    smooth = smoothstep(0.25, 0.5, mean) * smoothstep(0.06, 0.015, detail) * smoothstep(0.8, 0.4, rows)
    reach = 2 * int(2 * size) + 1  # back to the outline that the blur has eaten
    near = cv2.blur(cv2.dilate(smooth, np.ones((reach, reach), np.uint8)), (reach, reach))
    return near * smoothstep(0.12, 0.4, luminance)
