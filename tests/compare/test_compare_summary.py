"""Means, worst types and intervals, by hand."""

import math

import numpy as np
import pytest

from unirain_plugin.compare.options import BootstrapOptions
from unirain_plugin.compare.summary import ImageResult, group_images, rank, summarise

IMAGES = {"a": "drs", "b": "drs", "c": "nrd"}


def results(model, psnr, images=IMAGES, test_set="s", metric="psnr"):
    pairs = zip(images, psnr, strict=True)
    return [ImageResult(model, test_set, image, images[image], {metric: value}) for image, value in pairs]


def psnr_of(found, models=("m",), images=IMAGES, samples=0, metric="psnr"):
    """The summary of a metric, against the first model."""
    better = {metric: metric != "niqe"}
    return summarise(found, list(models), "s", images, better, models[0], BootstrapOptions(samples=samples))


def values_of(summary, model="m", metric="psnr"):
    return {group: values[metric] for group, values in summary.values[model].items()}


def test_mean_over_types_is_not_that_over_images_and_a_missing_image_leaves_it_empty():
    found = results("m", [20, 30, 40]) + results("other", [1, 1, 1], test_set="elsewhere")
    summary = psnr_of(found)
    assert summary.groups == ["drs", "nrd", "mean", "worst"]
    assert summary.images == {"drs": 2, "nrd": 1, "mean": 3, "worst": 3}
    assert values_of(summary) == {"drs": 25, "nrd": 40, "mean": 32.5, "worst": 25}
    assert values_of(psnr_of(found[1:])) == {"drs": None, "nrd": 40, "mean": None, "worst": None}
    falls = psnr_of(results("m", [2, 4, 9], metric="niqe"), metric="niqe")
    assert falls.values["m"]["worst"]["niqe"] == 9
    images = {"a": None, "b": None}
    assert values_of(psnr_of(results("m", [20, 30], images), images=images)) == {"all": 25}
    assert list(group_images({"x": "snow", "y": "nrd", "z": None, "v": "drs"})) == ["drs", "nrd", "snow", "all"]


def test_perfect_images_are_left_out_of_their_models_mean_and_counted():
    images = {"a": "drs", "b": "drs", "c": "drs", "d": "nrd", "e": "nrd"}
    found = results("m", [math.inf, 30, 32, 40, 42], images) + results("r", [20, 20, 24, 30, 33], images)
    summary = psnr_of(found, ["r", "m"], images, 10)
    assert values_of(summary) == {"drs": 31, "nrd": 41, "mean": 36, "worst": 31}
    assert summary.left_out == {"m": {"drs": {"psnr": 1}}}
    assert summary.intervals["m"]["psnr"].difference == ((10 + 8) / 2 + (10 + 9) / 2) / 2  # of the four finite pairs
    assert summary.values["r"]["drs"]["psnr"] == 64 / 3
    found = results("m", [math.inf, math.inf, 40]) + results("r", [20, 20, 30])
    summary = psnr_of(found, ["r", "m"], samples=10)
    assert values_of(summary) == {"drs": math.inf, "nrd": 40, "mean": 40, "worst": 40}
    assert summary.left_out == {"m": {"drs": {"psnr": 2}}} and summary.intervals["m"] == {}
    assert values_of(psnr_of(results("m", [math.inf] * 3)))["mean"] == math.inf


def test_images_without_a_value_are_counted_and_a_failed_metric_empties_the_mean():
    metrics = {"psnr": True, "niqe": False}
    found = [
        ImageResult("m", "s", "a", "drs", {"psnr": 20.0, "niqe": 4.0}),
        ImageResult("m", "s", "b", "drs", {"psnr": 30.0}),
        ImageResult("m", "s", "c", "nrd", {"psnr": math.nan}),
    ]
    summary = summarise(found, ["m"], "s", IMAGES, metrics, "m", BootstrapOptions(samples=0))
    assert summary.values["m"]["drs"] == {"psnr": 25, "niqe": 4} and summary.left_out == {"m": {"drs": {"niqe": 1}}}
    assert summary.values["m"]["nrd"] == {"psnr": None, "niqe": None}


def many(n=200):
    rng = np.random.default_rng(3)
    images = {f"{t}{i}": t for t in ("drs", "nrd") for i in range(n)}
    base = rng.normal(30, 5, 2 * n)
    gain = rng.normal(0.5, 1, 2 * n)
    return images, results("r", base, images) + results("m", base + gain, images), gain


def test_interval_is_that_of_the_paired_differences():
    images, found, gain = many()
    summary = psnr_of(found, ["r", "m"], images, 4000)
    interval = summary.intervals["m"]["psnr"]
    halves = gain[:200], gain[200:]
    error = math.sqrt(sum(half.var() / 200 for half in halves)) / 2  # of the mean of both types' means
    assert interval.difference == pytest.approx(gain.mean())
    assert interval.low == pytest.approx(gain.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(gain.mean() + 1.96 * error, abs=0.15 * error)
    assert interval.is_clear and "r" not in summary.intervals


def test_interval_repeats_with_its_seed_and_narrows_with_its_confidence_and_a_constant_gain_is_certain():
    images, found, _ = many(20)

    def interval(**keys):
        options = BootstrapOptions(samples=500, **keys)
        return summarise(found, ["r", "m"], "s", images, {"psnr": True}, "r", options).intervals["m"]["psnr"]

    assert interval() == interval() != interval(seed=1)
    assert interval(confidence=0.5).high - interval(confidence=0.5).low < interval().high - interval().low
    for images in (dict.fromkeys(IMAGES), IMAGES):  # one image of a type gives no interval
        found = results("r", [20, 25, 31], images) + results("m", [21, 26, 32], images)
        intervals = psnr_of(found, ["r", "m"], images, 100).intervals["m"]
        assert [(i.low, i.high) for i in intervals.values()] == ([] if images is IMAGES else [(1, 1)])


def test_places_are_shared_by_equal_prints():
    assert rank([28.931, 28.929, 27.0, None], True, 2) == ({0, 1}, {2})
    assert rank([0.3, 0.1, 0.2], False, 4) == ({1}, {2})
    assert rank([None, 3.0], True, 2) == (set(), set())
