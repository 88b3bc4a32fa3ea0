import weakref
from contextlib import nullcontext

import pytest
import torch

from unirain_plugin.archs import blocks, kernels
from unirain_plugin.archs.blocks import ChannelAttention, TransformerBlock
from unirain_plugin.archs.kernels import attend
from unirain_plugin.archs.mixtures import FeedForward
from unirain_plugin.archs.options import NetworkOptions


def test_gradients_of_attend_are_those_of_small_differences():
    for images, heads in ((1, 1), (2, 3)):
        z = torch.randn(images, 7, 18, dtype=torch.float64, requires_grad=True)
        temperature = torch.linspace(0.5, 2, heads, dtype=torch.float64).requires_grad_()
        project = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(attend, (z, temperature, project))


@pytest.mark.parametrize("weights", [None, (2, 3, 4, 5), (2, 1, 1, 1)])
def test_gradients_of_the_gated_projection_are_those_of_small_differences(weights):
    z, project = torch.randn(2, 3, 4, 10, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    weights = None if weights is None else torch.randn(weights, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(kernels._Gated.apply, (z.requires_grad_(), project.requires_grad_(), weights))
    expected = z[..., :5] * z[..., 5:] * (1 if weights is None else weights) @ project.t()
    for found in (kernels.gated(z, project, weights), kernels._Gated.apply(z, project, weights)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["soft", "hard", "none"])
def test_normalised_maps_are_made_again_with_the_same_gradients(kind, monkeypatch):
    block, x = TransformerBlock(8, 2, kind, 1.0, NetworkOptions()), torch.randn(1, 5, 6, 8, requires_grad=True)
    norms, alive = [block.norm1, block.norm2], []
    for norm in norms:
        norm.register_forward_hook(lambda _, __, y: alive.append(weakref.ref(y.untyped_storage())))
    y, found = gradients(block, x)
    assert len(alive) == 4  # two of the backward pass
    block(x)
    assert [storage() for storage in alive] == [None] * 6
    y = block(x)[0].square().sum()
    twice = [torch.autograd.grad(y, [x], retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)
    monkeypatch.setattr(blocks, "computed_again", lambda value, compute: nullcontext())
    plain, expected = gradients(block, x)
    kept = block(x)
    assert [storage() is not None for storage in alive[-2:]] == [True, True] and kept
    assert torch.equal(y, plain.square().sum()) and all(map(torch.equal, found, expected))


def gradients(module, x):
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    return y, torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), [x, *module.parameters()])


def test_who_sees_to_what_is_kept_gets_the_normalised_maps_too():
    block, seen, normalised = TransformerBlock(8, 2, "none", 1.0, NetworkOptions()), [], []
    block.norm1.register_forward_hook(lambda _, __, y: normalised.append(y.data_ptr()))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.data_ptr()) or t, lambda t: t):
        block(torch.randn(1, 5, 6, 8))
    assert set(normalised) <= set(seen)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("build", [lambda: ChannelAttention(8, 2), lambda: FeedForward(8, 2.5)])
def test_layers_equal_what_autograd_makes_of_them(images, build, monkeypatch):
    layer, x = build(), torch.randn(images, 5, 6, 8, requires_grad=True)
    y, found = gradients(layer, x)
    used = []
    for module in (blocks, kernels):
        monkeypatch.setattr(module, "is_plain", lambda *tensors: used.append(tensors))  # None: no
    plain, expected = gradients(layer, x)
    assert used
    torch.testing.assert_close(y, plain)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_channels_of_zeros_have_finite_gradients_and_float16_sums_do_not_overflow():
    layer, x = ChannelAttention(8, 2), torch.zeros(1, 4, 4, 8, requires_grad=True)
    _, found = gradients(layer, x)
    assert all(bool(torch.isfinite(g).all()) for g in found)
    layer, x = ChannelAttention(8, 2), 40 * torch.randn(1, 64, 64, 8)
    expected = layer(x)
    found = layer.half()(x.half())
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_autograd_keeps_nothing_but_the_tensor_that_holds_q_k_and_v():
    layer, x = ChannelAttention(16, 2), torch.randn(1, 32, 32, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    large = {t.untyped_storage().data_ptr() for t in kept if t.untyped_storage().nbytes() >= x.nbytes}
    assert len(large) <= 3  # x, W · x and D(W · x)
