"""Is it the clean picture that bears rain?"""

from __future__ import annotations

from unirain_plugin.distill.voters.findings import Figures, Finding

STREAK_LIMIT = 0.04
"""Share of the difference's structure that darkens. Streaks brighten whatever is behind them but the brightest."""
DROP_LIMIT = 0.58
"""The same with two more signs, for drops, which darken and brighten."""
DROP_LEFT_LIMIT = 0.028
"""Signs that some of the drops, or other ones, are in both pictures."""


def rain_in_clean(figures: Figures, rain_type: str) -> Finding:
    """Rain of its own in the clean picture: swapped pictures, or a "clean" picture taken in (other) rain.

    Seen from the clean picture this is rain that darkens the rainy one. Rain types whose name ends in ``rs`` are
    streaks; for all others the stricter evidence that drops need is asked for.
    """
    dark, both = figures["darker_structure"], 0.0
    if rain_type.endswith("rs"):
        severity, limit = dark / STREAK_LIMIT, STREAK_LIMIT
    else:
        # Weights: of a linear discriminant between rendered drops and pairs swapped or rainy on both sides, rounded.
        score = dark + 0.25 * figures["out_of_place"] + 0.9 * figures["owned_by_gt"]
        severity, limit = score / DROP_LIMIT, DROP_LIMIT
        both = _drops_in_both(figures) / DROP_LEFT_LIMIT
    if figures["brighter"] < 0.45 and severity > 1 and dark > 0.5:
        words = f"swapped: the rain lies in the clean picture ({dark:.0%} of it darkens the rainy one)"
        return Finding("swapped", max(severity, both), words)
    if both > severity:
        return Finding(
            "still_rainy", both, f"there are drops in both pictures, by {both:.1f} × what good pairs may show"
        )
    return Finding("still_rainy", severity, f"the clean picture bears rain of its own: {dark:.0%} of the difference's "
                   f"structure darkens the rainy picture (limit {limit:.0%})")  # fmt: skip


def _drops_in_both(figures: Figures) -> float:
    """A linear discriminant between good rendered drops and pairs with drops in both pictures, rounded."""
    left = min(figures["leftover"], 0.4) + 0.22 * figures["owned_by_gt"] + 0.014 * figures["out_of_place"]
    return left + 0.21 * figures["likeness"] - 0.24 * figures["half_likeness"]
