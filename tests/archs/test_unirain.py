import copy

import plain_reference as plain
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unirain_plugin.archs import kernels
from unirain_plugin.archs.blocks import ChannelNorm, pad_to_multiple

VARIANTS = [
    {},
    {"encoder_moe": "soft", "latent_moe": "soft", "decoder_moe": "soft"},
    {"encoder_moe": "hard", "latent_moe": "hard", "decoder_moe": "hard", "top_k": 2},
    {"encoder_moe": "none", "decoder_moe": "none"},
    {"hard_routing": "window", "soft_routing": "window", "window": 4},
    {"soft_routing": "image", "num_experts": 2, "widen_last": False},
]


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (20, 28), (4, 4)])
def test_equals_the_plain_formulation(small, options, size, monkeypatch):
    net = small(**options)
    for name, parameter in net.named_parameters():
        if name.endswith("temperature"):  # 1 in a new network
            nn.init.uniform_(parameter, 0.5, 2)
    lq = torch.rand(2, 3, *size)
    expected = plain.unirain(net, lq)
    close(net(lq), expected)
    monkeypatch.setattr(kernels, "STRIP_BYTES", 4000)  # several strips
    with torch.no_grad():
        close(net(lq), expected)


@pytest.mark.parametrize("options", VARIANTS[:3])
def test_gradients_equal_those_of_the_plain_formulation(small, options):
    net = small(**{**options, "top_k": 2})  # for top_k 1 the router's gradient is straight-through by design
    lq, target = torch.rand(2, 3, 12, 16), torch.rand(2, 3, 12, 16)
    gradients = []
    for forward in (net, lambda x: plain.unirain(net, x)):
        net.zero_grad()
        ((forward(lq) - target) ** 2).mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * max(b.abs().max().item(), 1e-3))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 7), (13, 8), (17, 33)])
@pytest.mark.parametrize("options", [{}, {"hard_routing": "window", "window": 4}])
def test_any_size_keeps_its_size(small, size, options):
    net = small(**options)
    lq = torch.rand(1, 3, *size)
    y = net(lq)
    assert y.shape == lq.shape
    assert torch.isfinite(y).all()
    with torch.no_grad():
        close(net(lq), y)


def test_padding_reflects_without_repeating_the_edge_and_a_new_network_starts_near_the_identity(small):
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(pad_to_multiple(x, 4), F.pad(x, (0, 2, 0, 3), mode="reflect"))
    narrow = pad_to_multiple(torch.tensor([[[[0.0], [1.0]]]]), 8)  # more is added than there is
    assert narrow[0, 0, :, 0].tolist() == [0, 1] * 4 and narrow.shape == (1, 1, 8, 8)
    weight = small().output.weight
    bound = 0.1 * (9 * weight.shape[1]) ** -0.5  # a tenth of torch's usual bound, 1 / √fan-in
    assert 0.8 * bound < weight.abs().max() <= bound


def test_norms_keep_autocast_out_which_would_widen_their_maps_on_a_gpu(monkeypatch):
    plainly, seen = F.layer_norm, []

    def layer_norm(x, shape, weight, bias):
        seen.append((torch.is_autocast_enabled("cpu"), x.dtype, weight.dtype, bias.dtype))
        return plainly(x, shape, weight, bias)

    monkeypatch.setattr(F, "layer_norm", layer_norm)
    with torch.autocast("cpu", torch.bfloat16):
        assert ChannelNorm(4)(torch.rand(2, 4).bfloat16()).dtype == torch.bfloat16
    assert seen == [(False, torch.bfloat16, torch.bfloat16, torch.bfloat16)]


def test_memory_format_and_strides_do_not_matter(small):
    net = small().eval()
    lq = torch.rand(2, 3, 12, 20)
    expected = net(lq)
    close(net(lq.to(memory_format=torch.channels_last)), expected)
    close(net.to(memory_format=torch.channels_last)(lq), expected)
    close(net(torch.rand(2, 3, 20, 12).copy_(lq.transpose(2, 3)).transpose(2, 3)), expected)
    wide = torch.zeros(2, 3, 12, 40)
    wide[..., ::2] = lq
    close(net(wide[..., ::2]), expected)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"hard_routing": "window", "window": 4}])
