"""A voter without weights that asks whether rain lies among the references: is the like of it to be seen in them?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np

from unirain_plugin.distill.describers.rain_cues import rain_cues
from unirain_plugin.distill.records import Candidate, Reference, thumbnail
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters.default import DefaultVoter, GtQuality, PairConsistency, pair_evidence
from unirain_plugin.distill.voters.findings import FEWEST, Figures, Finding, rain_in_clean
from unirain_plugin.support.spec import between

_NEIGHBOURS = 3
_SIDE = 128


def _cue_view(image: np.ndarray) -> np.ndarray:
    """Rain by its cues: streaks, their direction and density, drops."""
    cues = rain_cues(image)
    lines = np.log(cues.lines + 0.05)
    return np.array([
        4 * cues.streaks, np.log(cues.density + 1e-3), *(lines - lines.mean()),
        np.log(cues.roundness + 0.02), np.log1p(cues.drops), 10 * cues.drop_size, 10 * cues.sharpness,
    ])  # fmt: skip


def _texture_view(image: np.ndarray) -> np.ndarray:
    """Rain by what it does to texture: strength, one-sidedness, peakedness, and direction of detail in three octaves.

    Taken of the least channel, in which rain stands out: it brightens all three alike.
    """
    level = thumbnail(image, _SIDE).min(axis=2).astype(np.float32)
    figures = []
    for _ in range(3):
        lower = cv2.pyrDown(level)
        band = level - cv2.pyrUp(lower, dstsize=level.shape[::-1])
        spread = float(band.std()) + 0.1
        z = (band - band.mean()) / spread
        across, along = (float(np.abs(np.diff(band, axis=axis)).mean()) + 0.05 for axis in (1, 0))
        skew = np.cbrt(float((z**3).mean()))
        figures += [np.log(spread), skew, np.log(float((z**4).mean()) + 1), np.log(across / along)]
        level = lower
    return np.array(figures)


VIEWS = {"cues": _cue_view, "texture": _texture_view}


class Known:
    """What references look like in one view.

    Args:
        looks: Figures of each reference, (N, F), at least four references. Each figure counts in units of its spread.
    """

    def __init__(self, looks: Sequence[Sequence[float]]) -> None:
        table = np.array(looks)
        self._scale = table.std(axis=0) + 1e-3
        self._table = table / self._scale

    def distance(self, look: Sequence[float] | np.ndarray) -> float:
        """Mean distance of an image to the three nearest references, root mean square over the figures."""
        return _to_nearest(np.asarray(look) / self._scale, self._table)

    def among(self, coverage: float) -> float:
        """The distance to the others that this share of the references does not exceed."""
        own = [_to_nearest(row, np.delete(self._table, place, axis=0)) for place, row in enumerate(self._table)]
        return float(np.quantile(own, coverage))


def _to_nearest(row: np.ndarray, table: np.ndarray) -> float:
    distances = np.sqrt(((table - row) ** 2).mean(axis=1))
    return float(np.partition(distances, _NEIGHBOURS - 1)[:_NEIGHBOURS].mean())


@VOTER.register()
@dataclass(eq=False)
class Likeness(DefaultVoter):
    """Says no to rain of which the references show no like, and to pairs with a defect.

    The distance to the three nearest references in a view is held against what references have among themselves. Two
    such voters of different views make a majority: what both find unlike is rejected.
    """

    registry_name = "likeness"
    praise = "the references show such rain"
    checks = tuple(dict.fromkeys((*PairConsistency.checks, *GtQuality.checks)))

    # ``cues`` (streaks and drops) or ``texture`` (strength and form of fine detail)
    view: Literal["cues", "texture"] = "cues"
    coverage: Annotated[float, between(0.5, 1)] = 0.9  # share of the references that the limit lets pass, 0.5 to 1
    _known: ClassVar[Known | None] = None  # of each own references after `setup`, likewise the limit
    _limit: ClassVar[float] = np.inf

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        figures = pair_evidence(candidate)
        return {**figures, "view": VIEWS[self.view](candidate.lq).tolist()} if figures else {}

    def measure_reference(self, reference: Reference) -> Mapping[str, Any]:
        return {"view": VIEWS[self.view](reference.image).tolist()}

    def setup(self, references: Sequence[Reference]) -> None:
        looks = [(r.measurements.get(self.name) or self.measure_reference(r))["view"] for r in references]
        if len(looks) < FEWEST:
            return
        self._known = Known(looks)
        self._limit = self._known.among(self.coverage)

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        own = [*super().findings(figures, rain_type), rain_in_clean(figures, rain_type)]
        if self._known is None:
            return own
        distance = self._known.distance(figures["view"])
        words = f"unlike the references: {distance:.2f} from the nearest three, {self.coverage:.0%} of them "
        words += f"are within {self._limit:.2f} of others"
        return [*own, Finding(f"unlike_{self.view}", distance / max(self._limit, 1e-9), words)]
