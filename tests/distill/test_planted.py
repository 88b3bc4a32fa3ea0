"""Planted bad pairs: each kind does what it says, repeatably, and leaves the good pair alone."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study import planted as planted_pairs
from unirain_plugin.study.benchmarks.distill import render_pairs
from unirain_plugin.study.planted import FURTHER_KINDS, GOOD_KINDS, KINDS, RAIN_KINDS, plant

ALL = [*KINDS, *FURTHER_KINDS, *GOOD_KINDS, *RAIN_KINDS]


@pytest.fixture(scope="module")
def pairs():
    return render_pairs(sample_photos("train"), 2, 160, 5)


def planted(kind, pairs, seed=0):
    return plant(kind, pairs[0], pairs[1], np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ALL)
def test_a_planted_pair_is_a_pair_and_the_good_one_stays(kind, pairs):
    before = pairs[0].lq.copy(), pairs[0].gt.copy()
    bad, again = (planted(kind, pairs) for _ in range(2))
    assert bad.lq.shape == bad.gt.shape
    assert bad.lq.dtype == bad.gt.dtype == np.uint8
    assert bad.lq.flags.c_contiguous and bad.gt.flags.c_contiguous
    for side, whole in zip(("lq", "gt"), before, strict=True):
        np.testing.assert_array_equal(getattr(pairs[0], side), whole)
        np.testing.assert_array_equal(getattr(bad, side), getattr(again, side))
    if kind != "duplicate":
        assert bad.lq.shape != pairs[0].lq.shape or (bad.lq != pairs[0].lq).any() or (bad.gt != pairs[0].gt).any()


def test_misaligned_pairs_are_shifted_by_that_distance(pairs):
    for distance in (1, 2, 5, 8):
        bad = planted(f"misaligned_{distance}px", pairs)
        lq, gt = (np.float32(cv2.GaussianBlur(image, (0, 0), 2)[..., 1]) for image in (bad.lq, bad.gt))
        (dx, dy), _ = cv2.phaseCorrelate(gt, lq, cv2.createHanningWindow(lq.shape[::-1], cv2.CV_32F))
        assert np.hypot(dx, dy) == pytest.approx(distance, abs=0.8)


def test_swapped_pairs_are_swapped_and_an_unknown_kind_names_the_nearest(pairs):
    once = planted("swapped", pairs)
    np.testing.assert_array_equal(once.lq, pairs[0].gt)
    np.testing.assert_array_equal(once.gt, pairs[0].lq)
    with pytest.raises(OptionError, match=r"'blury' is unknown\..*'blurred'"):
        planted("blury", pairs)


def test_still_rainy_comes_in_the_same_and_in_other_rain(pairs):
    same = 0
    difference = pairs[0].lq.astype(float) - pairs[0].gt
    for seed in range(16):
        left = planted("still_rainy", pairs, seed).gt.astype(float) - pairs[0].gt
        same += np.corrcoef(left.ravel(), difference.ravel())[0, 1] > 0.9
    assert 2 <= same <= 14


def test_other_rain_is_of_the_pairs_own_type_by_day(pairs, monkeypatch):
    seen, render = [], planted_pairs.render_rain
    monkeypatch.setattr(planted_pairs, "render_rain", lambda gt, kind, *r: seen.append(kind) or render(gt, kind, *r))
    for rain_type in ("snow", "haze", "nrs", "drd"):
        plant(next(iter(RAIN_KINDS)), replace(pairs[0], rain_type=rain_type), pairs[1], np.random.default_rng(0))
    assert seen == ["snow", "haze", "drs", "drd"]
