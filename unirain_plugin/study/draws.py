"""Draws of the renderer's parameters beyond its ranges: rain of another look than anybody set."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from unirain_plugin.rain.params import RainParams

T = TypeVar("T")


def other_rain(params: RainParams, rng: np.random.Generator, reach: float) -> RainParams:
    """Multiply each range of streaks and drops by a factor of its own.

    Args:
        params: The renderer's ranges; they are not changed. Night, camera and whole numbers stay as they are.
        rng: Draws the factors.
        reach: Factors are 1/reach to reach, log-uniformly. 1.5 gives rain of another day, 2 odd rain, 6 mostly rain
            that nobody has seen.

    Returns:
        Ranges in which opacities and other shares, which lie in [0, 1], still do.
    """
    return replace(params, **{part: _stretched(getattr(params, part), rng, reach) for part in ("streaks", "drops")})


def _stretched(part: T, rng: np.random.Generator, reach: float) -> T:
    changes = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, tuple) and not all(isinstance(number, int) for number in field.default):
            factor = math.exp(rng.uniform(-1, 1) * math.log(reach))
            limit = 1.0 if max(map(abs, value)) <= 1 else math.inf
            changes[field.name] = tuple(min(number * factor, limit) for number in value)
    return replace(part, **changes)
