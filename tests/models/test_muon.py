"""Muon: which weights it orthogonalises, what its steps are, and that the others get AdamW's."""

import copy
import math

import pytest
import torch
from torch import nn

from unirain_plugin.models.muon import Muon, orthogonalize


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3)
        self.conv = nn.Conv2d(16, 24, 3)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24)
        self.linear = nn.Linear(24, 16)
        self.experts = nn.Parameter(torch.randn(3, 16, 8))
        self.router = nn.Linear(16, 3)


MATRICES = {"conv.weight", "linear.weight", "experts"}


def stepped(kind, steps=2, **options):
    net = Net()
    optimizer = kind(net.parameters(), lr=1e-2, weight_decay=0.1, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return dict(net.named_parameters())


def test_weights_that_are_no_matrices_get_the_steps_of_adamw():
    muon, adamw = stepped(Muon, betas=(0.8, 0.9)), stepped(torch.optim.AdamW, betas=(0.8, 0.9))
    assert {name for name in muon if not torch.equal(muon[name], adamw[name])} == MATRICES


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_a_step_of_a_matrix_is_its_gradients_polar_factor_at_the_size_of_adamws(name):
    before, after = dict(Net().named_parameters())[name], stepped(Muon, steps=1)[name]
    generator = torch.Generator().manual_seed(1)
    gradients = {key: torch.randn(p.shape, generator=generator) for key, p in Net().named_parameters()}
    step, gradient = (before * (1 - 1e-2 * 0.1) - after).detach(), gradients[name]
    for part, of in zip(step, gradient, strict=True) if name == "experts" else [(step.flatten(1), gradient.flatten(1))]:
        u, values, v = torch.linalg.svd(of, full_matrices=False)
        found = u.T @ part @ v.T / (1e-2 * 0.2 * math.sqrt(max(part.shape)))  # diagonal: the singular vectors stay
        assert (values > 0.0015 * values.norm()).all()
        assert (found.diagonal() - 1).abs().max() < 0.33
        assert (found - found.diagonal().diag()).abs().max() < 1e-4
        assert 0.1 < part.square().mean().sqrt() / 1e-2 < 0.3


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (2, 4, 4)])
def test_small_singular_values_are_raised_to_about_one(shape):
    left, _ = torch.linalg.qr(torch.randn(*shape[:-1], 4))
    right, _ = torch.linalg.qr(torch.randn(*shape[:-2], shape[-1], 4))
    values = torch.tensor([1.0, 0.1, 0.01, 0.002])
    found = torch.linalg.svdvals(orthogonalize(7 * left * values @ right.mT))
    assert found.shape[-1] == 4 and found.min() > 0.68 and found.max() < 1.21


def test_gradients_are_averaged_with_momentum():
    """Two steps by hand: g1, then g2, with Nesterov's look ahead."""
    weight, first, second = nn.Parameter(torch.zeros(8, 12)), torch.randn(8, 12), torch.randn(8, 12)
    optimizer = Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.6)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
    average = 0.4 * first
    wanted = orthogonalize(0.4 * first + 0.6 * average)
    average = 0.6 * average + 0.4 * second
    wanted += orthogonalize(0.4 * second + 0.6 * average)
    torch.testing.assert_close(weight.data, -wanted * 0.2 * math.sqrt(12), atol=1e-4, rtol=1e-4)


def test_zero_gradients_and_weights_without_one_stay_and_options_are_checked():
    weight, frozen = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    optimizer = Muon([weight, frozen], lr=0.1, weight_decay=0.0)
    weight.grad = torch.zeros(8, 8)
    optimizer.step()
    assert (weight == 1).all() and (frozen == 1).all()
    with pytest.raises(ValueError, match=r"momentum value: 1\.0"):
        Muon([weight], momentum=1.0)


def test_groups_keep_their_options_and_the_state_is_taken_up_again():
    net = Net()
    optimizer = Muon([{"params": [net.conv.weight], "lr": 0.5}, {"params": list(net.linear.parameters())}], lr=0.1)
    optimizer.add_param_group({"params": net.experts, "weight_decay": 0.0})
    found = [(group["lr"], group["weight_decay"], group["momentum"]) for group in optimizer.param_groups]
    assert found == [(0.5, 0.01, 0.95), (0.1, 0.01, None), (0.1, 0.01, 0.95), (0.1, 0.0, 0.95)]
    copied = copy.deepcopy(optimizer)
    copied.add_param_group({"params": [nn.Parameter(torch.ones(8, 8))]})
    assert copied.param_groups[-1]["momentum"] == 0.95
    other = Muon(optimizer.param_groups[0]["params"], lr=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"state": {0: optimizer.state[net.conv.weight]}, "param_groups": other.state_dict()["param_groups"]}
    other.load_state_dict(state)
    buffer = other.state[net.conv.weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, torch.full_like(buffer, 0.05))


def test_an_expert_without_a_gradient_stays_and_goes_on_where_it_was():
    experts = nn.Parameter(torch.randn(2, 8, 12))
    optimizer = Muon([experts], lr=0.1, weight_decay=0.1)
    first, second = torch.randn(2, 2, 8, 12)
    experts.grad = first
    optimizer.step()
    before = experts.detach().clone()
    alone = nn.Parameter(before.clone())
    other = Muon([alone], lr=0.1, weight_decay=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        experts.grad = torch.stack([torch.randn(8, 12), torch.zeros(8, 12)])
        optimizer.step()
    assert torch.equal(experts[1], before[1]) and not torch.equal(experts[0], before[0])
    experts.grad, alone.grad = second, second
    for each in (optimizer, other):
        each.step()
    torch.testing.assert_close(experts[1], alone[1], rtol=0, atol=0)
