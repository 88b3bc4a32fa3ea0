"""Known-bad pairs, planted among good ones to see whether the voters find them: functions that spoil a good pair.

Those with a goal in the benchmark are in :data:`KINDS`; :data:`FURTHER_KINDS` happen in public data sets.
:data:`GOOD_KINDS` leave a pair good: noise of a camera in both images, both coded as JPEG. :data:`RAIN_KINDS` are sound
pairs of rain that is seldom or never seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

import cv2
import numpy as np

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.rain.params import REAL_RAIN, RainParams
from unirain_plugin.rain.render import render_rain

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


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair in memory: rainy and clean image (uint8 RGB, H × W × 3), rain type, and the photograph's name."""

    lq: np.ndarray
    gt: np.ndarray
    rain_type: str
    scene: str = ""


_BY_DAY = {"nrs": "drs", "nrd": "drd"}
"""Night types → what is rendered instead onto an image that is night already: the renderer would relight it."""

Rng = np.random.Generator
Image = np.ndarray
Spoil = Callable[[Pair, Pair, Rng], Pair]
"""(good pair, a good pair of another scene and the same rain type, random generator) → bad pair."""


def plant(kind: str, pair: Pair, other: Pair, rng: Rng) -> Pair:
    """Spoil a good pair, which is not changed; OptionError if the kind is unknown.

    ``other``: a good pair of another scene, for ``wrong_scene`` and other rain; ``rng`` draws shifts, strengths,
    places.
    """
    known = {**KINDS, **FURTHER_KINDS, **GOOD_KINDS, **RAIN_KINDS}
    if kind not in known:
        raise OptionError(f"planted kind {kind!r} is unknown.{did_you_mean(kind, known)} Known: {', '.join(known)}.")
    spoilt = known[kind](pair, other, rng)
    return replace(spoilt, lq=np.ascontiguousarray(spoilt.lq), gt=np.ascontiguousarray(spoilt.gt))


def _clean(change: Callable[[Image, Rng], Image]) -> Spoil:
    """A kind that concerns the clean image alone."""
    return lambda pair, other, rng: replace(pair, gt=change(pair.gt, rng))


def _either(draw: Callable[[Rng], Callable[[Image], Image]]) -> Spoil:
    """A kind that changes either image: first the change is drawn, then the image."""

    def spoil(pair: Pair, other: Pair, rng: Rng) -> Pair:
        change = draw(rng)
        if rng.random() < 0.5:
            return replace(pair, lq=change(pair.lq))
        return replace(pair, gt=change(pair.gt))

    return spoil


def _codes(values: np.ndarray) -> Image:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _rain_left(pair: Pair, share: float) -> Pair:
    """A share of the rain is left in the clean image."""
    return replace(pair, gt=_codes(pair.gt + share * (pair.lq.astype(np.float32) - pair.gt)))


def _misaligned(pair: Pair, other: Pair, rng: Rng, distance: int) -> Pair:
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = round(distance * np.cos(angle)), round(distance * np.sin(angle))
    height, width = pair.gt.shape[:2]
    return replace(
        pair,
        lq=pair.lq[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)],
        gt=pair.gt[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)],
    )


def _wrong_scene(pair: Pair, other: Pair, rng: Rng) -> Pair:
    height, width = (min(a, b) for a, b in zip(pair.lq.shape[:2], other.gt.shape[:2], strict=True))
    return replace(pair, lq=pair.lq[:height, :width], gt=other.gt[:height, :width])


def _still_rainy(pair: Pair, other: Pair, rng: Rng) -> Pair:
    """Half of them keep a share of the same rain, up to all of it; the other half are taken in other rain."""
    if rng.random() < 0.5:
        return _rain_left(pair, rng.uniform(0.3, 1.0))
    if pair.rain_type not in _BY_DAY:
        return replace(pair, gt=render_rain(pair.gt, pair.rain_type, rng).lq)
    # By night the renderer would relight the scene: another night scene's rain is laid over this one.
    rain = cv2.resize(other.lq.astype(np.float32) - other.gt, pair.gt.shape[1::-1])
    return replace(pair, gt=_codes(pair.gt + rain))


def _jpeg(image: Image, quality: int) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def _both_coded(pair: Pair, other: Pair, rng: Rng, worst: int = 80) -> Pair:
    quality = int(rng.integers(worst, 96))
    return replace(pair, lq=_jpeg(pair.lq, quality), gt=_jpeg(pair.gt, quality))


def _flat_rain(pair: Pair, other: Pair, rng: Rng) -> Pair:
    """Grey lines of one width and one colour, opaque or evenly translucent, some with smoothed edges."""
    height, width = pair.gt.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    angle, length = np.deg2rad(rng.uniform(-30, 30)), rng.uniform(0.05, 0.2) * height
    style = cv2.LINE_AA if rng.random() < 0.25 else cv2.LINE_8
    thickness = int(rng.integers(1, 4))
    for _ in range(int(rng.integers(40, 250))):
        start = rng.uniform(0, width), rng.uniform(0, height)
        end = start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)
        cv2.line(mask, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 255, thickness, style)
    opacity = mask[..., None] / 255 * rng.uniform(0.4, 1.0)
    return replace(pair, lq=_codes(pair.gt * (1 - opacity) + rng.uniform(130, 235) * opacity))


def _other_rain(pair: Pair, other: Pair, rng: Rng, reach: float) -> Pair:
    """Rain whose parameters are up to ``reach`` times what the renderer's ranges allow, or a ``reach``-th of it."""
    rain_type = _BY_DAY.get(pair.rain_type, pair.rain_type)
    kinds = (RainParams(), *REAL_RAIN.get(rain_type, ()))
    params = other_rain(kinds[rng.integers(len(kinds))], rng, reach)
    return replace(pair, lq=render_rain(pair.gt, rain_type, rng, params).lq)


