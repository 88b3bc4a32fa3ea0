"""A voter whose worker process ends on one candidate, as often as a file says."""

import os
from pathlib import Path

from stub_voters import HashVoter

from unirain_plugin.distill.registry import VOTER


@VOTER.register()
class DyingVoter(HashVoter):
    """Ends its process on the candidates of whose id ``victim`` is a part, while the number in ``left`` is above 0."""

    def __init__(self, name, victim, left):
        super().__init__(name)
        self.victim, self.left = victim, Path(left)

    def vote(self, tasks):
        if any(self.victim in task.candidate.id for task in tasks):
            left = int(self.left.read_text())
            if left > 0:
                self.left.write_text(str(left - 1))
                os._exit(3)
        return super().vote(tasks)
