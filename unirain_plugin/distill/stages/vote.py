"""Puts each candidate with its retrieved references before the voters, and applies the majority rule (paper §2)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unirain_plugin.distill.job import Context, Stage
from unirain_plugin.distill.records import DistillError, Retrieved, Vote, VoteTask
from unirain_plugin.distill.registry import ask_part
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.workspace import check_plain, load_lines, load_rows, save_lines


@dataclass(frozen=True, slots=True)
class Decision:
    """What the votes amount to."""

    keep: bool  # R̂_q
    # ``kept``, ``rejected`` (a majority against), ``tie`` (as many for as against) or ``undecided`` (no majority)
    outcome: str
    reason: str  # the count and the deciding side's reasons, in words


def needed_votes(voters: int) -> int:
    """More than half of all voters: 2 of 3, as in the paper; abstentions do not lower it (our choice)."""
    return voters // 2 + 1


def is_settled(votes: Sequence[Vote], voters: int) -> bool:
    """Whether the voters not yet asked can no longer change the decision (early exit)."""
    return max(_count(votes, True), _count(votes, False)) >= needed_votes(voters)


def decide(votes: Sequence[Vote], voters: int) -> Decision:
    """Apply the majority rule to the votes given, fewer than ``voters`` after an early exit.

    Only a majority of *all* voters keeps a candidate: with three voters one yes, one no and one abstention is a tie and
    is not kept (our choice: 97 % are rejected in the paper, so doubt costs less than a bad pair). A ValueError if there
    are more votes than voters or a voter voted twice.
    """
    names = [vote.voter for vote in votes]
    if len(names) > voters or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} votes by {names} do not fit {voters} voters.")
    yes, no, abstained = (_count(votes, verdict) for verdict in (True, False, None))
    needed = needed_votes(voters)
    count = f"{yes} for, {no} against" + (f", {abstained} abstained" if abstained else "")
    if yes >= needed:
        return Decision(True, "kept", f"{count}: {_reasons(votes, True)}")
    if no >= needed:
        return Decision(False, "rejected", f"{count}: {_reasons(votes, False)}")
    if yes == no and yes > 0:
        return Decision(False, "tie", f"tie, {count}: {_reasons(votes, False)}")
    return Decision(False, "undecided", f"undecided, {count} of {voters} voters: {_reasons(votes, None)}")


def _count(votes: Sequence[Vote], verdict: bool | None) -> int:
    return sum(vote.verdict is verdict for vote in votes)


def _reasons(votes: Sequence[Vote], verdict: bool | None) -> str:
    return "; ".join(f"{vote.voter}: {vote.reason}" for vote in votes if vote.verdict is verdict) or "no reason given"


_BATCH = 32  # tasks put before a voter at a time, or its `concurrency`: what bounds the images in memory


class AskVoters(Stage):
    """Writes votes and decisions."""

    name = "votes"
    title = "vote"
    upstream = ("candidates", "duplicates", "retrieval", "references")

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        voters = [{"name": voter.name, **voter.fingerprint()} for voter in context.voters]
        return {"format": 1, "voters": voters, "early_exit": context.options.early_exit}

    def run(self, shard: int) -> None:
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
                repeated = self.context.candidate(int(original[place]))
                outcomes[place] = _without_votes("duplicate", f"duplicate of {repeated.id}")
            else:
                candidate.caption = line["caption"]
                retrieved = self._retrieved(rows[place], similarities[place])
                tasks[place] = VoteTask(candidate, retrieved, line["measurements"])
        places, size = list(tasks), max(_BATCH, *(voter.concurrency for voter in self.context.voters))
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            for place, votes in zip(batch, self._ask([tasks[place] for place in batch]), strict=True):
                decision = asdict(decide(votes, len(self.context.voters)))
                outcomes[place] = {**decision, "votes": [vote.as_dict() for vote in votes]}
        with workspace.writing(self.name, shard) as folder:
            save_lines(folder, "rows", outcomes)

    def _ask(self, tasks: list[VoteTask]) -> list[list[Vote]]:
        """Ask the free voters about every task, then the costly ones while a decision is still open."""
        voters = self.context.ready_voters
        votes: list[dict[str, Vote]] = [{} for _ in tasks]
        try:
            for voter in sorted(voters, key=lambda voter: voter.costly):
                skips = voter.costly and self.context.options.early_exit
                settled = [skips and is_settled(list(cast.values()), len(voters)) for cast in votes]
                open_ = [i for i, decided in enumerate(settled) if not decided]
                if open_:
                    asked = [tasks[i] for i in open_]
                    names = [task.candidate.id for task in asked]
                    answers = _checked(voter, ask_part(f"the voter '{voter.name}'", voter.vote, asked, names), names)
                    for i, vote in zip(open_, answers, strict=True):
                        votes[i][voter.name] = vote
        finally:
            for task in tasks:
                task.candidate.release()
                for found in task.retrieved:
                    found.reference.release()
        return [[cast[voter.name] for voter in voters if voter.name in cast] for cast in votes]

    def _retrieved(self, rows: np.ndarray, similarities: np.ndarray) -> list[Retrieved]:
        references = self.context.described_references
        found = zip(rows.tolist(), similarities.tolist(), strict=True)
        return [Retrieved(references[row], *values) for row, values in found if row >= 0]


def _without_votes(outcome: str, reason: str) -> dict[str, Any]:
    return {"keep": False, "outcome": outcome, "reason": reason, "votes": []}


def _checked(voter: Voter, votes: Sequence[Vote], names: Sequence[str]) -> Sequence[Vote]:
    if not isinstance(votes, (list, tuple)) or len(votes) != len(names):
        found = f"{len(votes)} votes" if isinstance(votes, (list, tuple)) else repr(votes)
        raise DistillError(f"the voter '{voter.name}' gave {found} on {len(names)} tasks.")
    for name, vote in zip(names, votes, strict=True):
        own = isinstance(vote, Vote) and vote.voter == voter.name
        if not own or not (vote.verdict is None or isinstance(vote.verdict, bool)):
            expected = "a Vote with its name and True, False or None as verdict"
            raise DistillError(f"the voter '{voter.name}' returned {vote!r}; expected {expected}.")
        check_plain(vote.as_dict(), f"the voter '{voter.name}': its vote on '{name}'")
    return votes
