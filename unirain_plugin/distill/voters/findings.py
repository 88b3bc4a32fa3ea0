"""What speaks against a pair: each finding is a figure held against its limit, with words for the report.

References have no ground truth, so their rain cannot be measured as lq − gt. Two kinds of figures get around that.
Those of the whole image (brightness, amount of fine detail) are taken from references and rainy candidates alike and
compared directly. The strength of the rain is compared with a bound: rain that is part of an image adds to its local
contrast, so whatever rain a reference holds is at most about as strong as its strongest local contrast. A candidate
whose lq − gt exceeds what *any* reference shows has rain that no real image has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.distill.records import Vote, shared_luminance
from unirain_plugin.distill.voters.frame import high_pass, quantile, window
from unirain_plugin.distill.voters.veil import HAZE

Figures = Mapping[str, float]

TONE_LIMIT = 1.65  # largest ``tone_shift`` outside the rain: 0.15 of a middle tone, 7 levels in the dark

LEFT_LIMIT = 0.18  # largest ``leftover`` of a good pair: rendered up to 0.16, half of the rain left mostly above 0.25
SURETY_LIMIT = 6.0  # largest ``likeness_surety``: rendered below 0, real rain against the median of a clip up to 5.8
TURN_LIMIT = 13.0  # largest turn of the hue, degrees: coloured lights by night turn it by up to 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that may be wrong with a pair."""

    kind: str  # short code, counted in statistics
    severity: float  # figure over limit: above 1 the voter says no
    reason: str  # in words, with the figures


Check = Callable[[Figures], Finding]


def judge(voter: str, findings: list[Finding], strictness: float, praise: str) -> Vote:
    """Turn findings into a vote: False if the worst, times the strictness, exceeds 1; ``details`` keep the severity.

    Of several findings above their limits the first in the list gives the reason: checks are listed from the most
    specific to the most general (a shifted image also differs in tone).
    """
    severity = strictness * max(finding.severity for finding in findings)
    broken = [finding for finding in findings if strictness * finding.severity > 1]
    details = {"severity": round(severity, 4)}
    if not broken:
        return Vote(voter, True, praise, details)
    more = [finding.kind for finding in broken[1:]]
    return Vote(voter, False, broken[0].reason, {**details, "kind": broken[0].kind, **({"also": more} if more else {})})


def misaligned(f: Figures) -> Finding:
    """Shifting the clean image, or its quarters each by itself, makes edges fall into place."""
    gain = max(f["shift_gain"], f["tile_gain"])
    if f["shift_gain"] > 0.05:
        words = f"the clean image is shifted by {f['shift']:.1f} px: undoing it removes {f['shift_gain']:.0%}"
    else:
        words = f"parts of the clean image lie elsewhere (warped, scaled or turned): moving them removes {gain:.0%}"
    return Finding("misaligned", gain / 0.05, f"{words} of the difference")


def wrong_scene(f: Figures) -> Finding:
    """The clean image's structure is not in the rainy one."""
    words = f"another scene: only {max(f['agreement'], 0):.0%} of the clean image's structure is in the rainy one"
    return Finding("wrong_scene", (1 - f["agreement"]) / (1 - 0.35), words)


def identical(f: Figures) -> Finding:
    """Nothing to learn from: less rain than one pixel in a thousand and none above rounding."""
    words = f"no rain: the images differ in {f['cover']:.2%} of the pixels, by at most about {f['peak']:.0f} levels"
    return Finding("no_rain", 4.0 / max(f["peak"], 1.0) if f["cover"] < 0.002 and f["veil"] < 0.03 else 0.0, words)


def exposure(f: Figures) -> Finding:
    """The tone differs where there is no rain, in a way that mist cannot explain."""
    how = f"{abs(f['tone_levels']):.0f} levels {'brighter' if f['tone_levels'] > 0 else 'darker'}"
    words = f"exposure: where there is no rain the rainy image is {how}"
    return Finding("exposure_shift", f["tone_shift"] / TONE_LIMIT, words)


