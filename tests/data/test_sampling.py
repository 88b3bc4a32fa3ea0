"""The mixture of an epoch, counted."""

import pickle
from collections import Counter

import numpy as np
import pytest

from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.pairs import Pair, PairTable
from unirain_plugin.data.sampling import MAX_EPOCHS, SamplePlan
from unirain_plugin.errors import OptionError


def table(*groups):
    """(type, source, kept, count) → a table."""
    result = PairTable()
    for rain_type, source, kept, count in groups:
        for number in range(count):
            result.append(Pair(f"{rain_type}/{source}/{kept}/{number}", "gt", rain_type, source, kept))
    return result


def epoch(pairs, plan, rng=None):
    return [pairs[plan.pair_number(slot, rng)] for slot in range(len(plan))]


TWO = [("drs", "a", True, 6), ("nrd", "a", True, 2)]


def test_natural_meets_every_pair_once_and_balanced_repeats_the_smaller_type_evenly_without_rejected_pairs():
    pairs = table(*TWO)
    for rng in (None, np.random.default_rng(0)):
        assert {p.lq for p in epoch(pairs, SamplePlan(pairs, "natural"), rng)} == {pairs[n].lq for n in range(8)}
    pairs = table(*TWO, ("drs", "a", False, 5))
    samples = epoch(pairs, SamplePlan(pairs, "balanced"))
    assert all(p.kept for p in samples)
    assert Counter(Counter(p.lq for p in samples).values()) == {1: 6, 3: 2}


SOURCES = [("drs", "syn", True, 6), ("drs", "real", True, 2), ("nrd", "real", True, 4)]
ODD = [("drs", "a", True, 7), ("drd", "a", True, 5), ("nrs", "a", True, 3)]


@pytest.mark.parametrize(
    ("groups", "sampling", "counts"),
    [
        (TWO, "balanced", {"drs": 6, "nrd": 6}),
        (TWO, {"drs": 1, "nrd": 3}, {"drs": 6, "nrd": 18}),
        (TWO, {"drs": 1, "nrd": 0}, {"drs": 6}),
        (TWO, {"drs": 1, "nrd": 1e-6}, {"drs": 8 * MAX_EPOCHS, "nrd": 1}),  # next to no weight still has a slot
        # of 24: 7.2, 8.64, 8.16, the largest remainder rounded up
        (ODD, {"drs": 0.3, "drd": 0.36, "nrs": 0.34}, {"drs": 7, "drd": 9, "nrs": 8}),
        (SOURCES, {"types": "balanced"}, {"drs syn": 6, "drs real": 2, "nrd real": 8}),  # sources as they are
        (SOURCES, {"sources": "balanced"}, {"drs syn": 6, "drs real": 6, "nrd real": 12}),  # types are balanced
        (
            [("drs", "syn", True, 8), ("drs", "real", True, 2), ("drd", "real", True, 5)],
            {"types": "balanced", "sources": {"syn": 1, "real": 1}},
            {"drs syn": 8, "drs real": 8, "drd real": 16},
        ),
    ],
)
def test_shares_of_types_and_sources(groups, sampling, counts):
    pairs = table(*groups)
    plan = SamplePlan(pairs, sampling)
    samples = epoch(pairs, plan)
    assert len(plan) == sum(counts.values())
    assert counts in (Counter(p.rain_type for p in samples), Counter(f"{p.rain_type} {p.source}" for p in samples))


def test_pyramid_gives_the_rest_its_share_in_every_type():
    pairs = table(("drs", "a", True, 4), ("drs", "a", False, 8), ("nrs", "a", True, 4))
    samples = epoch(pairs, SamplePlan(pairs, "balanced", {"distilled": 3, "rest": 1}))
    shares = Counter((p.rain_type, p.kept) for p in samples)
    assert shares[("nrs", True)] / len(samples) == pytest.approx(0.5, abs=0.02)
    assert shares[("drs", False)] / len(samples) == pytest.approx(0.125, abs=0.02)


def test_an_epoch_is_bounded_and_large_groups_are_then_drawn_at_random():
    pairs = table(("drs", "a", True, 200), ("nrd", "a", True, 10))
    plan = SamplePlan(pairs, {"drs": 1, "nrd": 99})
    assert len(plan) == 8 * 210 and MAX_EPOCHS == 8
    drawn = [pair for rng in map(np.random.default_rng, range(30)) for pair in epoch(pairs, plan, rng)]
    assert len({pair.lq for pair in drawn if pair.rain_type == "drs"}) > 160


@pytest.mark.parametrize(
    ("sampling", "pyramid", "text"),
    [
        ("balanse", None, "expected balanced, natural or weights by name, found 'balanse'. Did you mean 'balanced'"),
        ({"drs": 1}, None, "'nrd' has no weight"),
        ({"drs": 1, "nrd": 1, "nrx": 1}, None, "no pair is of 'nrx'.*Did you mean"),
        ({"drs": -1, "nrd": 1}, None, "sampling: drs: expected a weight of 0 or more, found -1"),
        ({"drs": 0, "nrd": 0}, None, "all weights are 0"),
        ({"types": "balanced", "source": {}}, None, "unknown key 'source'.*Did you mean 'sources'"),
        ({"sources": {"b": 1}}, None, r"sources: no pair is of 'b'; found \['a'\]"),
        ("natural", {"distiled": 1}, "unknown tier 'distiled'.*Did you mean 'distilled'"),
        ("natural", {"distilled": 0}, "pyramid: all weights are 0"),
        ("natural", [1, 2], "pyramid: expected weights such as"),
        ("natural", {"rest": 1}, "no pair is left"),
    ],
)
def test_wrong_options_say_what_is_wrong(sampling, pyramid, text):
    with pytest.raises(OptionError, match=f"(?s){text}"):
        SamplePlan(table(*TWO), sampling, pyramid)


def test_table_keeps_strange_names_and_slots_beyond_the_epoch_do_not_exist():
    pairs = PairTable()
    original = Pair("dröp/a b.png", "\udcff.png", "snow", "s", False, (3, 4))
    pairs.append(original)
    pairs.append(Pair("x", "y", "drs"))
    assert pairs[0] == original and pairs[1] == Pair("x", "y", "drs")
    with pytest.raises(IndexError):
        pairs[2]
    plan = SamplePlan(table(*TWO))
    assert len(plan) == 8
    for slot in (-1, 8):
        with pytest.raises(IndexError, match=f"sample {slot} of 8"):
            plan.pair_number(slot, None)


def test_a_sample_index_is_an_int_that_survives_pickling():
    index = pickle.loads(pickle.dumps(SampleIndex(7, draw=12)))
    assert index == 7 and [*range(10)][index] == 7
    assert type(index) is SampleIndex and index.draw == 12
    with pytest.raises(ValueError, match="draw must be 0 or more, found -1"):
        SampleIndex(0, -1)
