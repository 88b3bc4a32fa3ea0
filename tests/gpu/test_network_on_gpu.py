"""The network on a GPU, if need be a pretended one: the CPU's results, and everything on one device."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import TINY_NETWORK
from torch.overrides import TorchFunctionMode

import unirain_plugin
from unirain_plugin.archs.unirain_arch import UniRain

STUDY = yaml.safe_load((Path(__file__).parents[2] / "options/reproduce/gpu.yml").read_text())

OPTIONS = {
    "default": {},
    "hard by window, two": {"hard_routing": "window", "window": 8, "top_k": 2},
    "hard encoder": {"encoder_moe": "hard", "latent_moe": "hard"},
    "soft by window": {"soft_routing": "window", "window": 4, "decoder_moe": "soft"},
    "without mixtures": {"encoder_moe": "none", "decoder_moe": "none"},
    "checkpointing": {"use_checkpoint": True},
    "masked": {"dispatch": "dense"},
}


def network(**options):
    torch.manual_seed(0)
    return UniRain(**{key: value for key, value in TINY_NETWORK.items() if key != "type"}, **options)


def step(net, lq, dtype=None):
    """Output and gradients, on the CPU, of a training step that includes the auxiliary losses."""
    with torch.autocast(lq.device.type, dtype, enabled=dtype is not None):
        out = net(lq)
    loss = out.float().square().mean() + sum(net.auxiliary_losses().values())
    loss.backward()
    return [out.detach().cpu(), *(p.grad.cpu() for p in net.parameters())]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_training_step_and_a_restoration_give_the_cpus_values(gpu, options):
    lq = torch.rand(3, 3, 20, 28)
    expected = step(network(**options), lq)
    with gpu():
        net = network(**options).to("cuda")
        assert {p.device.type for p in net.parameters()} == {"cuda"}
        found = step(net, lq.cuda())
        with torch.no_grad():
            found.append(net(lq.cuda()).cpu())
        assert all(shares.device.type == "cuda" for shares in net.routing_statistics().values())
    for a, b in zip(found, [*expected, expected[0]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["default", "hard by window, two", "soft by window", "masked"])
def test_autocast_is_as_near_as_its_type_allows(gpu, kind, dtype):
    lq = torch.rand(2, 3, 16, 16)
    (exact, *gradients) = step(network(**OPTIONS[kind]), lq)
    with gpu():
        (out, *low) = step(network(**OPTIONS[kind]).to("cuda"), lq.cuda(), dtype)
    assert out.dtype == torch.float32
    assert 0 < (out - exact).abs().max() < 16 * torch.finfo(dtype).eps * exact.abs().max()
    assert all(torch.isfinite(g).all() for g in low)
    norm, low_norm = (torch.cat([g.flatten() for g in gs]).norm().item() for gs in (gradients, low))
    assert low_norm == pytest.approx(norm, rel=0.1)


class Waits(TorchFunctionMode):
    """Counts what makes the host wait for the GPU."""

    WAITING = (
        "tolist", "item", "nonzero", "cpu", "numpy", "unique", "masked_select", "__bool__", "__int__", "__float__",
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.WAITING or (name == "to" and "cpu" in map(str, args[1:])):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_host_waits_for_no_choice_of_experts(gpu, options, training):
    with gpu():
        net, lq = network(**options).to("cuda").train(training), torch.rand(3, 3, 20, 28).cuda()
        with torch.set_grad_enabled(training), Waits() as waits:
            net(lq)
            assert waits.found == []
            lq.sum().item()
    assert waits.found == ["item"]


def test_an_image_on_the_cpu_is_refused(gpu):
    with gpu():
        net = network().to("cuda")
        with pytest.raises(RuntimeError, match=r"same device|should be the same"):
            net(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", STUDY["networks"])
def test_the_networks_of_the_gpu_study_train_in_its_precision(gpu, name):
    unirain_plugin.register()
    from basicsr.archs import build_network

    assert STUDY["training"]["changes"]["train"]["amp"] == "bf16"
    with gpu():
        net = build_network(dict(STUDY["networks"][name])).to("cuda")
        lq = torch.rand(1, 3, 16, 16).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            out = net(lq)
        (out.float() - lq).abs().mean().backward()
        assert out.shape == lq.shape
        assert all(torch.isfinite(p.grad.cpu()).all() for p in net.parameters())
