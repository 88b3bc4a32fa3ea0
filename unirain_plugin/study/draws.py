"""Draws of the renderer's parameters beyond its ranges: rain of another look than anybody set."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from unirain_plugin.rain.params import RainParams

T = TypeVar("T")


def other_rain(params: RainParams, rng: np.random.Generator, reach: float, width: float = 1.0) -> RainParams:
    """Multiply each range of streaks and drops by a factor of its own, and narrow it; shares stay within [0, 1].

    Night, camera and whole numbers stay as they are. ``reach``: factors are 1/reach to reach, log-uniformly: 1.5 gives
    rain of another day, 2 odd rain, 6 mostly rain that nobody has seen. ``width``: share of each range's width that is
    kept, at a random place in it: with less than 1 the rain of one day.
    """
    return replace(
        params, **{part: _stretched(getattr(params, part), rng, reach, width) for part in ("streaks", "drops")}
    )


def _stretched(part: T, rng: np.random.Generator, reach: float, width: float) -> T:
    changes = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, tuple) and not all(isinstance(number, int) for number in field.default):
            factor = math.exp(rng.uniform(-1, 1) * math.log(reach))
            limit = 1.0 if max(map(abs, value)) <= 1 else math.inf
            low, high = (min(number * factor, limit) for number in value)
            start = low + rng.uniform(0, 1 - width) * (high - low) if width < 1 else low
            changes[field.name] = start, start + width * (high - low)
    return replace(part, **changes)
