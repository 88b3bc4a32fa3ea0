"""Rain, snow and haze on clean photographs: the public face of the renderer. Only numpy and OpenCV are needed.

From one clean photograph :func:`render_rain` makes a pair, rainy (``lq``) and clean (``gt``), in linear light.
"""

from typing import NamedTuple

import numpy as np

from unirain_plugin.errors import DataError, OptionError, did_you_mean
from unirain_plugin.rain.params import DropParams, NightParams, RainParams, StreakParams
from unirain_plugin.rain.scene import SCENES, render

__all__ = ["MIN_SIDE", "DropParams", "NightParams", "RainPair", "RainParams", "StreakParams", "render_rain"]

MIN_SIDE = 32  # smallest height and width of a photograph, pixels: below it rain has no recognisable form


class RainPair(NamedTuple):
    """A rendered pair."""

    lq: np.ndarray  # rainy image, (H, W, 3) uint8 RGB
    gt: np.ndarray  # clean image of the same moment, (H, W, 3) uint8 RGB. By day it is the photograph itself.
    mask: np.ndarray  # opacity of the rain, (H, W) float32 in [0, 1]. Where it is 0, ``lq`` equals ``gt`` to the bit.


def render_rain(
    photo: np.ndarray, rain_type: str, rng: np.random.Generator | int, params: RainParams | None = None
) -> RainPair:
    """Render one rainy/clean pair of a photograph, (H, W, 3) RGB, uint8 or floating point in [0, 1] (rounded to 8
    bits).

    ``rain_type``: ``drs``, ``drd``, ``nrs``, ``nrd``, ``snow`` or ``haze``; ``rng``: a generator, or a seed ≥ 0, from
    which each rain type gets a stream of its own. The same photograph, type and seed give the same pair, whatever was
    rendered before. An OptionError if the rain type is unknown or the seed is no integer ≥ 0; a DataError if the
    photograph is not a colour image of at least 32×32 pixels, or its values are out of range.
    """
    if rain_type not in SCENES:
        raise OptionError(
            f"rain type {rain_type!r} cannot be rendered; known types: {', '.join(SCENES)}."
            f"{did_you_mean(rain_type, SCENES)}"
        )
    if not isinstance(rng, np.random.Generator):
        if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)) or rng < 0:
            raise OptionError(f"seed: found {rng!r}; expected an integer ≥ 0 or a numpy Generator.")
        rng = np.random.default_rng([int(rng), list(SCENES).index(rain_type)])
    return RainPair(*render(_as_codes(photo), rain_type, rng, params or RainParams()))


def _as_codes(photo: np.ndarray) -> np.ndarray:
    """Check a photograph and bring it to uint8."""
    if not isinstance(photo, np.ndarray) or photo.ndim != 3 or photo.shape[2] != 3:
        found = f"shape {photo.shape}" if isinstance(photo, np.ndarray) else type(photo).__name__
        raise DataError(f"photo: found {found}; expected a colour image, an array of shape (H, W, 3).")
    if min(photo.shape[:2]) < MIN_SIDE:
        raise DataError(f"photo: {photo.shape[0]}×{photo.shape[1]} pixels; expected at least {MIN_SIDE}×{MIN_SIDE}.")
    if photo.dtype == np.uint8:
        return photo
    if not np.issubdtype(photo.dtype, np.floating):
        raise DataError(f"photo: found values of type {photo.dtype}; expected uint8 or floating point in [0, 1].")
    low, high = float(photo.min()), float(photo.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise DataError(f"photo: found values from {low:g} to {high:g}; floating point must lie in [0, 1].")
    return np.round(photo * 255).astype(np.uint8)
