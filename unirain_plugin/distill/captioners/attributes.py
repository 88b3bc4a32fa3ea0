"""The default captioner: measures the picture and says it in a sentence. No weights, offline."""

from __future__ import annotations

from collections.abc import Sequence

from unirain_plugin.distill.captioners.base import Captioner, Scene
from unirain_plugin.distill.rain_cues import RainCues, rain_cues
from unirain_plugin.distill.registry import CAPTIONER


@CAPTIONER.register()
class AttributesCaptioner(Captioner):
    """Light, streak direction and density, drop count and size, blur, in words and in numbers.

    The numbers keep neighbouring pictures apart that the same words describe; the text encoder ``attributes`` reads
    them, others see words and numbers as they are.
    """

    registry_name = "attributes"

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """See the base class."""
        return [sentence(rain_cues(scene.image)) for scene in scenes]


def sentence(cues: RainCues) -> str:
    """Say the cues in one sentence."""
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