@pytest.mark.parametrize("training", [False, True])
def test_an_image_does_not_depend_on_its_batch(small, options, training):
    net = small(**options).train(training)
    lq = torch.rand(5, 3, 12, 20) * torch.tensor([0.1, 0.4, 1.0, 2.0, 0.7]).view(-1, 1, 1, 1)
    order = [3, 0, 4, 1, 2]
    with torch.set_grad_enabled(training):
        alone = torch.cat([net(image[None]) for image in lq])
        together, shuffled = net(lq), net(lq[order])
    chosen = net.routing_statistics()["decoder1.0"]
    assert options.get("hard_routing") or len({tuple(row) for row in chosen.tolist()}) > 1, "the batch must be mixed"
    close(together, alone)
    close(shuffled, alone[order])


def test_every_parameter_gets_a_gradient_from_one_image_and_depthwise_kernels_one_of_their_strides(small):
    for options in VARIANTS:
        net, strides = small(**options), {}
        kernels = {name: p for name, p in net.named_parameters() if name.endswith("depthwise")}
        for name, kernel in kernels.items():
            kernel.register_hook(lambda gradient, name=name, to=strides: to.update({name: gradient.stride()}))
        net(torch.rand(1, 3, 8, 8)).sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
        assert strides == {name: kernel.stride() for name, kernel in kernels.items()}


def test_recomputation_changes_neither_output_nor_gradients(small):
    lq = torch.rand(3, 3, 12, 12)
    results = []
    for use_checkpoint in (False, True):
        net = small(use_checkpoint=use_checkpoint)
        y = net(lq)
        (y.square().mean() + sum(net.auxiliary_losses().values())).backward()
        results.append([y, *(p.grad for p in net.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("usable", [True, False], ids=["bfloat16", "no bfloat16"])
def test_bfloat16_autocast_trains_and_restores(small, usable, monkeypatch):
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: usable)  # whether the processor has instructions for it
    net, lq = small(), torch.rand(2, 3, 16, 16)
    expected = net(lq)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(lq)
        loss = y.float().square().mean() + sum(net.auxiliary_losses().values())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.equal(y, expected) != usable
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        restored = net(lq)
        assert (restored - expected).abs().max() < 0.05 * expected.abs().max()
        assert net._records["decoder1.0"].logits.dtype == torch.float32
        with FlopCounterMode(display=False):
            counted = net(lq)  # what is counted does not depend on the processor
        assert usable or not torch.equal(counted, restored)
        assert net.bfloat16()(lq.bfloat16()).dtype == torch.bfloat16


def test_a_network_can_be_copied_after_a_forward_and_a_compiled_one_shares_no_weights(small):
    lq = torch.rand(1, 3, 16, 16)
    for compiled in (False, True):
        net = small(num_blocks=[1, 1], decoder_blocks=[1], heads=[1, 2], refinement_blocks=0)
        if compiled:
            net.compile(backend="eager")
        before, twin = net(lq), copy.deepcopy(net)
        assert twin.routing_statistics() == {}
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)
        close(twin(lq), before)
        assert (net(lq) - before).abs().max() > 0.1 * before.abs().max()


def test_records_are_replaced_and_auxiliary_losses_reach_the_routers_that_there_are(small):
    net = small(encoder_moe="none", decoder_moe="none")
    net(torch.rand(1, 3, 8, 8))
    assert net.auxiliary_losses() == net.routing_statistics() == {}
    net = small()
    for images in (4, 2):
        net(torch.rand(images, 3, 8, 8))
        assert {share.shape[0] for share in net.routing_statistics().values()} == {images}
    losses = net.auxiliary_losses()
    assert set(losses) == {"load_balance", "z_loss"}
    sum(losses.values()).backward()
    routers = [p for name, p in net.named_parameters() if name.endswith("router.weight")]
    assert all(p.grad.abs().sum() > 0 for p in routers)
