"""The losses on a GPU, if need be a pretended one: the CPU's values, gradients and weights."""

import pytest
import torch

import unirain_plugin
from unirain_plugin.losses.reweighting import MODES

LABELS = torch.tensor([0, 0, 1, 3, 3, 2])


def steps(options, device, dtype=torch.float32):
    """Values, gradients and (if it has any) weights of three training steps, on the CPU."""
    unirain_plugin.register()
    from basicsr.losses import build_loss

    torch.manual_seed(0)
    loss = build_loss(options).to(device)
    found = []
    for number in range(1, 4):
        pred, target = torch.rand(2, 6, 3, 12, 14).to(device, dtype)
        pred = (target + (pred - target) / number).detach().requires_grad_()
        reweighted = options["type"] == "MultiObjectiveReweightedLoss"
        value = loss(pred, target, LABELS) if reweighted else loss(pred, target)
        value.backward()
        found += [value.detach().cpu(), pred.grad.cpu()]
        if reweighted:
            loss.step(number)
            found.append(loss.weights.cpu().clone())
    return found


def assert_close(found, expected, tolerance=1e-4):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_weighting(gpu, mode):
    options = {"type": "MultiObjectiveReweightedLoss", "mode": mode, "update_freq": 1, "warmup": 1}
    expected = steps(options, "cpu")
    with gpu():
        found = steps(options, "cuda")
    assert_close(found, expected)


@pytest.mark.parametrize("kind", ["SSIMLoss", "FrequencyL1Loss", "LogMSELoss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss(gpu, kind, dtype):
    options = {"type": kind, "loss_weight": 1.0}
    expected = steps(options, "cpu")
    with gpu():
        found = steps(options, "cuda", dtype)
    assert_close(found[::2], expected[::2], 0.05 if dtype == torch.bfloat16 else 1e-4)
