"""The scenes of rain, snow and haze: which parts make a pair of each type."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.rain.drops import add_drops
from unirain_plugin.rain.light import LUMA, surroundings, to_codes, to_linear
from unirain_plugin.rain.night import make_night
from unirain_plugin.rain.params import CameraParams, RainParams, StreakParams
from unirain_plugin.rain.streaks import streak_opacity, veil_opacity
from unirain_plugin.rain.variation import compressed
from unirain_plugin.rain.weather import add_haze, add_snow

Rendered = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rainy and clean image, (H, W, 3) uint8, and the rain's opacity, (H, W) float32 in [0, 1]."""

_VISIBLE = 4e-3  # opacity below this is no rain: it would not change an 8-bit code of a mid-grey pixel
_LAMPS_AS_SKY = 0.35  # lamps fill a drop this much as a sky of the same light would


def _add_streaks(
    scene: np.ndarray, light: np.ndarray, rng: np.random.Generator, params: StreakParams
) -> tuple[np.ndarray, np.ndarray]:
    """Mist first, then the streaks before it; both mix the scene with the light that the drops send to the camera."""
    shape = scene.shape[:2]
    opacity = streak_opacity(shape, rng, params)[..., None]
    brightness = rng.uniform(*params.brightness)
    veil = veil_opacity(scene, rng, params)[..., None]
    more = rng.spawn(1)[0]
    in_codes, only_added = more.random(2) < (params.code_share, params.added_share)
    misty = scene + veil * (more.uniform(*params.veil_light) * light - scene)
    curve = 2.2 if in_codes or params.drawn_share == 1 else 1.0
    before, rain = (np.maximum(x, 0) ** np.float32(1 / curve) for x in (misty, brightness * light))
    if params.drawn_share == 1:
        rain = np.float32(more.uniform(*params.grey))
    rainy = (before * (1 - opacity * (not only_added)) + opacity * rain) ** np.float32(curve)
    mask = 1 - (1 - opacity) * (1 - veil)
    mask[mask < _VISIBLE] = 0
    return np.where(mask > 0, rainy, scene), mask[..., 0]


def _drawn(rng: np.random.Generator, params: StreakParams) -> StreakParams:
    """The same ranges for a scene whose rain is certainly drawn, or certainly not."""
    share = params.drawn_share
    return replace(params, drawn_share=float(rng.spawn(1)[0].random() < share)) if 0 < share < 1 else params


def _sky_light(scene: np.ndarray, rng: np.random.Generator, params: RainParams) -> np.ndarray:
    """Linear RGB (3,) of what rain shows by day: the bright surroundings, or a sky outside the image."""
    light = surroundings(scene)
    return light * max(1, rng.spawn(1)[0].uniform(*params.daylight) / max(float(light @ LUMA), 1e-3))


def _darkened(scene: np.ndarray, rng: np.random.Generator, params: CameraParams) -> np.ndarray:
    """The scene, or a share of its light at more contrast."""
    more = rng.spawn(1)[0]
    gain, gamma = more.uniform(*params.gain), more.uniform(*params.gamma)
    if more.random() >= params.dark_share:
        return scene
    dark = gain * scene ** np.float32(gamma)
    if contrast := more.uniform(*params.contrast):
        codes = np.clip(dark, 0, 1) ** np.float32(1 / 2.2)
        dark = np.maximum(codes - contrast / (2 * np.pi) * np.sin(2 * np.pi * codes), 0) ** np.float32(2.2)
    return dark


