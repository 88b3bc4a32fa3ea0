"""Training iterations: the toolbox's result, micro-batches, precision, clipping, and what is not finite."""

import copy

import pytest
import torch
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import LOSS_REGISTRY
from model_helpers import REWEIGHTED as EVERY_ITERATION
from model_helpers import TYPES, StubNet, batch_of, build, model_of, options, planted, train
from torch import nn

from unirain_plugin.errors import OptionError, TrainingError
from unirain_plugin.models.settings import Stage
from unirain_plugin.models.training_step import Batch

REWEIGHTED = {**EVERY_ITERATION, "update_freq": 2, "warmup": 1, "window": 4}
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


def weights(model):
    return [parameter.detach().clone() for parameter in model.get_bare_model(model.net_g).parameters()]


def gradients(model, data):
    """Gradients of one iteration, before the step is taken."""
    found, groups = [], model.optimizer_g.param_groups
    model.optimizer_g.step = lambda *_, **__: found.extend(p.grad.clone() for group in groups for p in group["params"])
    train(model, [data])
    return found


@pytest.mark.parametrize("pixel", [{"type": "StubJudgingLoss"}, {**REWEIGHTED, "base": {"type": "StubJudgingLoss"}}])
def test_a_network_inside_the_loss_is_neither_trained_nor_saved(tmp_path, pixel):
    model = model_of(tmp_path, pixel_opt=pixel)
    before = {name: value.clone() for name, value in model.cri_pix.named_parameters()}
    train(model, [batch_of([0, 1, 2, 3])] * 3)
    assert before and all(torch.equal(value, before[name]) for name, value in model.cri_pix.named_parameters())
    assert len(model.optimizer_g.param_groups) == 1
    state = model.history_state()
    assert not [name for name in state["loss"] if "features" in name]
    model.load_history_state(state)


def test_a_network_with_several_outputs_is_told_in_training_and_validation(tmp_path):
    model = model_of(tmp_path)
    model.net_g.register_forward_hook(lambda _, inputs, output: (output, output))
    for use in (lambda: train(model, [batch_of([0, 1, 2, 3])]), model.test):
        with pytest.raises(OptionError, match="the network returns a tuple; expected one tensor"):
            use()


def test_a_stock_run_gives_the_toolboxs_weights_bit_for_bit(tmp_path):
    opt = options(tmp_path, "PlainNet", optim_g={"type": "Adam", "lr": 1e-3}, ema_decay=0.9, warmup_iter=3)
    batches = [batch_of([i, i + 1, i + 2], labelled=False) for i in range(4)]
    ours = build(opt)
    torch.manual_seed(0)
    stock = SRModel(copy.deepcopy(opt))
    logs = [[log["l_pix"] for log in train(model, batches)] for model in (ours, stock)]
    assert logs[0] == logs[1]
    for network in ("net_g", "net_g_ema"):
        a, b = getattr(ours, network).state_dict(), getattr(stock, network).state_dict()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0 if network == "net_g" else 1e-7)


PIXEL = {
    "mean": {"type": "L1Loss"},
    "sum": {"type": "MSELoss", "reduction": "sum"},
    "reweighted": {**REWEIGHTED, "base": {"type": "CharbonnierLoss"}},
    "uncertainty": {**REWEIGHTED, "mode": "uncertainty"},
}


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
@pytest.mark.parametrize("pixel", PIXEL.values(), ids=PIXEL)
def test_micro_batches_give_the_gradients_of_the_batch(tmp_path, pixel, parts):
    found = []
    for accumulate in (1, parts):
        more = {"accumulate": accumulate, "aux_weights": {"load_balance": 0.1}}
        opt = options(tmp_path, pixel_opt=pixel, perceptual_opt={"type": "StubPerceptualLoss"}, **more)
        opt["datasets"]["train"]["batch_size_per_gpu"] = 6
        model = build(opt)
        found.append((gradients(model, batch_of(UNEVEN)), model.get_current_log(), model.output))
    (whole, log, output), (split, split_log, split_output) = found
    torch.testing.assert_close(split_output, output)
    assert len(whole) > 4
    torch.testing.assert_close(whole, split, rtol=1e-4, atol=1e-6)
    assert split_log == pytest.approx(log, rel=1e-5, abs=1e-7)


