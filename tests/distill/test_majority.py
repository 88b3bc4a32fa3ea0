"""The majority rule: every combination of three votes, ties, abstentions, early exit."""

import itertools

import pytest

from unirain_plugin.distill.records import Vote
from unirain_plugin.distill.stages.vote import decide, is_settled, needed_votes


def votes(*verdicts):
    return [Vote(f"v{i}", verdict, f"because {i}") for i, verdict in enumerate(verdicts)]


@pytest.mark.parametrize("verdicts", itertools.product((True, False, None), repeat=3))
def test_three_voters_follow_the_paper(verdicts):
    decision = decide(votes(*verdicts), 3)
    assert decision.keep is (sum(v is True for v in verdicts) >= 2)
    assert (decision.outcome == "kept") is decision.keep
    assert (decision.outcome == "rejected") is (sum(v is False for v in verdicts) >= 2)


def test_outcomes_are_named_with_count_and_reasons():
    tie = decide(votes(True, False, None), 3)
    assert (tie.outcome, tie.keep) == ("tie", False)
    assert tie.reason == "tie, 1 for, 1 against, 1 abstained: v1: because 1"
    assert decide(votes(None, None, None), 3).outcome == "undecided"
    assert decide(votes(True, None, None), 3).outcome == "undecided"
    assert decide(votes(True, True, False, False), 4).outcome == "tie"
    assert decide(votes(True, False, True), 3).reason == "2 for, 1 against: v0: because 0; v2: because 2"


@pytest.mark.parametrize("voters,needed", [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_needed(voters, needed):
    assert needed_votes(voters) == needed


def test_early_exit_never_changes_the_decision_and_more_votes_than_voters_are_refused():
    for verdicts in itertools.product((True, False, None), repeat=3):
        full = decide(votes(*verdicts), 3)
        first = votes(*verdicts)[:2]
        if is_settled(first, 3):
            assert decide(first, 3).keep is full.keep
        else:
            assert {decide([*first, Vote("v2", v, "")], 3).keep for v in (True, False)} == {True, False} or (
                None in verdicts[:2]
            )
