"""The weight maths: golden vectors, cases derived by hand, properties, baselines, wrong options."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unirain_plugin
from unirain_plugin.errors import CheckpointError, DataError, OptionError
from unirain_plugin.losses.reweighting import MODES, ReweightingOptions, build_reweighter

GOLDEN = json.loads((Path(__file__).parent / "reweighting_golden.json").read_text())
FORMULAS = ("paper", "coba", "released")


def curves(k, count=40, seed=0):
    """Losses (count, k) that fall at different speeds, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(count)[:, None]
    speed = rng.uniform(0.02, 0.2, k)
    return rng.uniform(0.02, 0.2, k) * (0.2 + np.exp(-speed * t)) * rng.uniform(0.98, 1.02, (count, k))


def run(reweighter, losses):
    return np.array([reweighter.update(values) for values in losses])


def build(mode="paper", num_types=4, window=8, tau=5.0, warmup=4, **more):
    return build_reweighter(mode=mode, num_types=num_types, window=window, tau=tau, warmup=warmup, **more)


def softmax(*logits):
    powers = [math.exp(z) for z in logits]
    return np.array(powers) / sum(powers)


def test_golden_vectors():
    reweighter = build(window=GOLDEN["window"], tau=GOLDEN["tau"], warmup=GOLDEN["warmup"])
    expected = {update["t"]: update for update in GOLDEN["updates"]}
    for t, losses in enumerate(GOLDEN["losses"], 1):
        weights = reweighter.update(losses)
        if t in expected:
            found = reweighter.diagnostics()
            np.testing.assert_allclose(weights, expected[t]["weights"], atol=1e-9)
            for key in ("slopes", "tbs", "tss", "af"):
                if expected[t][key] is None:
                    assert found[key] is None
                else:
                    np.testing.assert_allclose(found[key], expected[t][key], atol=1e-9)


def test_paper_mode_by_hand():
    """Two types, window 2, τ 1; every number below follows from the formulas with slopes as differences."""
    reweighter = build(num_types=2, window=2, tau=1.0, warmup=0)
    np.testing.assert_allclose(reweighter.update([2.0, 10.0]), [0.5, 0.5])
    # ratios fall to .5 and .75: slopes −.5, −.25; TBS = softmax(2·(−2/3), 2·(−1/3)); AF = min(2·σ(2), 1) = 1
    np.testing.assert_allclose(reweighter.update([1.0, 7.5]), softmax(-4 / 3, -2 / 3), atol=1e-12)
    # slopes 0, +.25: TBS = softmax(0, 2); TSS = softmax(0, −2·.25/.5); α_max = 0, −.25, .25 with sum .5
    weights = reweighter.update([1.0, 10.0])
    af = 3 * softmax(0.0, 1.5, -1.5)[-1]
    np.testing.assert_allclose(weights, af * softmax(0, 2) + (1 - af) * softmax(0, -1), atol=1e-12)
    assert reweighter.diagnostics()["af"] == pytest.approx(af, abs=1e-12)
    assert weights[1] < 0.5  # the diverging one


def test_coba_mode_by_hand_blends_its_floor_in_only_when_a_weight_is_below():
    paper, coba = build("paper"), build("coba")
    for losses in curves(4):
        mixture, weights = paper.update(losses), coba.update(losses)
    np.testing.assert_allclose(weights, softmax(*(4 * mixture)), atol=1e-12)
    # One type falls a lot, the others stand still: TBS gives it nearly nothing, and so does softmax(K · ω) for K = 12.
    k = 12
    raw = softmax(*(k * softmax(-k, *[0.0] * (k - 1))))
    assert raw.min() > 1 / (10 * k)  # a floor that binds must be asked for
    for more, expected in (({}, raw), ({"floor": 0.06}, raw * (1 - 0.06 * k) + 0.06)):
        weights = run(build("coba", k, warmup=0, **more), [[1.0] * k, [0.5] + [1.0] * (k - 1)])[-1]
        np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_released_mode_by_hand():
    reweighter = build("released", 2, window=2, tau=1.0, warmup=0)
    reweighter.update([2.0, 4.0])
    weights = reweighter.update([1.0, 3.5])  # not normalised: slopes −1, −.5
    af = softmax(0.0, 2.0)[-1]  # not multiplied by t
    mixture = af * softmax(-4 / 3, -2 / 3) + (1 - af) * softmax(2, 2)
    np.testing.assert_allclose(weights, softmax(*mixture) * 0.8 + 0.1, atol=1e-12)
    assert reweighter.diagnostics()["af"] == pytest.approx(af)
    reweighter = build("released", window=10, warmup=0)
    run(reweighter, np.full((30, 4), 0.1))
    assert reweighter.diagnostics()["af"] == pytest.approx(0.1)
    weights = run(build("released", 12), curves(12))
    np.testing.assert_allclose(weights, 1 / 12)  # its default floor, 0.1, would be more than there is


