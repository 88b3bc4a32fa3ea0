"""What the three default voters share: one evidence a pair, a strictness, abstention for small pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from unirain_plugin.distill.records import Candidate, Vote, VoteTask
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.voters.evidence import VERSION, pair_evidence
from unirain_plugin.distill.voters.findings import Figures, Finding, judge
from unirain_plugin.distill.voters.frame import MIN_SIDE
from unirain_plugin.errors import OptionError


class DefaultVoter(Voter):
    """Base of the voters without weights. A subclass lists its findings, from the most specific to the most general.

    Clear defects show from more than one side, so each is looked at by two of the three voters, and the paper's
    majority rule alone rejects the pair; a doubt of one voter does not.

    Args:
        name: Unique name within the pipeline.
        strictness: Above 1 all limits are tighter, below 1 wider.
    """

    version = VERSION
    praise: str

    def __init__(self, name: str | None = None, strictness: float = 1.0) -> None:
        super().__init__(name)
        if isinstance(strictness, bool) or not isinstance(strictness, (int, float)) or not 0.1 <= strictness <= 10:
            raise OptionError(f"strictness: expected a number from 0.1 to 10, got {strictness!r}.")
        self.strictness = float(strictness)

    @abstractmethod
    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        """What may speak against a pair, each with its severity."""

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        """The pair's evidence (shared, measured once); empty for pictures below :data:`.MIN_SIDE` pixels."""
        return pair_evidence(candidate)

    def vote(self, tasks: Sequence[VoteTask]) -> list[Vote]:
        """Judge each pair by its figures; no picture is read if they were measured before."""
        return [self._vote(task) for task in tasks]

    def _vote(self, task: VoteTask) -> Vote:
        figures = task.measurements.get(self.name)
        if figures is None:
            figures = self.measure(task.candidate)
        if not figures:
            return Vote(self.name, None, f"too small to judge: a side has less than {MIN_SIDE} pixels")
        findings = self.findings(figures, task.candidate.rain_type)
        return judge(self.name, findings, self.strictness, self.praise)