def _day_streaks(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    scene = to_linear(photo)
    light = _sky_light(scene, rng, params)
    dark = _darkened(scene, rng, params.camera)
    rainy, mask = _add_streaks(dark, light, rng, _drawn(rng, params.streaks))
    return _outside_equal(to_codes(rainy), photo.copy(), mask if dark is scene else np.maximum(mask, _VISIBLE))


def _day_drops(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    scene = to_linear(photo)
    sky = _sky_light(scene, rng, params)
    rainy, mask = add_drops(scene, sky, sky, rng, params.drops)
    return _outside_equal(to_codes(rainy), photo.copy(), mask)


def _night_streaks(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    night = make_night(to_linear(photo), rng, params.night, params.night.streak_gain)
    streaks, clean = _drawn(rng, params.streaks), night.photograph(night.scene)
    if streaks.drawn_share:
        scene = to_linear(clean)
        rainy, mask = _add_streaks(scene, surroundings(scene), rng, streaks)
        return _outside_equal(to_codes(rainy), clean, mask)
    rainy, mask = _add_streaks(night.scene, night.light, rng, streaks)
    return _outside_equal(night.photograph(rainy), clean, mask)


def _night_drops(photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    """At night lamps make the highlights as the sky does by day, but fill a drop far less: they are small."""
    night = make_night(to_linear(photo), rng, params.night, params.night.drop_gain)
    rainy, mask = add_drops(night.scene, night.light, _LAMPS_AS_SKY * night.light, rng, params.drops)
    return _outside_equal(night.photograph(rainy), night.photograph(night.scene), mask)


def _weather(add: Callable, part: str, photo: np.ndarray, rng: np.random.Generator, params: RainParams) -> Rendered:
    """Snow or haze: ``add`` draws from that part of the parameters."""
    scene = to_linear(photo)
    rainy, mask = add(scene, surroundings(scene), rng, getattr(params, part))
    return _outside_equal(to_codes(rainy), photo.copy(), np.where(mask < _VISIBLE, 0, mask))


def _outside_equal(lq: np.ndarray, gt: np.ndarray, mask: np.ndarray) -> Rendered:
    """Make the pair equal to the bit wherever there is no rain."""
    return np.where(mask[..., None] > 0, lq, gt), gt, mask


SCENES: dict[str, Callable[[np.ndarray, np.random.Generator, RainParams], Rendered]] = {
    "drs": _day_streaks,
    "drd": _day_drops,
    "nrs": _night_streaks,
    "nrd": _night_drops,
    "snow": partial(_weather, add_snow, "snow"),
    "haze": partial(_weather, add_haze, "haze"),
}
"""Rain type → renderer of one pair."""


def check_renderers(names: Iterable[str], where: str) -> None:
    """Refuse types that nothing renders; the OptionError names the nearest."""
    for name in names:
        if name not in SCENES:
            hint = did_you_mean(name, SCENES)
            raise OptionError(f"{where}: {name!r} is unknown; expected some of {', '.join(SCENES)}.{hint}")


def render(photo: np.ndarray, rain_type: str, rng: np.random.Generator, params: RainParams) -> Rendered:
    """Render a pair of a rain type; both images may be compressed last, alike: only the rain tells them apart.

    An OptionError if a renderer of a user's own gives something else than a pair of the photograph's size.
    """
    found = SCENES[rain_type](photo, rng, params)
    found = found if isinstance(found, tuple) else (found,)
    images = [(getattr(one, "shape", type(one).__name__), str(getattr(one, "dtype", ""))) for one in found]
    expected = [(photo.shape, "uint8"), (photo.shape, "uint8"), (photo.shape[:2], "float32")]
    if images != expected:
        told, wanted = (", ".join(f"{shape} {dtype}".strip() for shape, dtype in each) for each in (images, expected))
        raise OptionError(
            f"rain type {rain_type!r}: its renderer gave {told}; expected rainy image, clean image, opacity: {wanted}."
        )
    rainy, clean, mask = found
    more = rng.spawn(1)[0]
    if more.random() < params.camera.jpeg_share:
        quality = more.uniform(*params.camera.jpeg)
        rainy, clean = (compressed(image, more, (quality, quality)) for image in (rainy, clean))
        mask = np.where((rainy != clean).any(axis=2), np.maximum(mask, _VISIBLE), 0).astype(np.float32)
    return rainy, clean, mask
