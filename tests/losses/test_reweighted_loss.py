"""The registered loss: stock behaviour, grouping by type, updates, log, exact continuation, errors."""

import weakref

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss

import unirain_plugin.losses.reweighted_loss  # noqa: F401
from unirain_plugin.errors import CheckpointError, DataError, OptionError
from unirain_plugin.losses.reweighting import MODES, build_reweighter

TYPE = "MultiObjectiveReweightedLoss"
NAMES = ("drs", "drd", "nrs", "nrd")
LABELS = torch.tensor([0, 0, 1, 3, 3, 2])


def build(**options):
    return build_loss({"type": TYPE, "update_freq": 1, "warmup": 1, "window": 4, **options})


def batch(seed=0, n=6):
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(n, 3, 12, 14, generator=generator) for _ in range(2))
    return pred.requires_grad_(), target


def sample_losses(pred, target):
    return (pred - target).abs().flatten(1).mean(1)


def step(loss, i, labels=LABELS):
    """An iteration on a batch of its own; the losses of the batch's samples."""
    pred, target = batch(i, len(labels))
    loss(pred, target, labels)
    loss.step(i)
    return sample_losses(pred, target)


def train(loss, steps, start=0):
    """Steps with losses that fall at different speeds; returns totals and logs."""
    totals, logs = [], []
    for i in range(start, start + steps):
        pred, target = batch(i)
        speed = torch.tensor([0.1, 0.1, 0.02, 0.3, 0.3, 0.05]).view(-1, 1, 1, 1)
        total = loss(target + (pred - target) * torch.exp(-speed * i), target, LABELS)
        totals.append(total.item())
        loss.step(i + 1)
        logs.append(loss.log())
    return totals, logs


@pytest.mark.parametrize("name", ["L1Loss", "CharbonnierLoss", "MSELoss", "SSIMLoss", "FrequencyL1Loss"])
def test_without_labels_it_is_the_base_loss(name):
    pred, target = batch()
    loss = build(base={"type": name}, loss_weight=0.5)
    torch.testing.assert_close(loss(pred, target), 0.5 * build_loss({"type": name})(pred, target))
    weight = torch.rand(6, 1, 12, 14)
    expected = 0.5 * build_loss({"type": name})(pred, target, weight)
    torch.testing.assert_close(loss(pred, target, weight=weight), expected)
    assert not [key for key in loss.log() if key.startswith("l_")]  # nothing was recorded


def test_stock_sr_model_trains_with_it(tmp_path):
    from basicsr.models import build_model

    network = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
    train = {
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [10], "gamma": 0.5},
        "pixel_opt": {"type": TYPE, "reduction": "mean", "base": {"type": "CharbonnierLoss"}},
    }
    opt = {"model_type": "SRModel", "num_gpu": 0, "dist": False, "is_train": True, "scale": 1, "path": {}}
    model = build_model({**opt, "network_g": network, "train": train})
    pred, target = batch()
    model.feed_data({"lq": pred.detach(), "gt": target, "rain_type": LABELS})
    expected = build_loss({"type": "CharbonnierLoss"})(model.net_g(model.lq), target).item()
    model.optimize_parameters(1)
    assert model.get_current_log()["l_pix"] == pytest.approx(expected)


def test_weights_multiply_type_means_and_are_normalised_over_those_present():
    pred, target = batch()
    losses = sample_losses(pred, target)
    means = torch.stack([losses[:2].mean(), losses[2], losses[5], losses[3:5].mean()])
    torch.testing.assert_close(build()(pred, target, LABELS), means.mean())
    torch.testing.assert_close(build(loss_weight=0.5)(pred, target, LABELS), means.mean() / 2)
    loss, labels = build(), torch.tensor([3, 3, 1, 1, 1, 1])
    loss.weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    expected, found = (0.4 * losses[:2].mean() + 0.2 * losses[2:].mean()) / 0.6, loss(pred, target, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, pred)[0] for value in (found, expected)))
    loss.weights.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    alone = torch.full((6,), 2)
    torch.testing.assert_close(loss(pred, target, alone), losses.mean())
    released = build(mode="released")  # which does not divide by the weights
    torch.testing.assert_close(released(pred, target, alone), losses.mean() / 4)


