"""What speaks against a pair: each finding is a figure held against its limit, with words for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unirain_plugin.distill.records import Vote

Figures = Mapping[str, float]

TONE_LIMIT = 1.9
"""Largest ``tone_shift`` outside the rain: 0.2 of a middle tone, 8 levels in the dark."""

LEFT_LIMIT = 0.18
"""Largest ``leftover`` of a good pair: rendered up to 0.16, half of the rain left mostly above 0.25."""
TURN_LIMIT = 13.0
"""Largest turn of the hue, degrees: coloured lights by night turn it by up to 10."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that may be wrong with a pair.

    Attributes:
        kind: Short code, counted in statistics.
        severity: Figure over limit: above 1 the voter says no.
        reason: In words, with the figures.
    """

    kind: str
    severity: float
    reason: str


Check = Callable[[Figures], Finding]


def judge(voter: str, findings: list[Finding], strictness: float, praise: str) -> Vote:
    """Turn findings into a vote: False if the worst, times the strictness, exceeds 1; ``details`` keep the severity.

    Of several findings above their limits the first in the list gives the reason: checks are listed from the most
    specific to the most general (a shifted picture also differs in tone).
    """
    severity = strictness * max(finding.severity for finding in findings)
    broken = [finding for finding in findings if strictness * finding.severity > 1]
    details = {"severity": round(severity, 4)}
    if not broken:
        return Vote(voter, True, praise, details)
    more = [finding.kind for finding in broken[1:]]
    return Vote(voter, False, broken[0].reason, {**details, "kind": broken[0].kind, **({"also": more} if more else {})})


def misaligned(f: Figures) -> Finding:
    """Shifting the clean picture, or its quarters each by itself, makes edges fall into place."""
    gain = max(f["shift_gain"], f["tile_gain"])
    if f["shift_gain"] > 0.05:
        words = f"the clean picture is shifted by {f['shift']:.1f} px: undoing it removes {f['shift_gain']:.0%} of the "
        return Finding("misaligned", gain / 0.05, words + "difference")
    words = f"parts of the clean picture lie elsewhere (warped, scaled or turned): moving them removes {gain:.0%} "
    return Finding("misaligned", gain / 0.05, words + "of the difference")


def wrong_scene(f: Figures) -> Finding:
    """The clean picture's structure is not in the rainy one."""
    words = f"another scene: only {max(f['agreement'], 0):.0%} of the clean picture's structure is in the rainy one"
    return Finding("wrong_scene", (1 - f["agreement"]) / (1 - 0.35), words)


def identical(f: Figures) -> Finding:
    """Nothing to learn from: less rain than one pixel in a thousand and none above rounding."""
    words = f"no rain: the pictures differ in {f['cover']:.2%} of the pixels, by at most about {f['peak']:.0f} levels"
    return Finding("no_rain", 4.0 / max(f["peak"], 1.0) if f["cover"] < 0.002 else 0.0, words)


def exposure(f: Figures) -> Finding:
    """The tone differs where there is no rain, in a way that mist cannot explain."""
    words = f"exposure: where there is no rain the rainy picture is {abs(f['tone_levels']):.0f} levels "
    return Finding(
        "exposure_shift", f["tone_shift"] / TONE_LIMIT, words + ("brighter" if f["tone_levels"] > 0 else "darker")
    )


def colour(f: Figures) -> Finding:
    """Where there is no rain the channels differ from one another, the hue is turned, or one picture lost colour."""
    fade = max(f["lq_chroma"] / (1.6 * f["gt_chroma"] + 2), f["gt_chroma"] / (2.5 * f["lq_chroma"] + 2))
    severity, words = max(
        (
            f["colour_shift"] / 1.15,
            f"without rain the channels differ unequally, by {f['colour_shift']:.1f} × the usual",
        ),
        (f["hue_turn"] / TURN_LIMIT, f"the hue is turned by {f['hue_turn']:.0f} degrees"),
        (fade, f"the clean picture has {f['gt_chroma']:.0f} levels of chroma, the rainy one {f['lq_chroma']:.0f}"),
    )
    return Finding("colour_shift", severity, f"colour: {words}")


def framed(f: Figures) -> Finding:
    """A straight step along a whole side of the clean picture, as the inner edge of a border is."""
    words = f"a border around the clean picture only: a straight step of {f['border']:.0f} levels along a side"
    return Finding("framed", f["border"] / 10, words)