def test_labels_reach_the_loss_and_weights_change(tmp_path):
    model = model_of(tmp_path, pixel_opt=REWEIGHTED)
    logs = train(model, [batch_of([0, 1, 2, 3])] * 8)
    assert {f"{kind}_{name}" for kind in ("l", "w") for name in TYPES} <= set(logs[0])
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
    plain = train(model_of(tmp_path), [data])[0]["l_pix"]
    assert train(model_of(tmp_path, pixel_opt=REWEIGHTED), [data])[0]["l_pix"] == pytest.approx(plain, rel=1e-6)
    model = model_of(tmp_path, pixel_opt=None, perceptual_opt={"type": "StubPerceptualLoss"})
    logs = train(model, [batch_of([0, 1])] * 3)
    assert logs[-1]["l_percep"] < logs[0]["l_percep"]
    assert "l_pix" not in logs[0]
    model.load_history_state(model.history_state())


def gates_at_two(model):
    with torch.no_grad():
        model.net_g.gate.fill_(2.0)
    return model


def test_perceptual_and_auxiliary_losses_are_part_of_the_objective(tmp_path):
    more = {"perceptual_opt": {"type": "StubPerceptualLoss"}, "aux_weights": {"load_balance": 0.5}}
    model = gates_at_two(model_of(tmp_path, **more))
    log = train(model, [batch_of([0, 1])])[0]
    # two squares of 2, and 2·s + 2·(1 − s)
    assert log["l_aux_load_balance"] == pytest.approx(0.5 * (8 + 2), rel=1e-5)
    assert log["l_percep"] > 0 and "l_style" not in log
    assert (model.net_g.gate < 2.0).all()


def test_unknown_auxiliary_losses_are_named(tmp_path, warnings_of):
    with pytest.raises(OptionError, match=r"no auxiliary loss 'diversity' \(it has: load_balance\)"):
        train(model_of(tmp_path, aux_weights={"diversity": 0.1}), [batch_of([0, 1])])
    model = gates_at_two(model_of(tmp_path))
    model.net_g.auxiliary_losses = lambda: {"diversity": model.net_g.gate.sum()}
    assert train(model, [batch_of([0, 1])])[0]["l_aux_diversity"] == 0
    assert model.net_g.gate.tolist() == [2.0, 2.0]
    assert any("names no weight for 'diversity'" in text for text in warnings_of)


