"""Training iterations: the toolbox's result, micro-batches, precision, clipping, and what is not finite."""

import copy

import pytest
import torch
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import LOSS_REGISTRY
from model_helpers import StubNet, batch_of, build, options
from torch import nn

from unirain_plugin.errors import OptionError, TrainingError
from unirain_plugin.models.settings import Stage
from unirain_plugin.models.training_step import Batch

REWEIGHTED = {"type": "MultiObjectiveReweightedLoss", "num_types": 4, "update_freq": 2, "warmup": 1, "window": 4}
UNEVEN = [0, 4, 8, 1, 2, 6]  # labels 0 0 0 1 2 2


@LOSS_REGISTRY.register()
class StubPerceptualLoss(nn.Module):
    """A perceptual loss's interface: (perceptual, style or None)."""

    def forward(self, output, target):
        return ((output - target) ** 2).mean(), None


@LOSS_REGISTRY.register()
class StubJudgingLoss(nn.Module):
    """A distance in the features of a network of its own, which could be trained to see no difference."""

    def __init__(self, loss_weight=1.0):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.reduction = "mean"

    def forward(self, output, target, weight=None, **_):
        return (self.features(output) - self.features(target)).square().mean()


def train(model, batches, start=1):
    logs = []
    for iteration, data in enumerate(batches, start=start):
        model.update_learning_rate(iteration)
        model.feed_data(data)
        model.optimize_parameters(iteration)
        logs.append(model.get_current_log())
    return logs


def weights(model):
    return [parameter.detach().clone() for parameter in model.get_bare_model(model.net_g).parameters()]


def gradients(model, data):
    """Gradients of one iteration, before the step is taken."""
    found = []
    step = model.optimizer_g.step
    model.optimizer_g.step = lambda *_, **__: found.extend(
        p.grad.clone() for group in model.optimizer_g.param_groups for p in group["params"]
    )
    model.feed_data(data)
    model.optimize_parameters(1)
    model.optimizer_g.step = step
    return found


def planted(value=float("nan"), key="lq"):
    data = batch_of([0, 1, 2, 3])
    data[key][2, 1, 5, 5] = value
    return data


@pytest.mark.parametrize("pixel", [{"type": "StubJudgingLoss"}, {**REWEIGHTED, "base": {"type": "StubJudgingLoss"}}])
def test_a_network_inside_the_loss_is_neither_trained_nor_saved(tmp_path, pixel):
    model = build(options(tmp_path, pixel_opt=pixel))
    before = {name: value.clone() for name, value in model.cri_pix.named_parameters()}
    train(model, [batch_of([0, 1, 2, 3])] * 3)
    assert before and all(torch.equal(value, before[name]) for name, value in model.cri_pix.named_parameters())
    assert len(model.optimizer_g.param_groups) == 1
    state = model.history_state()
    assert not [name for name in state["loss"] if "features" in name]
    model.load_history_state(state)


def test_a_stock_run_gives_the_toolboxs_weights_bit_for_bit(tmp_path):
    opt = options(tmp_path, optim_g={"type": "Adam", "lr": 1e-3}, ema_decay=0.9)
    opt["network_g"] = {"type": "PlainNet"}
    batches = [batch_of([i, i + 1, i + 2], labelled=False) for i in range(4)]
    ours = build(opt)
    torch.manual_seed(0)
    stock = SRModel(copy.deepcopy(opt))
    for iteration, data in enumerate(batches, start=1):
        for model in (ours, stock):
            model.update_learning_rate(iteration, 3)
            model.feed_data(data)
            model.optimize_parameters(iteration)
        assert ours.get_current_log()["l_pix"] == stock.get_current_log()["l_pix"]
    for network in ("net_g", "net_g_ema"):
        a, b = getattr(ours, network).state_dict(), getattr(stock, network).state_dict()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0 if network == "net_g" else 1e-7)


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "pixel",
    [
        {"type": "L1Loss"},
        {"type": "MSELoss", "reduction": "sum"},
        {**REWEIGHTED, "base": {"type": "CharbonnierLoss"}},
        {**REWEIGHTED, "mode": "uncertainty"},
    ],
    ids=["mean", "sum", "reweighted", "uncertainty"],
)
def test_micro_batches_give_the_gradients_of_the_batch(tmp_path, pixel, parts):
    found = []
    for accumulate in (1, parts):
        opt = options(tmp_path, pixel_opt=pixel, accumulate=accumulate, aux_weights={"load_balance": 0.1})
        opt["train"]["perceptual_opt"] = {"type": "StubPerceptualLoss"}
        opt["datasets"]["train"]["batch_size_per_gpu"] = 6
        model = build(opt)
        found.append((gradients(model, batch_of(UNEVEN)), model.get_current_log(), model.output))
    (whole, log, output), (split, split_log, split_output) = found
    torch.testing.assert_close(split_output, output)
    assert len(whole) == len(split) > 4
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert split_log == pytest.approx(log, rel=1e-5, abs=1e-7)