def interlaced(f: Figures) -> Finding:
    """Every second line of the clean picture is of another moment, or not of this picture at all."""
    words = (
        f"interlaced: moving every second line of the clean picture sideways removes {f['weave']:.0%} of their "
        f"difference; odd and even lines fit the rainy picture unequally (by {f['line_parity']:.2f} octaves)"
    )
    return Finding("interlaced", max(f["line_parity"] / 0.06, f["weave"] / 0.2), words)


def leftover(f: Figures) -> Finding:
    """The clean picture bears a share of the same rain: seen edge by edge, or, where that is faint, over all blocks."""
    words = (
        f"the clean picture is still rainy: {f['leftover']:.0%} more of the rain's edges than by chance are in it too"
    )
    # Rain that is merely added to the scene leaves the surety at 0 ± 1, rain that hides the scene below 0. In a picture
    # of another exposure the difference holds the scene itself, which looks like leftover rain.
    much, everywhere = f["leftover"] / LEFT_LIMIT, f["likeness_surety"] / 3.5 * (f["tone_shift"] < TONE_LIMIT)
    if everywhere > max(much, 1):
        words = (
            f"the clean picture is still rainy: all over it bears a little of the rain ({f['likeness_surety']:.0f} σ)"
        )
    return Finding("still_rainy", max(much, everywhere), words)


def blurred(f: Figures) -> Finding:
    """Detail of the rainy picture is missing in the clean one, in both signs as by blur.

    Dense rain alone brightens; coded as JPEG, its surroundings gain detail that the clean picture lacks.
    """
    words = (
        f"the clean picture is blurred: it has {2 ** -f['lost_detail']:.0%} of the rainy one's detail beside the rain"
    )
    severity = min(f["lost_detail"] / 0.6, f["balance"] / 0.04, (1 - f["brighter"]) / 0.04)
    return Finding("blurred", severity, words)


def blocky(f: Figures) -> Finding:
    """A compression grid in the clean picture."""
    words = f"compression blocks in the clean picture: steps at an 8-pixel grid stand out by {f['gt_blocks']:.0%}"
    return Finding("blocky", f["gt_blocks"] / 0.6, words)


def blocks_apart(f: Figures) -> Finding:
    """A compression grid in the clean picture that the rainy one lacks."""
    words = f"only the clean picture has compression blocks: {f['gt_blocks']:.0%} against {f['lq_blocks']:.0%}"
    return Finding("blocky", (f["gt_blocks"] - f["lq_blocks"]) / 0.45, words)


def noisy(f: Figures) -> Finding:
    """A clean picture that is noisy beyond what a camera gives at night, or noisier than the rainy one."""
    words = f"the clean picture is noisy: σ ≈ {f['gt_noise']:.1f} levels, the rainy one {f['lq_noise']:.1f}"
    limit = 4.0 if f["gt_noise"] > 1.8 * f["lq_noise"] else 8.0
    return Finding("noisy", f["gt_noise"] / limit, words)


def flat(f: Figures) -> Finding:
    """A clean picture without content."""
    words = f"the clean picture is flat: its luma varies by only {f['gt_contrast']:.1f} levels"
    return Finding("flat", 4.0 / max(f["gt_contrast"], 0.1), words)


def flat_rain(f: Figures) -> Finding:
    """Rain of one strength with hard edges: drawn lines, no drops smeared by a shutter or out of focus."""
    words = (
        f"flat rain: hard edges ({f['hard']:.0%}, real about 40%) and one strength ({f['even']:.0%}, real about 25%)"
    )
    return Finding("flat_rain", min((f["hard"] + f["even"]) / 1.12, f["hard"] / 0.48), words)


def noise_apart(f: Figures) -> Finding:
    """One picture is noisy where the other is not. Noise that both share is a camera's at night."""
    noisy, other = max(f["gt_noise"], f["lq_noise"]), min(f["gt_noise"], f["lq_noise"])
    which = "clean" if f["gt_noise"] > f["lq_noise"] else "rainy"
    words = f"only the {which} picture is noisy: σ ≈ {noisy:.1f} levels, the other {other:.1f}"
    # Dense rain looks like noise in the rainy picture, but brightens: then the symmetric part is small.
    felt = min(noisy / 4.5, 3 * f["noise"] / 4.5) if which == "rainy" else noisy / 4.0
    return Finding("noisy", felt if noisy > 1.8 * other else 0.0, words)