def colour(f: Figures) -> Finding:
    """Where there is no rain the channels differ from one another, the hue is turned, or one image lost colour."""
    fade = max(f["lq_chroma"] / (1.8 * f["gt_chroma"] + 2), f["gt_chroma"] / (2.5 * f["lq_chroma"] + 2))
    unequal = f"without rain the channels differ unequally, by {f['colour_shift']:.1f} × the usual"
    turned = f"the hue is turned by {f['hue_turn']:.0f} degrees"
    faded = f"the clean image has {f['gt_chroma']:.0f} levels of chroma, the rainy one {f['lq_chroma']:.0f}"
    severity, words = max((f["colour_shift"] / 0.8, unequal), (f["hue_turn"] / TURN_LIMIT, turned), (fade, faded))
    return Finding("colour_shift", severity, f"colour: {words}")


def framed(f: Figures) -> Finding:
    """A straight step along a whole side of the clean image, as the inner edge of a border is."""
    words = f"a border around the clean image only: a straight step of {f['border']:.0f} levels along a side"
    return Finding("framed", f["border"] / 10, words)


def interlaced(f: Figures) -> Finding:
    """Every second line of the clean image is of another moment, or not of this image at all."""
    words = (
        f"interlaced: moving every second line of the clean image sideways removes {f['weave']:.0%} of their "
        f"difference; odd and even lines fit the rainy image unequally (by {f['line_parity']:.2f} octaves)"
    )
    return Finding("interlaced", max(f["line_parity"] / 0.06, f["weave"] / 0.2), words)


def leftover(f: Figures) -> Finding:
    """The clean image bears a share of the same rain: seen edge by edge, or, where that is faint, over all blocks."""
    words = f"the clean image is still rainy: {f['leftover']:.0%} more of the rain's edges than by chance are in it too"
    # Rain that is merely added to the scene leaves the surety at 0 ± 1, rain that hides the scene below 0. In an image
    # of another exposure the difference holds the scene itself, which looks like leftover rain.
    much, everywhere = f["leftover"] / LEFT_LIMIT, f["likeness_surety"] / SURETY_LIMIT * (f["tone_shift"] < TONE_LIMIT)
    if everywhere > max(much, 1):
        words = f"the clean image is still rainy: all over it bears a little of the rain ({f['likeness_surety']:.0f} σ)"
    return Finding("still_rainy", max(much, everywhere), words)


def blurred(f: Figures) -> Finding:
    """Detail of the rainy image is missing in the clean one, in both signs as by blur.

    Dense rain alone brightens; coded as JPEG, its surroundings gain detail that the clean image lacks.
    """
    words = f"the clean image is blurred: it has {2 ** -f['lost_detail']:.0%} of the rainy one's detail beside the rain"
    severity = min(f["lost_detail"] / 0.6, f["balance"] / 0.04, (1 - f["brighter"]) / 0.04)
    return Finding("blurred", severity, words)


def blocky(f: Figures) -> Finding:
    """A compression grid in the clean image."""
    words = f"compression blocks in the clean image: steps at an 8-pixel grid stand out by {f['gt_blocks']:.0%}"
    return Finding("blocky", f["gt_blocks"] / 0.6, words)


def blocks_apart(f: Figures) -> Finding:
    """A compression grid in the clean image that the rainy one lacks."""
    words = f"only the clean image has compression blocks: {f['gt_blocks']:.0%} against {f['lq_blocks']:.0%}"
    return Finding("blocky", (f["gt_blocks"] - f["lq_blocks"]) / 0.45, words)


def noisy(f: Figures) -> Finding:
    """A clean image that is noisy beyond what a camera gives at night, or noisier than the rainy one."""
    words = f"the clean image is noisy: σ ≈ {f['gt_noise']:.1f} levels, the rainy one {f['lq_noise']:.1f}"
    limit = 4.0 if f["gt_noise"] > 1.8 * f["lq_noise"] else 8.0
    return Finding("noisy", f["gt_noise"] / limit, words)


def flat(f: Figures) -> Finding:
    """A clean image without content."""
    words = f"the clean image is flat: its luma varies by only {f['gt_contrast']:.1f} levels"
    return Finding("flat", 4.0 / max(f["gt_contrast"], 0.1), words)


def flat_rain(f: Figures) -> Finding:
    """Rain of one strength with hard edges: drawn lines, no drops smeared by a shutter or out of focus."""
    words = (
        f"flat rain: hard edges ({f['hard']:.0%}, real about 40%) and one strength ({f['even']:.0%}, real about 25%)"
    )
    return Finding("flat_rain", min((f["hard"] + f["even"]) / 1.12, f["hard"] / 0.48), words)


