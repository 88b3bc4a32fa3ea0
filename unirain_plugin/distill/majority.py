"""The majority rule (paper §2): R̂_q = 1 iff Σ_i R_q^i ≥ 2 for three voters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unirain_plugin.distill.records import Vote


@dataclass(frozen=True, slots=True)
class Decision:
    """What the votes amount to.

    Attributes:
        keep: R̂_q.
        outcome: ``kept``, ``rejected`` (a majority against), ``tie`` (as many for as against) or ``undecided``
            (abstentions left neither side a majority).
        reason: The count and the deciding side's reasons, in words.
    """

    keep: bool
    outcome: str
    reason: str


def needed_votes(voters: int) -> int:
    """More than half of all voters: 2 of 3, as in the paper; abstentions do not lower it (our choice)."""
    return voters // 2 + 1


def is_settled(votes: Sequence[Vote], voters: int) -> bool:
    """Whether the voters not yet asked can no longer change the decision (early exit)."""
    needed = needed_votes(voters)
    yes, no = _count(votes, True), _count(votes, False)
    return yes >= needed or no >= needed


def decide(votes: Sequence[Vote], voters: int) -> Decision:
    """Apply the majority rule.

    Only a majority of *all* voters keeps a candidate: with three voters one yes, one no and one abstention is a tie
    and is not kept (our choice: 97 % are rejected in the paper, so doubt costs less than a bad pair).

    Args:
        votes: The votes given; fewer than ``voters`` after an early exit.
        voters: Number of voters in the pipeline.

    Raises:
        ValueError: If there are more votes than voters or a voter voted twice.
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
