"""Optimisers by name, schedules that are refused, and the learning rate of each iteration."""

import math

import pytest
import torch
from model_helpers import model_of

from unirain_plugin.errors import OptionError
from unirain_plugin.models.settings import OPTIMIZERS, build_optimizer, check_scheduler


def rates(tmp_path, iterations, **train):
    model, found = model_of(tmp_path, **train), []
    for iteration in range(1, iterations + 1):
        model.update_learning_rate(iteration, train["warmup_iter"])
        found.append(model.get_current_learning_rate()[0])
    return found


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_moves_the_parameters(kind):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(kind, [parameter], lr=0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("AdamX", {}, r"optim_g: type: unknown optimiser 'AdamX'. Did you mean 'Adam"),
        ("AdamW", {"beta": (0.9, 0.9)}, r"optim_g: AdamW has no option 'beta'. Did you mean 'betas'\?"),
        ("Adam", {"lr": -1.0}, "optim_g: Adam refuses its options: Invalid learning rate"),
    ],
)
def test_unknown_optimizer_and_option_are_named(kind, keys, message):
    with pytest.raises(OptionError, match=message):
        build_optimizer(kind, [torch.nn.Parameter(torch.ones(1))], **{"lr": 0.1, **keys})


def test_rates_after_warm_up(tmp_path):
    low = 1e-6
    for iteration, rate in enumerate(rates(tmp_path, 20, warmup_iter=5), start=1):
        if iteration < 5:
            assert rate == pytest.approx(1e-3 * iteration / 5)
        else:
            assert rate == pytest.approx(low + 0.5 * (1e-3 - low) * (1 + math.cos(math.pi * (iteration - 1) / 20)))
    steps = {"type": "MultiStepLR", "milestones": [8], "gamma": 0.5}  # goes back to its own rate
    found = rates(tmp_path, 10, warmup_iter=4, scheduler=steps)
    assert found == pytest.approx([2.5e-4, 5e-4, 7.5e-4, *[1e-3] * 5, 5e-4, 5e-4])


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"type": "CosineAnnealingLR"}, r"unknown scheduler 'CosineAnnealingLR'. Did you mean"),
        ({"type": "CosineAnnealingRestartLR", "periods": [18]}, r"periods: add up to 18, less than total_iter \(20\)"),
        ({"type": "CosineAnnealingRestartLR", "periods": [10, 10]}, "restart_weights: found 1 weight"),
    ],
)
def test_schedules_that_would_fail_later_are_refused(scheduler, message):
    with pytest.raises(OptionError, match=message):
        check_scheduler({"total_iter": 20, "scheduler": scheduler})
    last = {"type": "CosineAnnealingRestartLR", "periods": [19]}  # ends with the last step
    check_scheduler({"total_iter": 20, "scheduler": last})


def test_loss_parameters_are_optimised_without_decay(tmp_path):
    pixel = {"type": "MultiObjectiveReweightedLoss", "num_types": 4, "mode": "uncertainty"}
    model = model_of(tmp_path, pixel_opt=pixel, optim_g={"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1})
    network, loss = model.optimizer_g.param_groups
    assert (network["weight_decay"], loss["weight_decay"]) == (0.1, 0.0)
    assert loss["params"] == [p for p in model.cri_pix.parameters() if p.requires_grad]
