"""Puts each candidate with its retrieved references before the voters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.majority import decide, is_settled
from unirain_plugin.distill.records import Candidate, Retrieved, Vote, VoteTask
from unirain_plugin.distill.shards import load_lines, load_rows, save_lines
from unirain_plugin.distill.stages.base import Stage
from unirain_plugin.distill.voters.base import Voter

_BATCH = 32
"""Tasks put before a voter at a time: what bounds the images in memory."""


class AskVoters(Stage):
    """Writes votes and decisions."""

    name: ClassVar[str] = "votes"
    title: ClassVar[str] = "vote"
    upstream: ClassVar[tuple[str, ...]] = ("candidates", "duplicates", "retrieval", "references")

    @staticmethod
    def items(job: Job) -> int:
        """See the base class."""
        return job.candidates.count

    @staticmethod
    def depends_on(context: Context) -> dict[str, Any]:
        """See the base class."""
        voters = [{"name": voter.name, **voter.fingerprint()} for voter in context.voters]
        return {"format": 1, "voters": voters, "early_exit": context.options.early_exit}

    def run(self, shard: int) -> None:
        """See the base class."""
        workspace = self.context.workspace
        lines = load_lines(workspace.shard("candidates", shard), "rows")
        first = shard * self.context.options.shard_size
        original = load_rows(workspace.shard("duplicates", 0), "original")[first : first + len(lines)]
        found = workspace.shard("retrieval", shard)
        rows, similarities = load_rows(found, "rows"), load_rows(found, "similarities")
        outcomes: list[dict[str, Any] | None] = [None] * len(lines)
        tasks: dict[int, VoteTask] = {}
        for place, (candidate, line) in enumerate(zip(self.context.candidates(shard), lines, strict=True)):
            if line["error"] is not None:
                outcomes[place] = _without_votes("unreadable", f"unreadable: {line['error']}")
            elif original[place] >= 0:
                outcomes[place] = _without_votes("duplicate", f"duplicate of {self._id(int(original[place]))}")
            else:
                candidate.caption = line["caption"]
                retrieved = self._retrieved(rows[place], similarities[place])
                tasks[place] = VoteTask(candidate, retrieved, line["measurements"])
        places = list(tasks)
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            for place, votes in zip(batch, self._ask([tasks[place] for place in batch]), strict=True):
                outcomes[place] = self._outcome(votes)
        with workspace.writing(self.name, shard) as folder:
            save_lines(folder, "rows", outcomes)

    def _ask(self, tasks: list[VoteTask]) -> list[list[Vote]]:
        """Ask the free voters about every task, then the costly ones while a decision is still open."""
        voters = self.context.ready_voters
        votes: list[dict[str, Vote]] = [{} for _ in tasks]
        try:
            for voter in sorted(voters, key=lambda voter: voter.costly):
                skips = voter.costly and self.context.options.early_exit
                open_ = [
                    i for i in range(len(tasks)) if not (skips and is_settled(list(votes[i].values()), len(voters)))
                ]
                if open_:
                    answers = _checked(voter, voter.vote([tasks[i] for i in open_]), len(open_))
                    for i, vote in zip(open_, answers, strict=True):
                        votes[i][voter.name] = vote
        finally:
            for task in tasks:
                task.candidate.release()
                for found in task.retrieved:
                    found.reference.release()
        return [[cast[voter.name] for voter in voters if voter.name in cast] for cast in votes]

    def _outcome(self, votes: list[Vote]) -> dict[str, Any]:
        decision = decide(votes, len(self.context.voters))
        return {
            "keep": decision.keep,
            "outcome": decision.outcome,
            "reason": decision.reason,
            "votes": [vote.as_dict() for vote in votes],
        }

    def _retrieved(self, rows: np.ndarray, similarities: np.ndarray) -> list[Retrieved]:
        references = self.context.described_references
        return [
            Retrieved(references[row], *map(float, values))
            for row, values in zip(rows.tolist(), similarities, strict=True)
            if row >= 0
        ]

    def _id(self, number: int) -> str:
        shard, row = divmod(number, self.context.options.shard_size)
        candidates: Sequence[Candidate] = self._shards.get(shard) or self.context.candidates(shard)
        if len(self._shards) < 64:
            self._shards[shard] = candidates
        return candidates[row].id

    @cached_property
    def _shards(self) -> dict[int, Sequence[Candidate]]:
        return {}


def _without_votes(outcome: str, reason: str) -> dict[str, Any]:
    return {"keep": False, "outcome": outcome, "reason": reason, "votes": []}


def _checked(voter: Voter, votes: Sequence[Vote], count: int) -> Sequence[Vote]:
    """Hold a voter to its interface.

    Raises:
        DistillError: If it gave another number of votes, another name, or a verdict that is none.
    """
    if len(votes) != count:
        raise DistillError(f"the voter '{voter.name}' gave {len(votes)} votes on {count} tasks.")
    for vote in votes:
        if vote.voter != voter.name or not (vote.verdict is None or isinstance(vote.verdict, bool)):
            raise DistillError(
                f"the voter '{voter.name}' returned {vote!r}; expected its name and True, False or None as verdict."
            )
    return votes
