"""Default voter: do the two pictures show the same scene, but for the rain?"""

from __future__ import annotations

from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters import findings as found
from unirain_plugin.distill.voters.default_voter import DefaultVoter
from unirain_plugin.distill.voters.findings import Figures, Finding


@VOTER.register()
class PairConsistency(DefaultVoter):
    """Alignment, structure, tone, colour, detail, noise: what differs between the pictures where there is no rain."""

    registry_name = "pair_consistency"
    praise = "the pictures agree where there is no rain"

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        """See :class:`DefaultVoter`."""
        checks = (
            found.identical,
            found.wrong_scene,
            found.framed,
            found.interlaced,
            found.misaligned,
            found.blocks_apart,
            found.exposure,
            found.colour,
            found.noise_apart,
            found.blurred,
            found.leftover,
            found.flat_rain,
            found.flat,
        )
        return [check(figures) for check in checks]
