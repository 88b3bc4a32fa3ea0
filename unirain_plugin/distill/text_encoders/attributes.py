"""The default text encoder: reads light and rain out of a sentence. No weights, offline."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from unirain_plugin.distill.registry import TEXT_ENCODER
from unirain_plugin.distill.text_encoders.base import TextEncoder

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

    Captions of the captioner ``attributes`` bring numbers; in others, known words stand in for them, and every word
    moves the vector a little by its hash, so that captions about like scenes lie nearer together. Numbers are clipped
    to their range, so no caption reaches out of it.
    """

    registry_name = "attributes"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See the base class; d = 58."""
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