def noise_apart(f: Figures) -> Finding:
    """One image is noisy where the other is not. Noise that both share is a camera's at night."""
    noisy, other = max(f["gt_noise"], f["lq_noise"]), min(f["gt_noise"], f["lq_noise"])
    which = "clean" if f["gt_noise"] > f["lq_noise"] else "rainy"
    words = f"only the {which} image is noisy: σ ≈ {noisy:.1f} levels, the other {other:.1f}"
    # Dense rain looks like noise in the rainy image, but brightens: then the symmetric part is small.
    felt = min(noisy / 4.5, 3 * f["noise"] / 4.5) if which == "rainy" else noisy / 4.0
    return Finding("noisy", felt if noisy > 1.8 * other else 0.0, words)


STREAKS = ("drs", "nrs")
STREAK_LIMIT = 0.018
"""Largest share of the difference's structure that is the clean image's alone, times its share of all that darkens.

Rain of its own is nearly all that darkens; where noise and moving things darken real rain, a quarter at most."""
DROP_LIMIT = 0.14  # largest sum for drops, which darken, brighten and hide the scene; chosen on rendered ones


def rain_in_clean(figures: Figures, rain_type: str) -> Finding:
    """Rain of its own in the clean image: swapped images, or a "clean" image taken in (other) rain.

    Seen from the clean image this is rain that darkens the rainy one. For all types but streaks (:data:`STREAKS`)
    the stricter evidence that drops need is asked for.
    """
    if rain_type == HAZE:
        return Finding("still_rainy", 0.0, "haze has no edges of its own that could be in the clean image")
    dark, alone = figures["darker_structure"], figures["only_in_gt"]
    own = left = 0.0
    if rain_type in STREAKS:
        severity = alone * alone / max(dark, 1e-6) / STREAK_LIMIT
    else:
        own, left = figures["drops_in_gt"] + 0.2 * (1 - figures["agreement"]), max(figures["leftover"], 0.0)
        severity = max((own + left) / DROP_LIMIT, left / LEFT_LIMIT)
    if figures["brighter"] < 0.45 and severity > 1 and dark > 0.5:
        words = f"swapped: the rain lies in the clean image ({dark:.0%} of it darkens the rainy one)"
        return Finding("swapped", severity, words)
    if left > own:
        words = f"there are drops in both images, by {severity:.1f} × what good pairs may show"
    else:
        words = f"the clean image bears rain of its own: {alone:.0%} of the difference's structure is in it alone"
    return Finding("still_rainy", severity, words)


FEWEST = 8  # with fewer references no range is drawn from them (our choice)
_MARGIN = 0.5  # ranges are widened at both ends by this share of their width: a few references never span all real rain


def look(rainy: np.ndarray) -> dict[str, float]:
    """Figures of one rainy image, uint8 RGB (H, W, 3).

    Returns:
        ``brightness``: mean luma, levels; ``detail``: log₂ of the mean absolute high-pass at half size;
        ``contrast``: 99th percentile of the local contrast there, levels.
    """
    luma = window(shared_luminance(rainy))
    half = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(luma.shape) >= 32 else luma
    fine, coarse = (np.abs(high_pass(half, size)) for size in (5, 31))
    return {
        "brightness": float(half.mean()),
        "detail": float(np.log2(fine.mean() + 0.1)),
        "contrast": quantile(coarse[::2, ::2], 0.99),
    }


def learn_ranges(looks: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Range of each figure over the references, 1st to 99th percentile, widened; empty if they are too few."""
    if len(looks) < FEWEST:
        return {}
    ranges = {}
    for name in ("brightness", "detail", "contrast"):
        low, high = np.quantile([one[name] for one in looks], [0.01, 0.99])
        extra = _MARGIN * (high - low)
        ranges[name] = float(low - extra), float(high + extra)
    return ranges


def outside(ranges: Mapping[str, tuple[float, float]], figures: Figures) -> list[Finding]:
    if not ranges:
        return []
    findings = []
    for name in ("brightness", "detail"):
        low, high = ranges[name]
        half = max((high - low) / 2, 0.5)
        words = f"unlike any reference: {name} {figures[name]:.1f}, real rain {low:.1f} to {high:.1f}"
        findings.append(Finding(f"unreal_{name}", abs(figures[name] - (low + high) / 2) / half, words))
    bound = max(ranges["contrast"][1], 30.0)
    words = f"rain stronger than in any reference: {figures['peak']:.0f} levels, real at most {bound:.0f}"
    return [*findings, Finding("unreal_strength", figures["peak"] / bound, words)]
