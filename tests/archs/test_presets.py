import weakref
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from unirain_plugin.archs.presets import ABLATIONS, PRESETS, preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.metrics.complexity import complexity

TRAIN = Path(__file__).parents[2] / "options" / "train"
ABLATION_FILES = {name: TRAIN / "ablation" / f"train_UniRain-Tiny_{name}.yml" for name in ABLATIONS}
ABLATION_FILES["soft-hard"] = TRAIN / "train_UniRain-Tiny.yml"  # the preset itself


def network_section(path):
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert options["name"] == path.stem
    section = options["network_g"]
    assert section.pop("type") == "UniRain"
    return section


def counted(net, size):
    """Multiply-adds by torch's own counter: independent of the one under test."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net.eval()(torch.rand(1, 3, size, size))
    return counter.get_total_flops() / 2


def counted_at_256(net):
    """The count at 256², of two smaller sizes: a constant part, and one that grows with the pixels."""
    small, large = counted(net, 64), counted(net, 128)
    return small + (large - small) / (128**2 - 64**2) * (256**2 - 64**2)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_option_file_says_what_the_preset_says_and_the_defaults_are_the_papers_size(name):
    assert network_section(TRAIN / f"train_{name}.yml") == preset(name)
    assert UniRain().options == UniRain(**preset("UniRain")).options


def test_paper_size():
    net = UniRain()
    assert abs(parameters(net) / 24.4e6 - 1) < 0.02
    macs = counted_at_256(net)
    assert abs(macs / 126.5e9 - 1) < 0.02
    # The count with attn·V and the output projection apart, as other papers' code would give it.
    blocks = [b for stage in (*net.encoder, *net.decoder, net.refinement) for b in stage]
    sides = [256 // 2**i for i, n in enumerate(net.options.num_blocks) for _ in range(n)]
    sides += [256 // 2**i for i, n in enumerate(net.options.decoder_blocks) for _ in range(n)]
    sides += [256] * net.options.refinement_blocks
    attn_v = sum(
        side**2 * b.attention.project.shape[0] ** 2 // b.attention.heads for b, side in zip(blocks, sides, strict=True)
    )
    assert abs((macs + attn_v) / 126.5e9 - 1) < 0.02


def test_small_size_is_about_a_quarter_and_tiny_below_a_million():
    net = UniRain(**preset("UniRain-S"))
    assert 0.22 < parameters(net) / 24.4e6 < 0.28
    assert 0.22 < counted(net, 128) * 4 / 126.5e9 < 0.28
    net = UniRain(**preset("UniRain-Tiny"))
    assert parameters(net) <= 1e6
    assert counted(net, 128) * 4 < 3e9


@pytest.mark.parametrize("options", [{}, {"decoder_moe": "soft"}, {"top_k": 2}, {"encoder_moe": "none"}])
def test_mmengine_and_torch_count_the_same(options):
    net = UniRain(**preset("UniRain-Tiny", **options)).train()
    found = complexity(net, (64, 64))
    assert net.training
    assert found.multiply_adds == counted(net, 64)
    assert found.parameters == parameters(net)
    assert "M parameters" in str(found)


def test_counting_keeps_nothing_for_a_gradient():
    """Large networks would not fit otherwise: each map of the traced pass stayed."""

    class Watched(torch.nn.Conv2d):
        def forward(self, x):
            hidden = super().forward(x)
            storage, out = weakref.ref(hidden.untyped_storage()), hidden.square()
            del hidden
            alive.append(storage() is not None)
            return out

    alive = []
    net = Watched(3, 4, 1)
    assert complexity(net, (8, 8)).multiply_adds == 8 * 8 * 3 * 4
    assert alive == [False]
    net(torch.rand(1, 3, 8, 8))
    assert alive == [False, True]  # what a training step keeps is seen


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_file_builds_trains_and_costs_the_same(name):
    section = network_section(ABLATION_FILES[name])
    assert section == preset("UniRain-Tiny", **ABLATIONS[name])
    net = UniRain(**section)
    assert counted(net, 64) == pytest.approx(counted(UniRain(**preset("UniRain-Tiny")), 64), rel=0.005)
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-4)
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (net(lq) - gt).abs().mean() + 0.01 * sum(net.auxiliary_losses().values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
