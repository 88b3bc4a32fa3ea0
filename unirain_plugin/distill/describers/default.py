"""The default captioner, embedder and text encoder: figures measured on the image. No weights, offline."""

import re
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from unirain_plugin.distill.describers.base import Captioner, Embedder, Scene, TextEncoder
from unirain_plugin.distill.describers.rain_cues import RainCues, rain_cues
from unirain_plugin.distill.records import thumbnail
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER


@CAPTIONER.register()
class AttributesCaptioner(Captioner):
    """Light, streak direction and density, drop count and size, blur, in words and in numbers.

    The numbers, which the text encoder ``attributes`` reads, keep images apart that the same words describe.
    """

    registry_name = "attributes"

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        return [sentence(rain_cues(scene.image)) for scene in scenes]


def sentence(cues: RainCues) -> str:
    light = "nighttime" if cues.night >= 0.5 else "daytime"
    tone = _word(cues.brightness, (0.2, "very dark"), (0.35, "dark"), (0.6, "moderately lit"), (1.1, "bright"))
    if cues.streaks >= 0.5:
        amount = _word(cues.density, (0.002, "sparse"), (0.006, "many"), (2.0, "dense"))
        rain = f"{amount} rain streaks falling at {cues.angle} degrees"
    else:
        amount = _word(cues.drops, (8, "few"), (60, "many"), (1e9, "very many"))
        rain = f"{amount} raindrops on the lens"
    detail = _word(cues.sharpness, (0.18, "blurred"), (0.26, "soft"), (2.0, "sharp"))
    return (
        f"A {detail}, {tone} {light} scene with {rain} "
        f"(night {cues.night:.3f}, brightness {cues.brightness:.3f}, contrast {cues.contrast:.3f}; "
        f"streaks {cues.streaks:.3f}, angle {cues.angle}, density {cues.density:.4f}; "
        f"drops {cues.drops}, drop size {cues.drop_size:.3f}; sharpness {cues.sharpness:.3f})."
    )


def _word(value: float, *steps: tuple[float, str]) -> str:
    return next(word for limit, word in steps if value < limit)


_SIDE = 64


@EMBEDDER.register()
class StatisticsEmbedder(Embedder):
    """Four blocks of figures, each about 0 on average and of about unit length, so that cosines spread over −1 … 1:

    * illumination: brightness, dark share, night, luma on a 4×4 grid;
    * colour: means and spreads of the opponent colours, colour noise;
    * direction: energy of thin bright lines for each direction, evidence of streaks, roundness;
    * frequency: contrast in five octave bands.
    """

    registry_name = "statistics"
    batch_size = 4  # nothing is gained by more, and few images stay in the processor's cache from part to part

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([_describe(image) for image in images]).astype(np.float32)


def _describe(image: np.ndarray) -> np.ndarray:
    cues = rain_cues(image)
    small = thumbnail(image, _SIDE).astype(np.float32) / 255
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)
    lines = np.log(cues.lines + 0.05)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    first, second = red - green, (red + green) / 2 - blue
    bands, level = [], luma  # contrast in octave bands, as shares in log scale around their mean, and in all
    for _ in range(4):
        lower = cv2.pyrDown(level)
        bands.append(float((level - cv2.pyrUp(lower, dstsize=level.shape[::-1])).std()))
        level = lower
    bands.append(float(level.std()))
    logs = np.log(np.array(bands) + 0.005)
    return np.concatenate([
        [1.5 * (2 * cues.night - 1), 2 * (cues.brightness - 0.4), cues.dark - 0.2],
        0.4 * (cv2.resize(luma, (4, 4), interpolation=cv2.INTER_AREA).ravel() - 0.4),
        [first.mean(), second.mean(), first.std() - 0.1, second.std() - 0.1, 0.2 * (np.log(cues.calm + 0.02) + 1.2)],
        0.15 * (lines - lines.mean()),
        [1.5 * (2 * cues.streaks - 1), 2 * (cues.roundness - 0.35)],
        0.2 * (logs - logs.mean()), [0.2 * (logs.mean() + 3)],
    ])  # fmt: skip


_NUMBER = re.compile(r"\b(night|brightness|contrast|streaks|angle|density|drops|drop size|sharpness) (\d+(?:\.\d+)?)")
_WORD = re.compile(r"[a-z]+")
_LEXICON = {
    "night": {"night": 1.0, "nighttime": 1.0, "dark": 0.8, "evening": 0.8, "lamp": 0.7, "lamps": 0.7, "lit": 0.6,
              "headlights": 0.8, "daytime": 0.0, "day": 0.0, "daylight": 0.0, "sunny": 0.0, "bright": 0.2},
    "streaks": {"streak": 1.0, "streaks": 1.0, "falling": 0.9, "pouring": 0.9, "downpour": 0.9, "drizzle": 0.8,
                "drop": 0.0, "drops": 0.0, "raindrop": 0.0, "raindrops": 0.0, "droplets": 0.0, "lens": 0.1,
                "windshield": 0.1, "window": 0.1, "glass": 0.1},
}  # fmt: skip
"""Words of foreign captions (BLIP's, say) → the cue's value; the mean counts where the sentence states no number."""
_HASHED = 48
_WORD_WEIGHT = 0.15


@TEXT_ENCODER.register()
class AttributesTextEncoder(TextEncoder):
    """Night and streaks weigh most (together they are the rain type), then the finer figures, then the other words.

    Captions of the captioner ``attributes`` bring numbers, which are clipped to their range; in others, known words
    stand in for them, and every word moves the vector a little by its hash, so that captions about like scenes lie
    nearer.
    """

    registry_name = "attributes"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_encode(text.lower()) for text in texts]).astype(np.float32)


def _encode(text: str) -> np.ndarray:
    numbers = {name: float(value[:12]) for name, value in _NUMBER.findall(text)}
    words = _WORD.findall(_NUMBER.sub(" ", text))
    for cue, lexicon in _LEXICON.items():
        if cue not in numbers:
            known = [lexicon[word] for word in words if word in lexicon]
            numbers[cue] = sum(known) / len(known) if known else 0.5
    night, streaks = (min(numbers[cue], 1.0) for cue in ("night", "streaks"))
    turn = np.deg2rad(2 * min(numbers.get("angle", 90.0), 180.0))
    drops = min(numbers.get("drops", 0.0), 1000.0)
    figures = [
        4 * night,
        4 * streaks,
        0.5 * streaks * np.cos(turn),
        0.5 * streaks * np.sin(turn),
        0.15 * streaks * np.log(1e-3 + min(numbers.get("density", 0.0), 1.0)),
        0.15 * (1 - streaks) * np.log1p(drops),
        2 * (1 - streaks) * min(numbers.get("drop size", 0.0), 1.0),
        min(numbers.get("brightness", 0.5), 1.0),
        min(numbers.get("contrast", 0.2), 1.0),
        min(numbers.get("sharpness", 0.2), 1.0),
    ]
    hashed = np.zeros(_HASHED)
    for word in words:
        code = zlib.crc32(word.encode())
        hashed[code % _HASHED] += 1.0 if code >> 16 & 1 else -1.0
    return np.concatenate([figures, _WORD_WEIGHT * hashed / max(1.0, float(np.linalg.norm(hashed)))])