@pytest.mark.parametrize("mode", FORMULAS)
def test_flat_losses_give_equal_weights_and_neither_order_nor_scale_of_the_types_matter(mode):
    for constant in (0.0, 0.1, 1 / 3, 1e-30, 1e30):
        np.testing.assert_allclose(run(build(mode), np.full((20, 4), constant)), 0.25, atol=1e-12)
    losses, order = curves(4), [2, 0, 3, 1]
    weights = run(build(mode), losses)
    np.testing.assert_allclose(weights[:, order], run(build(mode), losses[:, order]), atol=1e-12)
    for factor in (1000.0, 1e-7) if mode != "released" else ():
        np.testing.assert_allclose(weights, run(build(mode), losses * [1.0, factor, 1.0, 1.0]), atol=1e-10)


def test_types_that_diverge_lose_weight_and_those_that_stall_gain_it_until_all_are_flat():
    losses = np.concatenate([curves(4, 6), np.full((30, 4), 0.0123)])
    assert np.ptp(run(build(), losses)[-1]) == 0
    losses = curves(4, 40)
    losses[20:, 2] = losses[19, 2] * 1.15 ** np.arange(20)
    weights = run(build(), losses)
    assert weights[-1, 2] == weights[-1].min() < weights[18, 2]
    losses = np.array([0.1 * 0.9**t * np.ones(4) for t in range(12)])
    losses[:, 1] = 0.1 * (1 - 1e-4 * np.arange(12))
    weights = run(build(window=5, warmup=2), losses)
    assert weights[4, 1] == weights[4].max() > 0.3


@pytest.mark.parametrize("mode", MODES)
def test_a_type_absent_for_a_while(mode):
    losses = [list(values) for values in curves(4)]
    for t in range(12, 24):
        losses[t][3] = None if t % 2 else float("nan")
    reweighter = build(mode)
    weights = run(reweighter, losses)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-12)
    assert weights.min() > 0.001
    assert reweighter.diagnostics()["slopes"][3] < 0  # measured again after its return


def test_an_absent_type_keeps_its_slope_and_returns_with_the_slope_per_update():
    line = [1.0 - 0.01 * t for t in range(20)]
    reweighter = build(num_types=2, warmup=0)
    for t in range(8):
        reweighter.update([line[t], line[t]])
    for t in range(8, 15):
        reweighter.update([line[t], None])
        assert reweighter.diagnostics()["slopes"] == pytest.approx([-0.01, -0.01])
    reweighter.update([line[15], line[15]])  # a gap of 7 updates: still 0.01 an update
    assert reweighter.diagnostics()["slopes"] == pytest.approx([-0.01, -0.01])
    losses = [[*values, None] for values in curves(3)]
    for t in range(30, 40):
        losses[t][3] = 0.1 * 0.9 ** (t - 30)
    weights = run(build(), losses)
    assert np.isfinite(weights).all()
    assert weights[-1, 3] > 0
    reweighter = build()
    run(reweighter, curves(4, 10))
    before = reweighter.state_dict()
    reweighter.update([None] * 4)
    assert reweighter.state_dict() == before