def test_labels_reach_the_loss_and_weights_change(tmp_path):
    model = build(options(tmp_path, pixel_opt=REWEIGHTED))
    logs = train(model, [batch_of([0, 1, 2, 3])] * 8)
    assert {f"{kind}_{name}" for kind in ("l", "w") for name in ("drs", "drd", "nrs", "nrd")} <= set(logs[0])
    assert logs[0]["w_drs"] == pytest.approx(0.25)
    assert {"slope_nrd", "tbs_nrd", "tss_nrd", "af"} <= set(logs[-1])
    assert logs[-1]["w_drs"] != pytest.approx(logs[-1]["w_nrd"], abs=1e-4)
    own = build_loss(REWEIGHTED)
    model.feed_data(batch_of([0, 1, 2, 3]))
    model.test()
    expected = own(model.output, model.gt, rain_type=model.rain_type)
    assert own.log()["l_nrd"] == pytest.approx((model.output - model.gt).abs().mean((1, 2, 3))[3].item(), rel=1e-5)
    assert torch.isfinite(expected)


def test_without_labels_the_reweighted_loss_is_its_base_and_a_perceptual_one_may_stand_alone(tmp_path):
    data = batch_of([0, 1, 2, 3], labelled=False)
    plain = train(build(options(tmp_path)), [data])[0]["l_pix"]
    assert train(build(options(tmp_path, pixel_opt=REWEIGHTED)), [data])[0]["l_pix"] == pytest.approx(plain, rel=1e-6)
    model = build(options(tmp_path, pixel_opt=None, perceptual_opt={"type": "StubPerceptualLoss"}))
    logs = train(model, [batch_of([0, 1])] * 3)
    assert logs[-1]["l_percep"] < logs[0]["l_percep"]
    assert "l_pix" not in logs[0]
    model.load_history_state(model.history_state())


def test_perceptual_and_auxiliary_losses_are_part_of_the_objective(tmp_path):
    opt = options(tmp_path, perceptual_opt={"type": "StubPerceptualLoss"}, aux_weights={"load_balance": 0.5})
    model = build(opt)
    with torch.no_grad():
        model.net_g.gate.fill_(2.0)
    log = train(model, [batch_of([0, 1])])[0]
    # two squares of 2, and 2·s + 2·(1 − s)
    assert log["l_aux_load_balance"] == pytest.approx(0.5 * (8 + 2), rel=1e-5)
    assert log["l_percep"] > 0
    assert "l_style" not in log
    assert (model.net_g.gate < 2.0).all()


def test_unknown_auxiliary_losses_are_named(tmp_path, warnings_of):
    model = build(options(tmp_path, aux_weights={"diversity": 0.1}))
    with pytest.raises(OptionError, match=r"no auxiliary loss 'diversity' \(it has: load_balance\)"):
        train(model, [batch_of([0, 1])])
    model = build(options(tmp_path))
    with torch.no_grad():
        model.net_g.gate.fill_(2.0)
    model.net_g.auxiliary_losses = lambda: {"diversity": model.net_g.gate.sum()}
    assert train(model, [batch_of([0, 1])])[0]["l_aux_diversity"] == 0
    assert model.net_g.gate.tolist() == [2.0, 2.0]
    assert any("names no weight for 'diversity'" in text for text in warnings_of)


