"""Night from a photograph taken by day: lamps, glow, a camera's exposure, response curve and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.data.rain.light import LUMA, kelvin_to_rgb, log_uniform, smoothstep, to_codes
from unirain_plugin.data.rain.params import NightParams, Range


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


def make_night(day: np.ndarray, rng: np.random.Generator, params: NightParams, rain_gain: Range) -> Night:
    """Relight a scene.

    The photograph's linear light is taken for the reflectance of the scene; it is lit by a weak bluish ambient light
    and by lamps whose light falls off with the square of the distance, softened by the height of the lamp. A bright
    upper part (sky) does not reflect light and goes dark.

    Args:
        day: Linear light, (H, W, 3) float32 in [0, 1].
        rng: Source of all random numbers.
        params: Ranges.
        rain_gain: Brightness of lit rain relative to the lit scene, a range.
    """
    shape = day.shape[:2]
    ambient = log_uniform(rng, params.ambient) * kelvin_to_rgb(rng.uniform(*params.ambient_kelvin))
    lit, glow, rain = (np.zeros((*shape, 3), np.float32) for _ in range(3))
    halo = rng.uniform(*params.halo)
    for _ in range(int(rng.integers(params.lamps[0], params.lamps[1], endpoint=True))):
        colour, distance = _lamp_colour(rng, params, 0.35), _lamp_distance(shape, rng)
        power, reach = rng.uniform(*params.lamp_power), rng.uniform(*params.reach)
        lit += power * colour / (1 + (distance / reach) ** 2)[..., None]
        rain += power * colour / (1 + (distance / (0.6 * reach)) ** 2)[..., None]
        glow += colour * _glow(distance, rng.uniform(0.006, 0.02), halo)[..., None]
    for _ in range(int(rng.integers(params.far_lamps[0], params.far_lamps[1], endpoint=True))):
        _add_far_lamp(glow, _lamp_colour(rng, params, 0.9), halo, rng)
    scene = day * (ambient + lit) * (1 - 0.75 * _sky(day))[..., None]
    level = max(float(np.mean(scene @ LUMA)), 0.25 * float(np.quantile(scene[::4, ::4], 0.98)), 1e-4)
    gain = rng.uniform(*params.exposure) / level
    light = (rng.uniform(*rain_gain) * rain + ambient) * gain
    scene = scene * gain + glow
    noise = rng.standard_normal(day.shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.5)
    return Night(
        scene * gain, light, noise / noise.std(), rng.uniform(*params.shot_noise), rng.uniform(*params.read_noise)
    )


def _lamp_colour(rng: np.random.Generator, params: NightParams, saturation: float) -> np.ndarray:
    """Linear RGB of a lamp with luminance 1: a black body, or a signal's colour of this saturation."""
    kelvin, neon, hue = rng.uniform(*params.lamp_kelvin), rng.random(), rng.uniform(0, 2 * np.pi)
    if neon >= params.neon_share:
        return kelvin_to_rgb(kelvin)
    colour = 1 + saturation * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)
    return (colour / float(colour @ LUMA)).astype(np.float32)


def _lamp_distance(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Distance (H, W) of every pixel from a lamp, relative to the shorter side; lamps hang in the upper part."""
    x, y = rng.uniform(0.03, 0.97) * shape[1], rng.beta(1.5, 3.5) * shape[0]
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (np.hypot(columns - x, rows - y) / min(shape)).astype(np.float32)


def _glow(distance: np.ndarray, size: float, halo: float) -> np.ndarray:
    """A lamp as the camera sees it: a core far beyond saturation, and a halo with long tails (lens, moist air)."""
    square = (distance / size) ** 2
    tail = 1 + square
    return 6 * np.exp(-0.5 * square) + 1.5 / (tail * np.sqrt(tail)) + halo / (1 + square / 16)


def _add_far_lamp(glow: np.ndarray, colour: np.ndarray, halo: float, rng: np.random.Generator) -> None:
    """Add a distant lamp, a dot whose glow fades out within ``reach`` of it, to a picture (H, W, 3) in place."""
    shape, reach = glow.shape[:2], 0.12
    x, y = rng.uniform(0, 1) * shape[1], rng.beta(1.5, 3.5) * shape[0]
    size, extent = rng.uniform(0.002, 0.005), reach * min(shape)
    rows = slice(max(int(y - extent), 0), int(y + extent) + 1)
    columns = slice(max(int(x - extent), 0), int(x + extent) + 1)
    window = glow[rows, columns]
    dy = np.arange(rows.start, rows.start + window.shape[0], dtype=np.float32) - y
    dx = np.arange(columns.start, columns.start + window.shape[1], dtype=np.float32) - x
    distance = np.hypot(dx, dy[:, None]).astype(np.float32) / min(shape)
    fade = np.maximum(1 - (distance / reach) ** 2, 0) ** 2
    window += colour * (fade * _glow(distance, size, 0.2 * halo))[..., None]


def _sky(day: np.ndarray) -> np.ndarray:
    """Likelihood (H, W) of sky in [0, 1]: a bright pixel near bright and smooth ones in the upper part."""
    luminance = day @ LUMA
    size = max(min(day.shape[:2]) / 60, 0.8)
    mean = cv2.GaussianBlur(luminance, (0, 0), size)
    detail = cv2.GaussianBlur(np.abs(luminance - mean), (0, 0), size)
    rows = np.linspace(0, 1, day.shape[0], dtype=np.float32)[:, None]
    smooth = smoothstep(0.15, 0.5, mean) * smoothstep(0.06, 0.015, detail) * smoothstep(1.0, 0.3, rows)
    reach = 2 * int(2 * size) + 1  # back to the outline that the blur has eaten
    near = cv2.blur(cv2.dilate(smooth, np.ones((reach, reach), np.uint8)), (reach, reach))
    return near * smoothstep(0.08, 0.4, luminance)
