"""The baselines' formulas, by hand."""

import math

import numpy as np
import pytest

from unirain_plugin.losses.reweighting import build_reweighter


def softmax(logits):
    powers = np.exp(np.asarray(logits, dtype=float))
    return powers / powers.sum()


def test_equal_stays_equal():
    reweighter = build_reweighter("equal", 3, warmup=0)
    for losses in ([1, 2, 3], [3, 1, 0.1], [9, 0.5, 4]):
        np.testing.assert_array_equal(reweighter.update(losses), np.full(3, 1 / 3))


def test_dwa_by_hand():
    reweighter = build_reweighter("dwa", 2, warmup=0, temperature=2.0)
    np.testing.assert_allclose(reweighter.update([4.0, 1.0]), [0.5, 0.5])
    # ratios 3/4 and 1: softmax(.375, .5)
    np.testing.assert_allclose(reweighter.update([3.0, 1.0]), softmax([0.375, 0.5]), atol=1e-15)
    # ratios 1 and .5
    np.testing.assert_allclose(reweighter.update([3.0, 0.5]), softmax([0.5, 0.25]), atol=1e-15)


def test_uncertainty_by_hand_and_at_its_optimum():
    reweighter = build_reweighter("uncertainty", 2, warmup=0, lr=0.1)
    # s − lr·(1 − e^{−s} ℓ) from s = 0: −.1·(1 − .5), −.1·(1 − 2)
    weights = reweighter.update([0.5, 2.0])
    np.testing.assert_allclose(weights, softmax([0.05, -0.1]), atol=1e-15)
    for _ in range(2000):
        weights = reweighter.update([0.5, 2.0])
    np.testing.assert_allclose(reweighter.log_variances, np.log([0.5, 2.0]), atol=1e-6)  # s_i = log ℓ_i
    np.testing.assert_allclose(weights, [0.8, 0.2], atol=1e-6)  # ∝ 1/ℓ_i
    reweighter = build_reweighter("uncertainty", 2, warmup=0, lr=0.1)
    reweighter.update([1000.0, 1.0])
    np.testing.assert_allclose(reweighter.log_variances, [1.0, 0.0])  # gradients −999, kept at −10, and 0
    reweighter = build_reweighter("uncertainty", 2)
    np.testing.assert_allclose(reweighter.set_log_variances([0.0, math.log(3)]), [0.75, 0.25])
    np.testing.assert_allclose(reweighter.weights, [0.75, 0.25])


def test_rlw_is_seeded_and_moves():
    def draw(seed, count=500):
        reweighter = build_reweighter("rlw", 4, warmup=0, seed=seed)
        return np.array([reweighter.update([1, 1, 1, 1]) for _ in range(count)])

    first = draw(3)
    np.testing.assert_array_equal(first, draw(3))
    assert not np.allclose(first, draw(4))
    np.testing.assert_allclose(first.mean(0), 0.25, atol=0.03)
    assert first.std(0).min() > 0.1


@pytest.mark.parametrize(("warmup", "first"), [(0, [0.8, 0.2]), (1, [0.5, 0.5])])
def test_famo_by_hand(warmup, first):
    reweighter = build_reweighter("famo", 2, warmup=warmup, lr=0.5, gamma=0.1)
    # No past yet: z = (.5, .5), weights ∝ z/ℓ = (.5, .125); a loss seen in the warm-up is a past, too
    np.testing.assert_allclose(reweighter.update([1.0, 4.0]), first, atol=1e-12)
    # d = (log 2, 0): δ = .5·(d − mean d) = (log 2, −log 2)/4; ξ = −.5·δ; the type that stood still gains
    step = math.log(2) / 8
    z = softmax([-step, step])
    expected = z / np.array([0.5, 4.0])
    np.testing.assert_allclose(reweighter.update([0.5, 4.0]), expected / expected.sum(), atol=1e-12)
    # No change: δ = 0, only the decay: ξ·(1 − .5·.1)
    z = softmax([-0.95 * step, 0.95 * step])
    expected = z / np.array([0.5, 4.0])
    np.testing.assert_allclose(reweighter.update([0.5, 4.0]), expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("mode", ["equal", "dwa", "uncertainty", "rlw", "famo"])
def test_baselines_measure_slopes_but_have_no_scores(mode):
    reweighter = build_reweighter(mode, 2, warmup=0)
    reweighter.update([1.0, 2.0])
    reweighter.update([0.5, 2.0])
    found = reweighter.diagnostics()
    assert found["slopes"] == pytest.approx([-0.5, 0.0])
    assert found["tbs"] is found["tss"] is found["af"] is None


def test_an_absent_type_is_left_alone():
    uncertainty = build_reweighter("uncertainty", 2, warmup=0, lr=0.1)
    uncertainty.update([None, 2.0])
    np.testing.assert_allclose(uncertainty.log_variances, [0.0, 0.1], atol=1e-15)
    famo = build_reweighter("famo", 3, warmup=0)
    expected = 1 / np.array([2.0, 3.0, 4.0])  # the type not seen yet has the others' mean
    np.testing.assert_allclose(famo.update([2.0, None, 4.0]), expected / expected.sum(), atol=1e-12)
