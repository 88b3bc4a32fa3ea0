"""Is it the clean picture that bears rain?"""

from __future__ import annotations

from unirain_plugin.distill.voters.findings import LEFT_LIMIT, Figures, Finding

STREAK_LIMIT = 0.04
"""Share of the difference's structure that darkens. Streaks brighten whatever is behind them but the brightest."""
DROP_LIMIT = 0.58
"""The same with two more signs, for drops, which darken and brighten."""


def rain_in_clean(figures: Figures, rain_type: str) -> Finding:
    """Rain of its own in the clean picture: swapped pictures, or a "clean" picture taken in (other) rain.

    Seen from the clean picture this is rain that darkens the rainy one. Rain types whose name ends in ``rs`` are
    streaks; for all others the stricter evidence that drops need is asked for.
    """
    dark = figures["darker_structure"]
    if rain_type.endswith("rs"):
        score, limit = dark, STREAK_LIMIT
    else:
        # Weights: of a linear discriminant between rendered drops and pairs swapped or rainy on both sides, rounded.
        score, limit = dark + 0.25 * figures["out_of_place"] + 0.9 * figures["owned_by_gt"], DROP_LIMIT
    if figures["brighter"] < 0.45 and score > limit and dark > 0.5:
        words = f"swapped: the rain lies in the clean picture ({dark:.0%} of it darkens the rainy one)"
        return Finding("swapped", score / limit, words)
    both = 0.0 if rain_type.endswith("rs") else figures["leftover"] / LEFT_LIMIT
    if both > score / limit:
        return Finding(
            "still_rainy", both, f"there are drops in both pictures, by {both:.1f} × what good pairs may show"
        )
    return Finding("still_rainy", score / limit, f"the clean picture bears rain of its own: {dark:.0%} of the "
                   f"difference's structure darkens the rainy picture (limit {limit:.0%})")  # fmt: skip
