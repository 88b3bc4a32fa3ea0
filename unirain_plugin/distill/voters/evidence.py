"""All figures of a pair, measured once for the three default voters."""

from __future__ import annotations

from unirain_plugin.distill.records import Candidate
from unirain_plugin.distill.voters.frame import make_frame
from unirain_plugin.distill.voters.lines import lines
from unirain_plugin.distill.voters.rain_layer import rain_layer
from unirain_plugin.distill.voters.registration import registration
from unirain_plugin.distill.voters.sharpness import sharpness
from unirain_plugin.distill.voters.tones import tones

VERSION = 3
"""Part of the default voters' fingerprints: raise it whenever a figure or a limit changes."""


def pair_evidence(candidate: Candidate) -> dict[str, float]:
    """Figures of a candidate, computed at the first call; empty for pictures too small to judge."""
    return candidate.derived("pair_evidence", _measure)


def _measure(candidate: Candidate) -> dict[str, float]:
    frame = make_frame(candidate.lq, candidate.gt)
    if frame is None:
        return {}
    tone_figures, table = tones(frame)
    of_lines = lines(candidate.lq, candidate.gt)
    return {**registration(frame), **tone_figures, **rain_layer(frame, table), **sharpness(frame), **of_lines}
