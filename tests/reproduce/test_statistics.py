"""The tables' mathematics, against numbers worked out by hand."""

import math

import pytest

from unirain_plugin.study.results import (
    Spread,
    difference_intervals,
    expert_lines,
    expert_use,
    mean_of_types,
    means_by_type,
    spread,
    summarise,
    verdict,
    weight_lines,
    worst_type,
)


def figures(drs, drd, nrs, nrd):
    psnr = {"drs": drs, "drd": drd, "nrs": nrs, "nrd": nrd}
    return {"psnr": psnr, "ssim": {name: value / 100 for name, value in psnr.items()}}


def test_spread_is_the_samples_deviation_and_mean_and_worst_are_over_types():
    found = spread([1.0, 2.0, 6.0])  # mean 3; (4 + 1 + 9) / 2 = 7
    assert found == Spread(3.0, pytest.approx(7**0.5), 3)
    assert found.text() == "3.00 ± 2.65"
    assert spread([2.5]) == Spread(2.5, None, 1) and spread([2.5]).text() == "2.50"
    run = figures(30.0, 22.0, 24.0, 28.0)
    assert mean_of_types(run) == 26.0
    assert worst_type(run) == ("drd", 22.0)


@pytest.mark.parametrize(
    ("baseline", "variant", "expected"),
    [  # deviations 3 and 4: a difference spreads by 5
        ((100.0, 3.0, 3), (104.9, 4.0, 3), "tie"),
        ((100.0, 3.0, 3), (95.1, 4.0, 3), "tie"),
        ((100.0, 3.0, 3), (105.1, 4.0, 3), "better"),
        ((100.0, 3.0, 3), (94.9, 4.0, 3), "worse"),
        ((1.0, 0.0, 2), (1.0, 0.0, 2), "tie"),
        ((1.0, None, 1), (9.0, 0.1, 3), "not told (one seed)"),
        ((9.0, 0.1, 3), (1.0, None, 1), "not told (one seed)"),
    ],
)
def test_a_difference_below_the_spread_is_a_tie_and_one_seed_tells_nothing(baseline, variant, expected):
    assert verdict(Spread(*baseline), Spread(*variant)) == expected


def test_perfect_images_and_infinite_figures_of_a_seed_are_counted_and_in_no_mean():
    values = {"psnr": {"drs": [30.0, math.inf, 34.0], "nrd": [math.inf]}, "ssim": {"drs": [0.8, 1, 0.9], "nrd": [1]}}
    found = means_by_type(values)
    assert found["psnr"] == {"drs": 32.0, "nrd": math.inf}
    assert found["ssim"]["drs"] == pytest.approx(0.9)
    assert found["perfect"] == {"drs": 1, "nrd": 1}
    assert mean_of_types(found) == 32.0 and worst_type(found) == ("drs", 32.0)
    assert spread([30.0, math.inf, 34.0]) == Spread(32.0, pytest.approx(8**0.5), 3)
    whole = spread([math.inf, math.inf])
    assert whole.text() == "∞" and verdict(whole, Spread(30.0, 1.0, 2)) == "not told (infinite)"
    assert summarise([figures(math.inf, 22.0, 24.0, 29.0), figures(20.0, 22.0, 24.0, 30.0)]).psnr.mean == 24.5


def test_the_worst_of_each_run_may_be_another_type():
    summary = summarise([figures(20.0, 24.0, 30.0, 30.0), figures(26.0, 22.0, 30.0, 34.0)])
    assert summary.psnr == Spread(27.0, pytest.approx(2**0.5), 2)  # 26 and 28
    assert summary.worst.mean == 21.0  # of 20 (drs) and 22 (drd)
    assert summary.worst_name == "drs"  # on average 23 and 23: the first
    assert summary.by_type["nrd"].mean == 32.0
    assert summary.ssim.mean == pytest.approx(0.27)


def test_use_of_experts_tells_collapse_from_specialisation():
    own = {"drs": {"decoder1.0": [1.0, 0.0]}, "nrd": {"decoder1.0": [0.0, 1.0]}}
    assert expert_use(own) == (0.5, 1.0)
    collapsed = {"drs": {"decoder1.0": [0.0, 1.0]}, "nrd": {"decoder1.0": [0.0, 1.0]}}
    assert expert_use(collapsed) == (1.0, 1.0)
    two_layers = {"drs": {"a": [0.5, 0.5], "b": [0.25, 0.75]}}
    assert expert_use(two_layers) == (0.625, 0.625)
    assert expert_use({"drs": {}}) is None
    assert expert_use({}) is None
    run = {"routing": {"drs": {"encoder1.0": [0.5, 0.5], "decoder1.0": [0.0, 1.0]}}, "loss_weights": {"drs": 0.2}}
    _, *lines = expert_lines({"soft-hard": [run], "dense": [{"routing": {}}]})
    assert lines == [("soft-hard", "0.50", "0.50", "1.00", "1.00")]
    lines = weight_lines({"paper": [run, {"loss_weights": {"drs": 0.7}}]})
    assert lines == [("mode", "drs"), ("paper", "0.20 to 0.70")]


def test_differences_are_paired_by_image_and_their_intervals_hold_seeds_and_images():
    constant = [{"a": [30.0, 20.0], "b": [25.0]}] * 3
    better = [{"a": [29.0, 19.0], "b": [22.0]}] * 3  # by 1 on every image of a, by 3 on b
    found = difference_intervals(constant, better)
    assert found == {name: pytest.approx((value,) * 3) for name, value in {"a": 1.0, "b": 3.0, "mean": 2.0}.items()}
    # two seeds 2 dB apart against a constant: drawn twice each in a quarter of the samples
    seeds = [{"a": [30.0]}, {"a": [32.0]}]
    assert difference_intervals(seeds, [{"a": [30.0]}])["a"] == pytest.approx((1.0, 0.0, 2.0))
    # one image gains 4, the other nothing
    images = difference_intervals([{"a": [34.0, 30.0]}], [{"a": [30.0, 30.0]}])
    assert images["a"] == pytest.approx((2.0, 0.0, 4.0))
    found = difference_intervals([{"a": [math.inf, 20.0], "b": [math.inf]}], [{"a": [30.0, 19.0], "b": [30.0]}])
    assert found == {"a": pytest.approx((1.0, 1.0, 1.0)), "mean": pytest.approx((1.0, 1.0, 1.0))}
