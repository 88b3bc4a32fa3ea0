"""Default voter: is the ground truth a good clean picture?"""

from __future__ import annotations

from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters import findings as found
from unirain_plugin.distill.voters.default_voter import DefaultVoter
from unirain_plugin.distill.voters.findings import Figures, Finding
from unirain_plugin.distill.voters.rain_owner import rain_in_clean


@VOTER.register()
class GtQuality(DefaultVoter):
    """Content, compression blocks, noise, blur, and rain left in the clean picture; the rainy one is the witness.

    NIQE, which the toolbox has, is not used: it takes 100 ms and more a picture, fails below 192 pixels, and its
    model of natural pictures calls clean night scenes bad.
    """

    registry_name = "gt_quality"
    praise = "the clean picture is sharp and free of noise, compression blocks and rain"

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        """See :class:`DefaultVoter`."""
        checks = (found.flat, found.framed, found.interlaced, found.blocky, found.noisy, found.blurred, found.leftover)
        return [*(check(figures) for check in checks), rain_in_clean(figures, rain_type)]