def test_a_sum_of_several_base_losses_and_the_default_is_l1_bit_for_bit():
    pred, target = batch()
    terms = [{"type": "L1Loss"}, {"type": "FrequencyL1Loss", "loss_weight": 0.1}, {"type": "SSIMLoss"}]
    loss = build(base=terms)
    expected = sum(build_loss(opt)(pred, target) for opt in terms)
    torch.testing.assert_close(loss(pred, target), expected)
    torch.testing.assert_close(loss(pred, target, torch.zeros(6, dtype=torch.int64)), expected)
    torch.testing.assert_close(sum(term(pred, target) for term in loss.base).mean(), expected)
    assert torch.equal(build_loss({"type": TYPE})(pred, target), build_loss({"type": "L1Loss"})(pred, target))


def test_weights_follow_the_reweighter_and_the_log_has_every_key_after_warm_up():
    loss, reweighter = build(), build_reweighter(num_types=4, warmup=1, window=4)
    _, logs = train(loss, 12)
    for log in logs:
        weights = reweighter.update([log[f"l_{name}"] for name in NAMES])
    np.testing.assert_allclose([logs[-1][f"w_{n}"] for n in NAMES], weights, atol=1e-7)
    assert np.ptp(weights) > 0.01
    assert logs[-1]["af"] == pytest.approx(reweighter.diagnostics()["af"])
    during = {f"{prefix}_{name}" for prefix in ("l", "w") for name in NAMES}
    assert set(logs[0]) == during
    assert set(logs[2]) == during | {f"{p}_{n}" for p in ("slope", "tbs", "tss") for n in NAMES} | {"af"}
    assert all(isinstance(value, float) for value in logs[2].values())


def test_updates_are_means_over_the_interval_and_a_missed_iteration_loses_none():
    loss, seen = build(update_freq=3, warmup=0), []
    for i in range(1, 7):
        seen.append(step(loss, i)[2].item())
        assert loss.reweighter.updates == i // 3
    assert loss.reweighter.state_dict()["smoothed"][1] == pytest.approx(np.mean(seen[3:]), rel=1e-6)
    loss, found = build(update_freq=4), []
    for i in (1, 2, 3, 5, 6, 7, 8):  # the step of iteration 4 was skipped; afterwards at the multiples again
        step(loss, i)
        found.append(loss.reweighter.updates)
    assert found == [0, 0, 0, 1, 1, 1, 2]
    loss = build(warmup=0)
    train(loss, 4)
    before = loss.log()["slope_nrd"]
    step(loss, 5, torch.tensor([0, 1, 2]))  # a type is absent from the interval
    log = loss.log()
    assert "l_nrd" not in log and log["slope_nrd"] == before
    assert sum(log[f"w_{n}"] for n in NAMES) == pytest.approx(1)


def test_validation_as_source():
    loss, reweighter = build(source="val"), build_reweighter(num_types=4, warmup=1, window=4)
    train(loss, 5)
    assert loss.reweighter.updates == 0
    for t in range(6):
        values = {"drs": 0.9**t, "drd": 0.99**t, "nrs": 1.05**t}
        loss.update_from_validation(values)
        weights = reweighter.update([*values.values(), None])
    np.testing.assert_allclose(loss.reweighter.weights, weights)
    with pytest.raises(DataError, match=r"'dsr' is none of the loss's rain types.*Did you mean 'drs'\?"):
        loss.update_from_validation({"dsr": 0.1})
    loss = build()
    loss.update_from_validation({"drs": 0.1})
    assert loss.reweighter.updates == 0


def test_no_part_of_a_batch_is_kept_when_its_loss_is_gone():
    saved = []

    class Holder:
        def __init__(self, tensor):
            self.tensor = tensor
            saved.append(weakref.ref(self))

    loss, (pred, target) = build(), batch()
    with torch.autograd.graph.saved_tensors_hooks(Holder, lambda holder: holder.tensor):
        value = loss(pred, target, LABELS)
    assert any(holder() for holder in saved)
    del value
    assert not any(holder() for holder in saved), "a graph of every iteration would fill the memory"


def test_nonfinite_losses_are_not_recorded_nor_any_in_evaluation_or_without_gradients():
    loss, (pred, target) = build(warmup=0), batch()
    state = loss.get_extra_state()
    loss.eval()(pred, target, LABELS)
    with torch.no_grad():
        loss.train()(pred, target, LABELS)
        pred[0, 0, 0, 0] = float("nan")
        pred[2] = float("inf")
    assert loss.get_extra_state() == state
    assert not torch.isfinite(loss(pred, target, LABELS))
    loss.step(1)
    log = loss.log()
    assert log["l_drs"] == pytest.approx(sample_losses(pred, target)[1].item())
    assert "l_drd" not in log
    assert np.isfinite(list(log.values())).all()


