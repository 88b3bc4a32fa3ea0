"""What real rain looks like: figures that can be taken from a rainy picture alone, and their range over the references.

References have no ground truth, so their rain cannot be measured as lq − gt. Two kinds of figures get around that.
Those of the whole picture (brightness, amount of fine detail) are taken from references and rainy candidates alike and
compared directly. The strength of the rain is compared with a bound: rain that is part of a picture adds to its local
contrast, so whatever rain a reference holds is at most about as strong as its strongest local contrast. A candidate
whose lq − gt exceeds what *any* reference shows has rain that no real picture has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from unirain_plugin.distill.images import shared_luminance
from unirain_plugin.distill.voters.findings import Figures, Finding
from unirain_plugin.distill.voters.frame import high_pass, quantile, window

FEWEST = 8
"""With fewer references no range is drawn from them (our choice)."""
_MARGIN = 0.5
"""Ranges are widened at both ends by this share of their width: a few references never span all real rain."""
_NAMES = ("brightness", "detail", "contrast")


def look(rainy: np.ndarray) -> dict[str, float]:
    """Figures of one rainy picture, uint8 RGB (H, W, 3).

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
    for name in _NAMES:
        low, high = np.quantile([one[name] for one in looks], [0.01, 0.99])
        extra = _MARGIN * (high - low)
        ranges[name] = float(low - extra), float(high + extra)
    return ranges


def outside(ranges: Mapping[str, tuple[float, float]], figures: Figures) -> list[Finding]:
    """Hold a candidate's ``brightness`` and ``detail``, of its rainy picture, and its rain's ``peak`` to them."""
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