@pytest.mark.parametrize("pixel", [PIXEL["mean"], PIXEL["uncertainty"]], ids=["plain", "learned"])
def test_clipping_bounds_the_norm_and_logs_the_one_before(tmp_path, pixel):
    whole = gradients(model_of(tmp_path, pixel_opt=pixel), batch_of([0, 1, 2, 3]))
    model = model_of(tmp_path, pixel_opt=pixel, grad_clip=0.01)
    clipped = gradients(model, batch_of([0, 1, 2, 3]))
    norm = torch.cat([g.flatten() for g in whole]).norm().item()
    assert model.log_dict["grad_norm"] == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close([g * (0.01 / norm) for g in whole], clipped, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_low_precision_trains_nearly_the_same_and_is_the_networks_alone(tmp_path, amp, dtype):
    batches, seen = [batch_of([0, 1, 2, 3])] * 4, []
    full, low = model_of(tmp_path), model_of(tmp_path, amp=amp)
    low.net_g.register_forward_hook(lambda m, i, o: o.to(dtype))
    low.net_g.conv.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    low.cri_pix.register_forward_pre_hook(lambda m, i: seen.append(i[0].dtype))
    expected, found = (train(model, batches)[-1]["l_pix"] for model in (full, low))
    assert found == pytest.approx(expected, rel=2e-2) and found != expected
    assert seen[:2] == [dtype, torch.float32]


def test_an_fp16_overflow_lowers_the_scale_and_counts_as_nothing_else(tmp_path):
    model = model_of(tmp_path, amp="fp16", max_nonfinite=1)
    model.training_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = weights(model)
    train(model, [batch_of([0, 1])])
    assert model.training_step.scaler.get_scale() == 2.0**119
    assert model.training_step.guard.total == 0
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("pixel", [{"type": "L1Loss"}, REWEIGHTED], ids=["L1Loss", "reweighted"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_nan_in_a_batch_skips_the_step_and_names_the_files(tmp_path, warnings_of, pixel, amp):
    model = model_of(tmp_path, pixel_opt=pixel, amp=amp)
    train(model, [batch_of([0, 1, 2, 3])])
    before, state = weights(model), copy.deepcopy(model.optimizer_g.state_dict()["state"][0])
    log = train(model, [planted()], start=2)[0]
    assert all(map(torch.equal, before, weights(model)))
    torch.testing.assert_close(model.optimizer_g.state_dict()["state"][0], state, rtol=0, atol=0)
    assert log["skipped"] == 1
    assert len(warnings_of) == 1
    for part in (
        "Iteration 2: the loss (l_pix, l_aux_load_balance) is not finite; the step is skipped (1 in a row, 1 in all)",
        "in/000.png, in/001.png, in/002.png (lq is not finite), in/003.png",
    ):
        assert part in warnings_of[0]
    log = train(model, [batch_of([0, 1, 2, 3])], start=3)[0]  # and training goes on
    assert all(torch.isfinite(torch.tensor(value)) for value in log.values())
    assert not torch.equal(before[0], weights(model)[0])
    assert model.training_step.guard.in_row == 0


@pytest.mark.parametrize("place", [0, 3, None])
def test_a_nan_in_any_micro_batch_is_one_of_the_loss_and_a_gradients_is_caught_too(tmp_path, warnings_of, place):
    model = model_of(tmp_path, accumulate=2)
    if place is None:
        model.net_g.out.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    train(model, [batch_of([0, 1]) if place is None else planted(key="gt", place=place)])
    assert all(map(torch.equal, before, weights(model)))
    if place is None:
        assert "Iteration 1: the gradient is not finite" in warnings_of[0]
    else:
        assert "Iteration 1: the loss (l_pix) is not finite" in warnings_of[0]
        assert f"in/{place:03d}.png (gt is not finite)" in warnings_of[0]


def test_a_skipped_batch_leaves_running_statistics_alone(tmp_path):
    model = model_of(tmp_path)
    model.net_g.norm = nn.BatchNorm2d(3)
    model.net_g.out = nn.Sequential(model.net_g.out, model.net_g.norm)
    train(model, [batch_of([0, 1])])
    before = copy.deepcopy(model.net_g.norm.state_dict())
    train(model, [planted()], start=2)
    torch.testing.assert_close(model.net_g.norm.state_dict(), before, rtol=0, atol=0)
    assert before["num_batches_tracked"] == 1


def test_a_nan_keeps_the_reweighting_finite_and_its_losses_are_forgotten(tmp_path):
    good = [batch_of([0, 1, 2, 3])]
    model = model_of(tmp_path, pixel_opt=REWEIGHTED)
    found = train(model, [*good * 3, planted(), *good * 3])[-1]
    assert model.cri_pix.reweighter.updates == 3  # after iterations 2, 4 (the skipped one) and 6
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
    assert sum(found[f"w_{name}"] for name in TYPES) == pytest.approx(1)
    skipped, shorter = (model_of(tmp_path, pixel_opt={**REWEIGHTED, "update_freq": 3}) for _ in range(2))
    train(skipped, [*good, planted()])
    train(shorter, good)
    assert skipped.cri_pix.get_extra_state() == shorter.cri_pix.get_extra_state()
    train(skipped, good, start=3)
    assert skipped.cri_pix.reweighter.updates == 1  # update_freq iterations are over


@pytest.mark.parametrize(("images", "parts", "sizes"), [(3, 2, [2, 1]), (3, 4, [1, 1, 1]), (1, 2, [1]), (4, 1, [4])])
def test_a_batch_is_cut_into_as_many_parts_as_it_has_images_at_most(images, parts, sizes):
    lq, labels = torch.rand(images, 3, 2, 2), torch.arange(images)
    cut = Batch(lq, lq + 1, labels).split(parts)
    assert [len(part) for part, *_ in cut] == sizes
    for place, whole in enumerate((lq, lq + 1, labels)):
        assert torch.equal(torch.cat([part[place] for part in cut]), whole)
    assert [part[2] for part in Batch(lq, lq, None).split(parts)] == [None] * len(sizes)


def test_training_stops_after_too_many_in_a_row(tmp_path):
    model, bad = model_of(tmp_path, max_nonfinite=2), planted(float("inf"), "gt")
    train(model, [bad, batch_of([0, 1, 2, 3]), bad])
    with pytest.raises(TrainingError) as caught:
        train(model, [bad], start=4)
    told = "stopped at iteration 4", "2 times in a row (train: max_nonfinite: 2)", "in/002.png (gt is not finite)"
    assert all(part in str(caught.value) for part in told)


def test_a_loss_of_ones_own_that_fails_is_told_with_the_batch_and_its_line(tmp_path, monkeypatch):
    def forward(self, output, target, weight=None, **_):
        raise KeyError("mask")

    model = model_of(tmp_path, pixel_opt={"type": "StubJudgingLoss"})
    monkeypatch.setattr(StubJudgingLoss, "forward", forward)
    told = r"own failed on the batch in/000\.png, in/001\.png: KeyError: 'mask' \(.*step\.py:\d+, in .*forward"
    with pytest.raises(TrainingError, match=told):
        train(model, [batch_of([0, 1])])


def test_compiled_network_trains_as_the_plain_one(tmp_path):
    batches, calls = [batch_of([0, 1, 2, 3])] * 2, []
    plain, compiled = model_of(tmp_path), model_of(tmp_path, compile=True, ema_decay=0.5)
    compiled.net_g.compile(backend=lambda graph, _: calls.append(1) or graph.forward)  # no C++ compiler needed
    assert train(plain, batches)[-1]["l_pix"] == pytest.approx(train(compiled, batches)[-1]["l_pix"], rel=1e-5)
    assert calls and set(compiled.net_g.state_dict()) == set(StubNet().state_dict())


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
    model = model_of(tmp_path, channels_last=True, ema_decay=0.5)
    model.feed_data(batch_of([0, 1]))
    for tensor in (model.lq, model.gt, model.net_g.conv.weight, model.net_g_ema.conv.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_history_goes_through_a_checkpoint(tmp_path):
    model, other = (model_of(tmp_path, pixel_opt=REWEIGHTED, amp="fp16", val={"best": "psnr"}) for _ in range(2))
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


def test_progressive_stages_train_on_a_random_part_of_the_first_samples(tmp_path):
    stages = [{"iters": 2, "gt_size": 4, "batch_size": 1}, {"iters": 1, "gt_size": 6, "batch_size": 3}]
    data = batch_of(range(4))
    seen = []
    for _ in range(2):
        model = model_of(tmp_path, progressive=stages)
        model.net_g.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        train(model, [data] * 4)
    height, width = data["lq"].shape[2:]
    assert [tuple(image.shape) for image in seen[:4]] == [
        (1, 3, 4, 4),
        (1, 3, 4, 4),
        (3, 3, 6, 6),
        (4, 3, height, width),
    ]
    assert not torch.equal(seen[0], seen[1])  # another iteration, another place
    assert all(torch.equal(first, second) for first, second in zip(seen[:4], seen[4:], strict=True))
    rows = torch.arange(5.0)[:, None] * 10 + torch.arange(7.0)  # a value tells its place
    sides = [(rows + offset).expand(4, 3, 5, 7) for offset in (0, 100)]
    places = set()
    for seed in range(200):
        batch = Batch(*sides, data["rain_type"], data["lq_path"]).cut(Stage(1, 4, 3), (seed,))
        top, left = divmod(int(batch.lq[0, 0, 0, 0]), 10)
        places.add((top, left))
        for found, side in zip((batch.lq, batch.gt), sides, strict=True):
            torch.testing.assert_close(found, side[:3, :, top : top + 4, left : left + 4])
    assert places == {(top, left) for top in range(2) for left in range(4)}
    assert len(Batch(*sides, None).cut(Stage(1, 4, 2), (0,), devices=2).lq) == 4  # a batch of two devices
    torch.testing.assert_close(batch.rain_type, data["rain_type"][:3])
    assert list(batch.paths) == list(data["lq_path"][:3])