@pytest.mark.parametrize("pixel", [{"type": "L1Loss"}, {**REWEIGHTED, "mode": "uncertainty"}], ids=["plain", "learned"])
def test_clipping_bounds_the_norm_and_logs_the_one_before(tmp_path, pixel):
    whole = gradients(build(options(tmp_path, pixel_opt=pixel)), batch_of([0, 1, 2, 3]))
    model = build(options(tmp_path, pixel_opt=pixel, grad_clip=0.01))
    clipped = gradients(model, batch_of([0, 1, 2, 3]))
    norm = torch.cat([g.flatten() for g in whole]).norm().item()
    assert model.log_dict["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for a, b in zip(whole, clipped, strict=True):
        torch.testing.assert_close(a * (0.01 / norm), b, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_trains_nearly_the_same(tmp_path, amp):
    batches = [batch_of([0, 1, 2, 3])] * 4
    full, low = (train(build(options(tmp_path, amp=a)), batches)[-1]["l_pix"] for a in ("off", amp))
    assert low == pytest.approx(full, rel=2e-2)
    assert low != full


def test_only_the_network_runs_in_low_precision(tmp_path):
    seen = []
    model = build(options(tmp_path, amp="bf16"))
    model.net_g.register_forward_hook(lambda m, i, o: o.bfloat16())
    model.net_g.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    model.net_g.conv.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    model.cri_pix.register_forward_pre_hook(lambda m, i: seen.append(i[0].dtype))
    train(model, [batch_of([0, 1])])
    assert seen[0] == torch.bfloat16
    assert seen[-1] == torch.float32


def test_an_fp16_overflow_lowers_the_scale_and_counts_as_nothing_else(tmp_path):
    model = build(options(tmp_path, amp="fp16", max_nonfinite=1))
    model.training_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = weights(model)
    train(model, [batch_of([0, 1])])
    assert model.training_step.scaler.get_scale() == 2.0**119
    assert model.training_step.guard.total == 0
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("pixel", [{"type": "L1Loss"}, REWEIGHTED], ids=["L1Loss", "reweighted"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_nan_in_a_batch_skips_the_step_and_names_the_files(tmp_path, warnings_of, pixel, amp):
    model = build(options(tmp_path, pixel_opt=pixel, amp=amp))
    train(model, [batch_of([0, 1, 2, 3])])
    before, state = weights(model), copy.deepcopy(model.optimizer_g.state_dict())
    log = train(model, [planted()], start=2)[0]
    assert all(map(torch.equal, before, weights(model)))
    for key, value in state["state"][0].items():
        assert torch.equal(value, model.optimizer_g.state_dict()["state"][0][key])
    assert log["skipped"] == 1
    (message,) = warnings_of
    assert (
        "Iteration 2: the loss (l_pix, l_aux_load_balance) is not finite; the step is skipped (1 in a row, 1 in all)"
        in message
    )
    assert "in/000.png, in/001.png, in/002.png (lq is not finite), in/003.png" in message
    log = train(model, [batch_of([0, 1, 2, 3])], start=3)[0]  # and training goes on
    assert all(torch.isfinite(torch.tensor(value)) for value in log.values())
    assert not torch.equal(before[0], weights(model)[0])
    assert model.training_step.guard.in_row == 0


@pytest.mark.parametrize("place", [0, 3])
def test_a_nan_in_any_micro_batch_is_one_of_the_loss(tmp_path, warnings_of, place):
    model = build(options(tmp_path, accumulate=2))
    data = batch_of([0, 1, 2, 3])
    data["gt"][place, 1, 5, 5] = float("nan")
    before = weights(model)
    train(model, [data])
    assert all(map(torch.equal, before, weights(model)))
    assert "Iteration 1: the loss (l_pix) is not finite" in warnings_of[0]
    assert f"in/{place:03d}.png (gt is not finite)" in warnings_of[0]


def test_a_skipped_batch_leaves_running_statistics_alone(tmp_path):
    model = build(options(tmp_path))
    model.net_g.norm = nn.BatchNorm2d(3)
    model.net_g.out = nn.Sequential(model.net_g.out, model.net_g.norm)
    train(model, [batch_of([0, 1])])
    before = copy.deepcopy(model.net_g.norm.state_dict())
    train(model, [planted()], start=2)
    torch.testing.assert_close(model.net_g.norm.state_dict(), before, rtol=0, atol=0)
    assert before["num_batches_tracked"] == 1


def test_a_nan_keeps_the_reweighting_finite_and_its_losses_are_forgotten(tmp_path):
    good = [batch_of([0, 1, 2, 3])] * 3
    model = build(options(tmp_path, pixel_opt=REWEIGHTED))
    found = train(model, [*good, planted(), *good])[-1]
    assert model.cri_pix.reweighter.updates == 3  # after iterations 2, 4 (the skipped one) and 6
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
    assert sum(found[f"w_{name}"] for name in ("drs", "drd", "nrs", "nrd")) == pytest.approx(1)
    skipped, shorter = (build(options(tmp_path, pixel_opt={**REWEIGHTED, "update_freq": 3})) for _ in range(2))
    train(skipped, [batch_of([0, 1, 2, 3]), planted()])
    train(shorter, [batch_of([0, 1, 2, 3])])
    assert skipped.cri_pix.get_extra_state() == shorter.cri_pix.get_extra_state()
    train(skipped, [batch_of([0, 1, 2, 3])], start=3)
    assert skipped.cri_pix.reweighter.updates == 1  # update_freq iterations are over


@pytest.mark.parametrize(("images", "parts", "sizes"), [(3, 2, [2, 1]), (3, 4, [1, 1, 1]), (1, 2, [1]), (4, 1, [4])])
def test_a_batch_is_cut_into_as_many_parts_as_it_has_images_at_most(images, parts, sizes):
    lq, labels = torch.rand(images, 3, 2, 2), torch.arange(images)
    cut = Batch(lq, lq + 1, labels).split(parts)
    assert [len(part) for part, *_ in cut] == sizes
    for place, whole in enumerate((lq, lq + 1, labels)):
        assert torch.equal(torch.cat([part[place] for part in cut]), whole)
    assert [part[2] for part in Batch(lq, lq, None).split(parts)] == [None] * len(sizes)


def test_a_non_finite_gradient_is_caught_where_the_loss_is_finite(tmp_path, warnings_of):
    model = build(options(tmp_path))
    model.net_g.out.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    train(model, [batch_of([0, 1])])
    assert all(map(torch.equal, before, weights(model)))
    assert "Iteration 1: the gradient is not finite" in warnings_of[0]


def test_training_stops_after_too_many_in_a_row(tmp_path):
    model = build(options(tmp_path, max_nonfinite=2))
    good, bad = batch_of([0, 1, 2, 3]), planted(float("inf"), "gt")
    train(model, [bad, good, bad])
    with pytest.raises(TrainingError) as caught:
        train(model, [bad], start=4)
    text = str(caught.value)
    assert "stopped at iteration 4" in text
    assert "2 times in a row (train: max_nonfinite: 2)" in text
    assert "in/002.png (gt is not finite)" in text


def test_a_loss_of_ones_own_that_fails_is_told_with_the_batch_and_its_line(tmp_path, monkeypatch):
    def forward(self, output, target, weight=None, **_):
        raise KeyError("mask")

    model = build(options(tmp_path, pixel_opt={"type": "StubJudgingLoss"}))
    monkeypatch.setattr(StubJudgingLoss, "forward", forward)
    told = r"own failed on the batch in/000\.png, in/001\.png: KeyError: 'mask' \(.*step\.py:\d+, in .*forward"
    with pytest.raises(TrainingError, match=told):
        train(model, [batch_of([0, 1])])


def test_compiled_network_trains_as_the_plain_one(tmp_path):
    batches = [batch_of([0, 1, 2, 3])] * 2
    plain, compiled = build(options(tmp_path)), build(options(tmp_path, compile=True, ema_decay=0.5))
    calls = []
    compiled.net_g.compile(backend=lambda graph, _: calls.append(1) or graph.forward)  # no C++ compiler needed
    assert train(plain, batches)[-1]["l_pix"] == pytest.approx(train(compiled, batches)[-1]["l_pix"], rel=1e-5)
    assert calls
    assert set(compiled.net_g.state_dict()) == set(StubNet().state_dict())


def test_compiled_unirain_has_the_auxiliary_losses_and_routing_of_the_plain_one(tmp_path):
    network = {"type": "UniRain", "dim": 8, "num_blocks": [1, 1], "decoder_blocks": [1], "refinement_blocks": 0}
    found = []
    for compiled in (False, True):
        opt = options(tmp_path, pixel_opt=REWEIGHTED, compile=compiled)
        opt["network_g"] = {**network, "heads": [1, 2]}
        model = build(opt)
        if compiled:
            model.net_g.compile(backend="eager")
        logs = train(model, [batch_of([0, 1], size=32)] * 2)
        assert {"l_aux_load_balance", "l_aux_z_loss"} <= set(logs[0])
        found.append((logs, {k: v.flatten().tolist() for k, v in model.net_g.routing_statistics().items()}))
    assert found[0][1].keys() == found[1][1].keys()
    for plain, log in zip(*(logs for logs, _ in found), strict=True):
        assert log == pytest.approx(plain, rel=1e-4, abs=1e-6)


def test_channels_last_is_kept(tmp_path, monkeypatch):
    init = StubNet.__init__

    def with_stacked_experts(self, *args):
        init(self, *args)
        self.experts = nn.Parameter(torch.zeros(2, 3, 1, 3, 3))

    monkeypatch.setattr(StubNet, "__init__", with_stacked_experts)
    model = build(options(tmp_path, channels_last=True, ema_decay=0.5))
    model.feed_data(batch_of([0, 1]))
    for tensor in (model.lq, model.gt, model.net_g.conv.weight, model.net_g_ema.conv.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_history_goes_through_a_checkpoint(tmp_path):
    opt = options(tmp_path, pixel_opt=REWEIGHTED, amp="fp16")
    opt["val"]["best"] = "psnr"
    model, other = build(opt), build(opt)
    train(model, [batch_of([0, 1, 2, 3])] * 3 + [planted()])
    model.best_figure.improved("val", {"psnr": 30.0}, 4)
    model.training_step.scaler.update(8.0)
    model.best_metric_results = {"val": {"psnr": {"better": "higher", "val": 30.0, "iter": 4}}}
    other.load_history_state(copy.deepcopy(model.history_state()))
    assert other.cri_pix.log() == model.cri_pix.log()
    assert other.training_step.guard.state_dict() == {"total": 1, "in_row": 1}
    assert other.best_metric_results == model.best_metric_results
    assert other.training_step.scaler.get_scale() == 8.0
    assert (other.best_figure.value, other.best_figure.iteration) == (30.0, 4)
    assert other.training_step.scaler.state_dict() == model.training_step.scaler.state_dict()


def test_progressive_stages_train_on_the_middle_of_the_first_samples(tmp_path):
    stages = [{"iters": 2, "gt_size": 4, "batch_size": 1}, {"iters": 1, "gt_size": 6, "batch_size": 3}]
    model = build(options(tmp_path, progressive=stages))
    data = batch_of(range(4))
    shapes = []
    model.net_g.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    train(model, [data] * 4)
    height, width = data["lq"].shape[2:]
    assert shapes == [(1, 3, 4, 4), (1, 3, 4, 4), (3, 3, 6, 6), (4, 3, height, width)]
    wide = [torch.cat([data[side], data[side]], 3) for side in ("lq", "gt")]  # as of a data set with other crops
    batch = Batch(*wide, data["rain_type"], data["lq_path"]).cut(Stage(1, 4, 3))
    top, left = (height - 4) // 2, (2 * width - 4) // 2
    for found, side in zip((batch.lq, batch.gt), wide, strict=True):
        torch.testing.assert_close(found, side[:3, :, top : top + 4, left : left + 4])
    torch.testing.assert_close(batch.rain_type, data["rain_type"][:3])
    assert list(batch.paths) == list(data["lq_path"][:3])