def test_a_discarded_batch_leaves_no_trace():
    loss, untouched = build(warmup=0), build(warmup=0)
    for i, discarded in ((1, False), (2, True), (3, False)):
        loss(*batch(i), LABELS)
        if discarded:
            loss.discard()
        else:
            untouched(*batch(i), LABELS)
        loss.step(i)
        untouched.step(i)
        assert loss.log() == untouched.log()
    assert loss.get_extra_state() == untouched.get_extra_state()


def test_micro_batches_of_an_announced_batch_add_up():
    pred, target = batch()
    whole, parts = build(update_freq=9), build(update_freq=9)
    for loss in (whole, parts):
        loss.weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    expected = whole(pred, target, LABELS)
    gradient = torch.autograd.grad(expected, pred)[0]
    parts.begin_batch(LABELS)
    total = sum(parts(pred[i : i + 2], target[i : i + 2], LABELS[i : i + 2]) for i in (0, 2, 4))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(torch.autograd.grad(total, pred)[0], gradient)
    others = torch.tensor([1, 1, 1, 1, 0, 3])
    expected = whole(pred, target, others)
    torch.testing.assert_close(parts(pred, target, others), expected)  # the announcement has ended by itself
    for end in (lambda: parts.step(1), parts.discard):  # and by a step, and with a batch that is skipped
        parts.begin_batch(LABELS)
        parts(pred[:2], target[:2], LABELS[:2])
        end()
        torch.testing.assert_close(parts(pred, target, others), expected)
    loss = build()
    loss.begin_batch(LABELS)
    for i in range(6):
        loss(pred[i : i + 1], target[i : i + 1], LABELS[i : i + 1])
    loss.step(1)
    assert loss.log()["l_nrd"] == pytest.approx(sample_losses(pred, target)[3:5].mean().item())


def test_a_step_begun_is_logged_and_saved():
    pred, target = batch(5)
    loss, resumed = build(warmup=0), build(warmup=0)
    train(loss, 1)
    loss(pred, target, LABELS)
    expected = pytest.approx(sample_losses(pred, target)[3:5].mean().item())
    assert loss.log()["l_nrd"] == expected
    resumed.load_state_dict(loss.state_dict())
    assert resumed.log() == loss.log()
    for one in (loss, resumed):
        one.discard()
    assert resumed.log() == loss.log() and loss.log()["l_nrd"] != expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [3, 8])
def test_continues_to_the_last_bit(mode, cut, tmp_path):
    straight = build(mode=mode, update_freq=3)
    optimiser = torch.optim.SGD(straight.parameters(), lr=0.1) if mode == "uncertainty" else None
    if optimiser:
        straight(*batch(), LABELS).backward()
        optimiser.step()
    train(straight, cut)
    torch.save(straight.state_dict(), tmp_path / "loss.pth")
    resumed = build(mode=mode, update_freq=3)
    resumed.load_state_dict(torch.load(tmp_path / "loss.pth", weights_only=True))
    assert resumed.log() == straight.log()
    assert train(resumed, 10, cut) == train(straight, 10, cut)


def test_a_state_of_other_types_or_another_mode_is_refused():
    state = build().state_dict()
    with pytest.raises(CheckpointError, match=r"saved for the rain types .* but this run has \['drs', 'snow'\]"):
        build(rain_types=["drs", "snow"]).load_state_dict(state)
    with pytest.raises(CheckpointError, match="saved for the rain types"):  # the same ones in another order
        build(rain_types=["nrd", "drs", "drd", "nrs"]).load_state_dict(state)
    with pytest.raises(CheckpointError, match="mode is 'paper', but this run has 'dwa'"):
        build(mode="dwa").load_state_dict(state)


def test_rain_types_of_ones_own_and_their_number():
    loss = build(rain_types=["nrd", "snow", "drs"])
    losses = step(loss, 1, [3, 3, 4, 4, 0, 0])  # labels as everywhere: nrd = 3, the first other name = 4, drs = 0
    assert loss.log()["l_snow"] == pytest.approx(losses[2:4].mean().item())
    assert loss.log()["l_drs"] == pytest.approx(losses[4:].mean().item())
    for k in (1, 2, 7):
        loss, (pred, target) = build(num_types=k), batch(n=k)
        torch.testing.assert_close(loss(pred, target, torch.arange(k)), sample_losses(pred, target).mean())
        loss.step(1)
        assert len([key for key in loss.log() if key.startswith("l_")]) == k


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions(dtype):
    pred, target = batch()
    low = pred.detach().to(dtype).requires_grad_()
    loss = build(base=[{"type": "L1Loss"}, {"type": "SSIMLoss"}, {"type": "FrequencyL1Loss"}])
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(low, target, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(low.float(), target, LABELS))
    found.backward()
    assert low.grad.dtype == dtype and torch.isfinite(low.grad).all()