def test_the_slope_of_an_absent_type_does_not_hold_the_factor_down():
    with_type, without = build(num_types=2, warmup=1), build(num_types=1, warmup=1)
    for t in range(30):
        value = 0.9**t
        with_type.update([value, 1.0 + t if t < 3 else None])
        without.update([value])
    slopes = with_type.diagnostics()["slopes"]
    assert slopes[1] > 0 > slopes[0]
    assert with_type._worst[-1] == pytest.approx(slopes[0])
    assert with_type._worst[-1] == pytest.approx(without._worst[-1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_nonfinite_losses_are_counted_and_never_poison_the_history(mode, bad):
    losses = curves(4)
    poisoned, absent = build(mode), build(mode)
    for t, values in enumerate(losses):
        hit = t in (0, 7, 21)
        first = poisoned.update([bad if hit else values[0], *values[1:]])
        second = absent.update([None if hit else values[0], *values[1:]])
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()
    assert poisoned.diagnostics()["nonfinite"] == [3, 0, 0, 0]
    assert absent.diagnostics()["nonfinite"] == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_a_distribution_even_of_extreme_losses(mode):
    for k in (1, 2, 4, 7):
        weights = run(build(mode, k), curves(k))
        assert weights.shape == (40, k)
        assert (weights > 0).all()
        np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-12)
        np.testing.assert_allclose(weights[:4], 1 / k)  # warm-up
    values = [1e308, 5e-324, 0.0, -1.0, 1e-300, 1e300, 0.1, 1.7e308]
    weights = run(build(mode, warmup=0), np.random.default_rng(0).choice(values, (60, 4)))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-9)


def test_losses_of_zero_at_first_and_negative_ones_are_normalised():
    for more, losses, slope in (
        ({}, (0.0, 4.0, 2.0), -0.5),
        ({"ema": 0.5}, (0.0, 4.0, 6.0), 1.0),  # averages 0, 2, 4: divided by the first average above 0
        ({}, (-2.0, -3.0), -0.5),
    ):
        reweighter = build(num_types=2, warmup=0, **more)
        run(reweighter, [[loss, 1.0] for loss in losses])
        assert reweighter.diagnostics()["slopes"] == pytest.approx([slope, 0.0])


@pytest.mark.parametrize("size", [1e-2, 1e-9])
def test_slopes_are_compared_however_small_they_are(size):
    reweighter = build(num_types=2, warmup=0)
    run(reweighter, [[1 - size * t, 1 - 2 * size * t] for t in range(6)])
    np.testing.assert_allclose(reweighter.diagnostics()["tbs"], softmax(-2 / 3, -4 / 3), atol=1e-6)
    np.testing.assert_allclose(reweighter.diagnostics()["tss"], 0.5, atol=1e-6)


def test_tensors_arrays_and_lists_are_the_same():
    losses = curves(4).astype(np.float32)
    for other in (losses, torch.from_numpy(losses), [list(torch.from_numpy(row)) for row in losses]):
        np.testing.assert_array_equal(run(build(), losses.tolist()), run(build(), other))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [2, 9, 25])
def test_a_saved_state_continues_to_the_last_bit(mode, cut, tmp_path):
    losses = [list(values) for values in curves(4)]
    losses[8][1] = None
    straight, from_torch, from_json = (build(mode, ema=0.3) for _ in range(3))
    run(straight, losses[:cut])
    torch.save(straight.state_dict(), tmp_path / "state.pth")
    from_torch.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    from_json.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    assert from_torch.diagnostics() == straight.diagnostics()
    np.testing.assert_array_equal(from_torch.weights, straight.weights)
    expected = run(straight, losses[cut:])
    for resumed in (from_torch, from_json):
        np.testing.assert_array_equal(run(resumed, losses[cut:]), expected)


def test_saved_states_and_weights_given_out_are_copies():
    reweighter = build()
    run(reweighter, curves(4, 10))
    state = reweighter.state_dict()
    text = json.dumps(state)
    other = build()
    other.load_state_dict(state)
    run(reweighter, curves(4, 10))
    run(other, curves(4, 10))
    assert json.dumps(state) == text
    reweighter = build()
    reweighter.update([1, 1, 1, 1])[0] = 7
    reweighter.weights[1] = 7
    np.testing.assert_array_equal(reweighter.weights, 0.25)


