"""The four rain scenes: which parts make a pair of each type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unirain_plugin.rain.drops import add_drops
from unirain_plugin.rain.light import surroundings, to_codes, to_linear
from unirain_plugin.rain.night import make_night
from unirain_plugin.rain.params import RainParams
from unirain_plugin.rain.streaks import streak_opacity, veil_opacity

Rendered = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rainy and clean picture, (H, W, 3) uint8, and the rain's opacity, (H, W) float32 in [0, 1]."""

_VISIBLE = 4e-3
"""Opacity below this is no rain: it would not change an 8-bit code of a mid-grey pixel."""
_LAMPS_AS_SKY = 0.35
"""Lamps fill a drop this much as a sky of the same light would."""


def _add_streaks(
    scene: np.ndarray, light: np.ndarray, rng: np.random.Generator, params: RainParams
) -> tuple[np.ndarray, np.ndarray]:
    """Mist first, then the streaks before it; both mix the scene with the light that the drops send to the camera."""
    shape = scene.shape[:2]
    opacity = streak_opacity(shape, rng, params.streaks)
    brightness = rng.uniform(*params.streaks.brightness)
    veil = veil_opacity(shape, rng, params.streaks)
    mask = 1 - (1 - opacity) * (1 - veil)
    mask[mask < _VISIBLE] = 0
    added = opacity * brightness + (1 - opacity) * veil * 0.8
    return scene * (1 - mask)[..., None] + added[..., None] * light, mask


def _day_streaks(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    scene = to_linear(photo)
    rainy, mask = _add_streaks(scene, surroundings(scene), rng, params)
    return _outside_equal(to_codes(rainy), photo.copy(), mask)


def _day_drops(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    scene = to_linear(photo)
    sky = surroundings(scene)
    rainy, mask = add_drops(scene, sky, sky, rng, params.drops)
    return _outside_equal(to_codes(rainy), photo.copy(), mask)


def _night_streaks(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    night = make_night(to_linear(photo), rng, params.night, params.night.streak_gain)
    rainy, mask = _add_streaks(night.scene, night.light, rng, params)
    return _outside_equal(night.photograph(rainy), night.photograph(night.scene), mask)


def _night_drops(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    """At night lamps make the highlights as the sky does by day, but fill a drop far less: they are small."""
    night = make_night(to_linear(photo), rng, params.night, params.night.drop_gain)
    rainy, mask = add_drops(night.scene, night.light, _LAMPS_AS_SKY * night.light, rng, params.drops)
    return _outside_equal(night.photograph(rainy), night.photograph(night.scene), mask)


def _outside_equal(lq: np.ndarray, gt: np.ndarray, mask: np.ndarray) -> Rendered:
    """Make the pair equal to the bit wherever there is no rain."""
    return np.where(mask[..., None] > 0, lq, gt), gt, mask


SCENES: dict[str, Callable[[np.ndarray, np.random.Generator, RainParams], Rendered]] = {
    "drs": _day_streaks,
    "drd": _day_drops,
    "nrs": _night_streaks,
    "nrd": _night_drops,
}
"""Rain type → renderer of one pair."""