def test_gradcheck():
    pred, target = (torch.rand(3, 1, 3, 4, dtype=torch.float64) for _ in range(2))
    loss = build(base={"type": "CharbonnierLoss", "eps": 1e-3})
    assert torch.autograd.gradcheck(lambda x: loss(x, target, [0, 1, 1]), pred.requires_grad_())


def test_learned_log_variances():
    """d/ds_i of Σ (exp(−s_i) ℓ_i + s_i) at s = 0 is 1 − ℓ_i, and 0 for an absent type; weights ∝ exp(−s_i)."""
    pred, target = batch()
    loss = build(mode="uncertainty")
    labels = torch.tensor([0, 0, 1, 3, 3, 3])
    losses = sample_losses(pred, target).detach()
    total = loss(pred, target, labels)
    total.backward()
    torch.testing.assert_close(total, (losses[:2].mean() + losses[2] + losses[3:].mean()) / 3)
    sign = (pred - target).detach().sign() / target[0].numel() / 3
    shares = torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3])
    torch.testing.assert_close(pred.grad, sign * shares.view(-1, 1, 1, 1))  # the network learns from the weights alone
    expected = torch.stack([1 - losses[:2].mean(), 1 - losses[2], torch.tensor(0.0), 1 - losses[3:].mean()])
    torch.testing.assert_close(loss.log_variances.grad, expected)
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.0, 1.0, 0.0, -1.0]))
    loss.step(1)
    weights = torch.softmax(torch.tensor([0.0, -1.0, 0.0, 1.0]), 0)
    np.testing.assert_allclose(loss.reweighter.weights, weights, atol=1e-7)
    assert loss.log()["w_nrd"] == pytest.approx(weights[3].item())
    loss = build(mode="uncertainty", floor=0.2)  # which learned weights keep
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
    weights = torch.softmax(torch.tensor([0.0, 0.0, 0.0, -9.0]), 0) * (1 - 4 * 0.2) + 0.2
    means = torch.stack([losses[:2].mean(), losses[2], losses[5], losses[3:5].mean()])
    torch.testing.assert_close(loss(pred, target, LABELS), (weights * means).sum())
    assert loss.log()["w_nrd"] == pytest.approx(weights[3].item())
    assert [mode for mode in MODES if list(build(mode=mode).parameters())] == ["uncertainty"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 0]), r"label 4 is none of the loss's rain types \(drs = 0, .*must agree"),
        (torch.tensor([0, 1, -1, 3, 0, 0]), r"label -1 is none"),
        (torch.tensor([0, 1]), r"found shape \(2,\) of torch.int64; expected \(6,\) integers"),
        (torch.zeros(6), r"of torch.float32; expected \(6,\) integers"),
        (torch.zeros(6, 1, dtype=torch.int64), r"found shape \(6, 1\)"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(DataError, match=message):
        build()(*batch(), labels)
    with pytest.raises(DataError, match=r"prediction is \(2, 3, 4, 4\), the target \(2, 1, 4, 4\)"):
        build()(torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windw": 3}, r"windw: unknown key; .*Did you mean 'window'\?"),
        ({"rain_typs": ["drs"]}, r"rain_typs: unknown key; .*Did you mean 'rain_types'\?"),
        ({"mode": "papre"}, r"mode: found the text 'papre'.*Did you mean 'paper'\?"),
        ({"rain_types": "drs"}, r"rain_types: found the text 'drs'; expected a list"),
        ({"rain_types": ["drs", "drs"]}, r"rain_types: 'drs' is listed twice"),
        ({"rain_types": []}, r"rain_types: the list is empty"),
        ({"rain_types": ["drs"], "num_types": 2}, r"num_types: found 2, but rain_types lists 1"),
        ({"num_types": 0}, r"num_types: found 0; expected an integer, 1 or more"),
        ({"reduction": "sum"}, r"reduction: found 'sum'; expected mean"),
        ({"loss_weight": "1e-2"}, r"loss_weight: found the text '1e-2'; expected a number. Write 1.0e-2"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        build(**options)


def test_missing_labels_are_told_once_and_in_training_only(warnings_of):
    loss, images = build(mode="dwa"), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        loss(images, images)
    loss.eval()(images, images)
    loss.train()(images, images, rain_type=torch.tensor([0, 1]))
    assert warnings_of == []
    for _ in range(3):
        loss(images, images)
    (message,) = warnings_of
    assert "no rain types" in message and "`mode: dwa` has no effect" in message