def _exposure(rng: Rng) -> Callable[[Image], Image]:
    """Scaled by up to a factor of 1.6, or moved by up to 45 levels, up or down."""
    if rng.random() < 0.5:
        factor = rng.uniform(1.22, 1.6) ** rng.choice([-1, 1])
        return lambda image: _codes(image * factor)
    offset = rng.choice([-1, 1]) * rng.uniform(15, 45)
    return lambda image: _codes(image + offset)


def _gamma(rng: Rng) -> Callable[[Image], Image]:
    exponent = rng.choice([0.6, 1.6])
    return lambda image: _codes(255 * (image / 255) ** exponent)


def _cast(rng: Rng) -> Callable[[Image], Image]:
    gains = np.ones(3)
    gains[rng.integers(3)] = rng.choice([0.75, 1.3])
    return lambda image: _codes(image * gains)


def _hue_turned(rng: Rng) -> Callable[[Image], Image]:
    """By 30 degrees, either way."""
    turn = 30.0 * rng.choice([-1, 1])

    def change(image: Image) -> Image:
        hsv = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + turn) % 360
        return _codes(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))

    return change


def _noise(pair: Pair, other: Pair, rng: Rng, levels: tuple[float, float], images: str) -> Pair:
    sigma = rng.uniform(*levels)
    return replace(
        pair, **{name: _codes(getattr(pair, name) + rng.normal(0, sigma, pair.gt.shape)) for name in images.split()}
    )


def _framed(gt: Image, rng: Rng) -> Image:
    """A border of one colour, on all sides or on two opposite ones."""
    gt, (height, width) = gt.copy(), gt.shape[:2]
    edge = max(2, round(rng.uniform(0.01, 0.06) * min(height, width)))
    colour = rng.choice([0, 255]) if rng.random() < 0.5 else rng.integers(0, 256, 3)
    sides = rng.choice(["rows", "columns", "all"], p=[0.25, 0.25, 0.5])
    if sides != "columns":
        gt[:edge] = gt[height - edge :] = colour
    if sides != "rows":
        gt[:, :edge] = gt[:, width - edge :] = colour
    return gt


def _interlaced(gt: Image, rng: Rng) -> Image:
    """Every second line is of another moment, at which the camera had moved sideways."""
    gt, step = gt.copy(), int(rng.integers(2, 9) * rng.choice([-1, 1]))
    gt[1::2] = np.roll(gt[1::2], step, axis=1)
    return gt


def _warped(gt: Image, rng: Rng, angle: tuple[float, float] = (0, 0), scale: tuple[float, float] = (1, 1)) -> Image:
    height, width = gt.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(*angle), rng.uniform(*scale))
    return cv2.warpAffine(gt, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _stamped(gt: Image, rng: Rng) -> Image:
    """A caption is written into it."""
    gt, (height, width) = gt.copy(), gt.shape[:2]
    place = int(rng.uniform(0, width / 4)), int(rng.uniform(0.2, 0.95) * height)
    return cv2.putText(gt, "sample picture 2024", place, cv2.FONT_HERSHEY_SIMPLEX, width / 400, (255, 255, 255), 2)


DUPLICATE = "duplicate"  # found among the candidates (distill.stages.duplicates), not by voters

KINDS: dict[str, Spoil] = {
    **{f"misaligned_{distance}px": partial(_misaligned, distance=distance) for distance in range(1, 9)},
    "wrong_scene": _wrong_scene,
    "still_rainy": _still_rainy,
    "blurred": _clean(lambda gt, rng: cv2.GaussianBlur(gt, (0, 0), rng.uniform(1.0, 3.0))),
    "blocky": _clean(lambda gt, rng: _jpeg(gt, int(rng.integers(5, 26)))),
    "flat_rain": _flat_rain,
    "exposure_shift": _either(_exposure),
    "swapped": lambda pair, other, rng: replace(pair, lq=pair.gt, gt=pair.lq),
    "hue_turned": _either(_hue_turned),
    "grey_clean": _clean(lambda gt, rng: cv2.cvtColor(cv2.cvtColor(gt, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)),
    "framed_clean": _clean(_framed),
    "interlaced_clean": _clean(_interlaced),
    "half_left": lambda pair, other, rng: _rain_left(pair, 0.5),
    DUPLICATE: lambda pair, other, rng: pair if rng.random() < 0.5 else _both_coded(pair, other, rng, 85),
}
FURTHER_KINDS: dict[str, Spoil] = {
    "noisy_clean": partial(_noise, levels=(8, 25), images="gt"),
    "noisy_rainy": partial(_noise, levels=(10, 25), images="lq"),
    "colour_cast": _either(_cast),
    "gamma": _either(_gamma),
    "scaled": _clean(partial(_warped, scale=(1.02, 1.1))),
    "turned": _clean(partial(_warped, angle=(1, 4))),
    "flipped": _clean(lambda gt, rng: gt[:, ::-1]),
    "caption_in_clean": _clean(_stamped),
    "no_rain": lambda pair, other, rng: replace(pair, lq=pair.gt),
    "black_clean": _clean(lambda gt, rng: np.zeros_like(gt)),
}
RAIN_KINDS: dict[str, Spoil] = {
    "odd_rain": partial(_other_rain, reach=2),
    "implausible_rain": partial(_other_rain, reach=6),
}
GOOD_KINDS: dict[str, Spoil] = {
    "good_with_noise": partial(_noise, levels=(1, 4), images="lq gt"),
    "good_as_jpeg": _both_coded,
}
