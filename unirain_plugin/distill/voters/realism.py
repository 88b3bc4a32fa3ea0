"""Default voter: is lq − gt rain as real pictures have it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unirain_plugin.distill.records import Candidate, Reference
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters import findings as found
from unirain_plugin.distill.voters.default_voter import DefaultVoter
from unirain_plugin.distill.voters.evidence import pair_evidence
from unirain_plugin.distill.voters.findings import Figures, Finding
from unirain_plugin.distill.voters.rain_owner import rain_in_clean
from unirain_plugin.distill.voters.reference_range import learn_ranges, look, outside


@VOTER.register()
class Realism(DefaultVoter):
    """Rain brightens (streaks) or is out of focus (drops), has soft edges and no colour of its own, leaves the scene's
    edges and the tone elsewhere alone, and is no stronger than the references show (:mod:`.reference_range`).
    """

    registry_name = "realism"
    praise = "the difference looks like rain, within the range of the references"

    def __init__(self, name: str | None = None, strictness: float = 1.0) -> None:
        super().__init__(name, strictness)
        self._ranges: dict[str, tuple[float, float]] = {}

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        """The pair's evidence and the look of its rainy picture."""
        figures = pair_evidence(candidate)
        return {**figures, **look(candidate.lq)} if figures else {}

    def measure_reference(self, reference: Reference) -> Mapping[str, Any]:
        """The look of a real rainy picture."""
        return look(reference.image)

    def setup(self, references: Sequence[Reference]) -> None:
        """Draw the ranges of real rain from all references."""
        looks = (r.measurements.get(self.name) or self.measure_reference(r) for r in references)
        self._ranges = learn_ranges(list(looks))

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        """See :class:`DefaultVoter`."""
        checks = (
            found.identical,
            found.wrong_scene,
            found.misaligned,
            found.exposure,
            found.colour,
            found.noise_apart,
            found.flat_rain,
        )
        own = [check(figures) for check in checks]
        return [*own, rain_in_clean(figures, rain_type), *outside(self._ranges, figures)]