def test_a_state_of_another_run_and_a_wrong_number_of_losses_are_refused():
    state = build("paper").state_dict()
    with pytest.raises(CheckpointError, match=r"mode is 'paper', but this run has 'coba'"):
        build("coba").load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"num_types is 4, but this run has 3"):
        build("paper", 3).load_state_dict(state)
    del state["history"]
    with pytest.raises(CheckpointError, match="missing history"):
        build("paper").load_state_dict(state)
    for losses, message in (([0.1, 0.2, 0.3], "found 3 losses; expected 4"), (0.1, "4 numbers"), ("abcd", "4 numbers")):
        with pytest.raises(DataError, match=message):
            build().update(losses if losses != "abcd" else ["a", 1, 2, 3])


def test_floor_is_kept_and_changes_nothing_above_it_and_ema_is_the_formula_applied_to_averaged_losses():
    losses = curves(4)
    free, floored = run(build(), losses), run(build(floor=0.2), losses)
    assert free.min() < 0.2 <= floored.min() + 1e-12
    np.testing.assert_allclose(floored.sum(1), 1.0, atol=1e-12)
    above = (free >= 0.2).all(1)
    assert above.any()
    np.testing.assert_array_equal(free[above], floored[above])
    np.testing.assert_allclose(run(build(floor=0.25), losses), 0.25)
    averaged = losses.copy()
    for t in range(1, len(losses)):
        averaged[t] = 0.8 * averaged[t - 1] + 0.2 * losses[t]
    np.testing.assert_allclose(run(build(ema=0.8), losses), run(build(), averaged), atol=1e-12)


def test_the_maths_imports_neither_torch_nor_basicsr():
    code = "import sys, unirain_plugin.losses.reweighting; sys.exit(bool({'torch', 'basicsr'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("mode", "same"), [("paper", False), ("coba", True), ("released", False)])
def test_only_coba_takes_a_loss_of_zero_for_an_absent_type(mode, same):
    losses = curves(4, 12).tolist()
    zero, absent = build(mode), build(mode)
    for t, values in enumerate(losses):
        zero.update([0.0 if t == 8 else values[0], *values[1:]])
        absent.update([None if t == 8 else values[0], *values[1:]])
    assert (zero.diagnostics()["slopes"] == absent.diagnostics()["slopes"]) is same


def test_equal_stays_equal_and_dwa_by_hand():
    reweighter = build_reweighter("equal", 3, warmup=0)
    for losses in ([1, 2, 3], [3, 1, 0.1], [9, 0.5, 4]):
        np.testing.assert_array_equal(reweighter.update(losses), np.full(3, 1 / 3))
    reweighter = build_reweighter("dwa", 2, warmup=0, temperature=2.0)
    np.testing.assert_allclose(reweighter.update([4.0, 1.0]), [0.5, 0.5])
    # ratios 3/4 and 1: softmax(.375, .5)
    np.testing.assert_allclose(reweighter.update([3.0, 1.0]), softmax(0.375, 0.5), atol=1e-15)
    # ratios 1 and .5
    np.testing.assert_allclose(reweighter.update([3.0, 0.5]), softmax(0.5, 0.25), atol=1e-15)


