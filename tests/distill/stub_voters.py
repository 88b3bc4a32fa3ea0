"""Voters for tests of the pipeline: cheap, deterministic, with something to say."""

import os
import time
from pathlib import Path

from unirain_plugin.distill.describers.base import Embedder
from unirain_plugin.distill.records import Vote
from unirain_plugin.distill.registry import EMBEDDER, VOTER
from unirain_plugin.distill.voters.base import Cost, Voter
from unirain_plugin.errors import OptionError


@VOTER.register()
class HashVoter(Voter):
    """Votes by a hash of the candidate's id: some True, some False, some abstentions. SLOW_VOTER: seconds each."""

    def __init__(self, name, salt=0):
        super().__init__(name)
        self.salt = salt

    def measure(self, candidate):
        time.sleep(float(os.environ.get("SLOW_VOTER", "0")))
        return {"mean": float(candidate.lq.mean())}

    def measure_reference(self, reference):
        return {"mean": float(reference.image.mean())}

    def setup(self, references):
        self._mean = sum(reference.measurements[self.name]["mean"] for reference in references) / len(references)

    def vote(self, tasks):
        votes = []
        for task in tasks:
            code = (sum(task.candidate.id.encode()) * 31 + self.salt * 7) % 5
            mean = task.measurements[self.name]["mean"]
            reason = f"<b>mean</b> {mean:.2f} against {self._mean:.2f}"
            details = {"kind": "dull", "retrieved": [found.reference.id for found in task.retrieved]}
            votes.append(Vote(self.name, None if code == 0 else code < 4, reason, details))
        return votes


@VOTER.register()
class CostlyVoter(HashVoter):
    """The same, but it counts as a call to a server."""

    costly = True

    def cost(self, candidates, references):
        return Cost(calls=candidates, images=candidates * (references + 1))


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


@EMBEDDER.register()
class BrokenEmbedder(Embedder):
    """Fails like a part that is not set up."""

    def embed(self, images):
        raise OptionError("broken on purpose")
