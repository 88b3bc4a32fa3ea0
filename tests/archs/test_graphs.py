"""Capture by torch.compile and torch.jit.trace, and the other registry. (Exported files: tests/inference.)"""

import os

import pytest
import torch

from unirain_plugin.archs.presets import preset
from unirain_plugin.archs.unirain_arch import UniRain

MINIMAL = {
    "dim": 6, "num_blocks": [1, 1], "decoder_blocks": [1], "heads": [1, 1], "refinement_blocks": 0,
    "encoder_expansion": 1.0, "decoder_expansion": 1.0, "latent_expansion": 1.0,
}  # fmt: skip


def compiled_agrees(backend):
    torch._dynamo.reset()
    net = UniRain(**MINIMAL)
    lq = torch.rand(2, 3, 8, 8)
    expected = net(lq)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    y = compiled(lq)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert net.routing_statistics()["decoder1.0"].shape == (2, 3)
    (y.mean() + sum(net.auxiliary_losses().values())).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_compiles_as_one_graph():
    compiled_agrees("aot_eager")


@pytest.mark.skipif(not os.environ.get("UNIRAIN_SLOW_TESTS"), reason="needs a C++ compiler and a minute")
def test_compiles_with_inductor():
    compiled_agrees("inductor")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_routes_every_image_anew(small):
    net = small(hard_routing="image", dispatch="dense").eval().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)  # choices and corrections worth the name
    images = torch.rand(12, 3, 16, 16).double() * torch.linspace(0.1, 1, 12).view(-1, 1, 1, 1)
    traced = torch.jit.trace(net, images[:1], check_trace=False)
    with torch.no_grad():
        net(images)
        assert len({tuple(row) for row in net.routing_statistics()["decoder1.0"].tolist()}) > 1
        for n in range(12):
            expected = net(images[n : n + 1])
            # Routers read float32 means; a choice that was kept from the example moves values by 6 % of the largest.
            assert (traced(images[n : n + 1]) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_basicsr_and_an_mmengine_config_build_it():
    from basicsr.archs import build_network

    assert isinstance(build_network({"type": "UniRain", **preset("UniRain-Tiny")}), UniRain)
    mmengine = pytest.importorskip("mmengine")
    from mmengine.registry import MODELS

    config = mmengine.Config.fromstring(
        "custom_imports = dict(imports=['unirain_plugin.archs.unirain_arch'])\n"
        "model = dict(type='UniRain', dim=8, num_blocks=[1, 1], decoder_blocks=[1], heads=[1, 1])\n",
        ".py",
    )
    net = MODELS.build(config.model)
    assert isinstance(net, UniRain) and net.options.dim == 8


@pytest.mark.parametrize("first", ["unirain_plugin.archs.unirain_arch", "mmengine"])
def test_mmengine_knows_it_whichever_is_imported_first(first, fresh):
    pytest.importorskip("mmengine")
    code = (
        f"import sys, {first}; import unirain_plugin.archs.unirain_arch as arch; "
        "from unirain_plugin.archs.unirain_arch import register_in_mmengine; register_in_mmengine(arch.UniRain); "
        "print('mmengine' in sys.modules); import mmengine.registry; "
        "print(mmengine.registry.MODELS.get('UniRain') is arch.UniRain)"
    )
    assert fresh(code).split() == [str(first == "mmengine"), "True"]


@pytest.mark.parametrize("first", ["losses.base_terms", "models.settings"])
def test_parts_are_registered_whichever_is_imported_first(first, fresh):
    code = f"import warnings; warnings.simplefilter('error', UserWarning); import unirain_plugin.{first}; " + (
        "from basicsr.utils.registry import LOSS_REGISTRY as losses, MODEL_REGISTRY as models; "
        "print('MultiObjectiveReweightedLoss' in losses, 'UniRainModel' in models)"
    )
    assert fresh(code).split() == ["True", "True"]