def test_uncertainty_by_hand_and_at_its_optimum():
    reweighter = build_reweighter("uncertainty", 2, warmup=0, lr=0.1)
    # s − lr·(1 − e^{−s} ℓ) from s = 0: −.1·(1 − .5), −.1·(1 − 2)
    weights = reweighter.update([0.5, 2.0])
    np.testing.assert_allclose(weights, softmax(0.05, -0.1), atol=1e-15)
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
    z = softmax(-step, step)
    expected = z / np.array([0.5, 4.0])
    np.testing.assert_allclose(reweighter.update([0.5, 4.0]), expected / expected.sum(), atol=1e-12)
    # No change: δ = 0, only the decay: ξ·(1 − .5·.1)
    z = softmax(-0.95 * step, 0.95 * step)
    expected = z / np.array([0.5, 4.0])
    np.testing.assert_allclose(reweighter.update([0.5, 4.0]), expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("mode", ["equal", "dwa", "uncertainty", "rlw", "famo"])
def test_baselines_measure_slopes_but_have_no_scores(mode):
    reweighter = build_reweighter(mode, 2, warmup=0)
    run(reweighter, [[1.0, 2.0], [0.5, 2.0]])
    found = reweighter.diagnostics()
    assert found["slopes"] == pytest.approx([-0.5, 0.0])
    assert found["tbs"] is found["tss"] is found["af"] is None


def test_an_absent_type_is_left_alone_by_baselines():
    uncertainty = build_reweighter("uncertainty", 2, warmup=0, lr=0.1)
    uncertainty.update([None, 2.0])
    np.testing.assert_allclose(uncertainty.log_variances, [0.0, 0.1], atol=1e-15)
    famo = build_reweighter("famo", 3, warmup=0)
    expected = 1 / np.array([2.0, 3.0, 4.0])  # the type not seen yet has the others' mean
    np.testing.assert_allclose(famo.update([2.0, None, 4.0]), expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "papr"}, r"mode: found the text 'papr'; expected one of paper, coba, .*Did you mean 'paper'\?"),
        ({"mode": None}, r"mode: found nothing \(null\)"),
        ({"windw": 5}, r"windw: unknown key.*Did you mean 'window'\?"),
        ({"num_types": 0}, r"num_types: found 0; expected an integer ≥ 1"),
        ({"num_types": True}, r"num_types: found true"),
        ({"window": 1}, r"window: found 1; expected an integer ≥ 2"),
        ({"window": 2.5}, r"window: found 2.5"),
        ({"tau": -1}, r"tau: found -1; expected a number ≥ 0"),
        ({"tau": "1e1"}, r"tau: found the text '1e1'.*Write 1.0e\+1"),
        ({"tau": math.nan}, r"tau: found nan"),
        ({"warmup": -1}, r"warmup: found -1; expected an integer ≥ 0"),
        ({"update_freq": 0}, r"update_freq: found 0; expected an integer ≥ 1"),
        ({"source": "vel"}, r"source: found the text 'vel'; expected one of train, val\. Did you mean 'val'\?"),
        ({"floor": 0.3}, r"floor: found 0.3; expected a number from 0 to 1/num_types = 0.25"),
        ({"floor": -0.1}, r"floor: found -0.1"),
        ({"ema": 1.0}, r"ema: found 1.0; expected a number ≥ 0 and < 1"),
        ({"temperature": 0}, r"temperature: found 0; expected a number > 0"),
        ({"seed": -1}, r"seed: found -1"),
        ({"lr": 0.0}, r"lr: found 0.0"),
        ({"gamma": -0.1}, r"gamma: found -0.1"),
    ],
)
def test_wrong_options_say_which_and_what_was_expected(options, message):
    with pytest.raises(OptionError, match=message):
        build_reweighter(**options)


def test_limits_are_accepted_and_tau_zero_keeps_the_balance():
    reweighter = build_reweighter(num_types=1, window=2, tau=0, warmup=0, floor=1.0, ema=0, update_freq=1, source="val")
    assert reweighter.update([0.5]).tolist() == [1.0]
    reweighter = build_reweighter(num_types=2, tau=0.0, warmup=0)
    for losses in ([1.0, 1.0], [0.5, 2.0], [0.4, 4.0]):
        weights = reweighter.update(losses)
    assert reweighter.diagnostics()["af"] == pytest.approx(1.0)
    assert weights.tolist() == pytest.approx(reweighter.diagnostics()["tbs"])


def test_defaults_are_those_of_the_manual():
    manual = (Path(unirain_plugin.__file__).parent / "docs/loss.md").read_text(encoding="utf-8")
    told = {}
    for keys, values in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", manual, re.M):
        told |= dict(zip(re.findall(r"\w+", keys), values.strip().replace("`", "").split(", "), strict=False))
    options = vars(ReweightingOptions(num_types=4))
    checked = {key: told[key] for key in options.keys() - {"num_types", "floor"}}
    assert checked == {key: f"{options[key]}".removesuffix(".0") for key in checked}
