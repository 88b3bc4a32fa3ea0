"""The networks that are measured, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from unirain_plugin.archs.presets import ABLATIONS, PRESETS, preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.study.benchmarks.reference_net import TextbookNet

BASELINE = "textbook"


def _swinir() -> nn.Module:
    from basicsr.archs.swinir_arch import SwinIR

    return SwinIR(
        upscale=1, img_size=128, window_size=8, img_range=1.0, depths=[6] * 6, embed_dim=180, num_heads=[6] * 6,
        mlp_ratio=2, upsampler="", resi_connection="1conv",
    )  # fmt: skip


def _rcan() -> nn.Module:
    from basicsr.archs.rcan_arch import RCAN

    return RCAN(3, 3, num_feat=64, num_group=10, num_block=16, squeeze_factor=16, upscale=1)


def candidates() -> dict[str, Callable[..., nn.Module]]:
    """Name → builder. The baseline comes first; UniRain's builders take further constructor options."""
    table: dict[str, Callable[..., nn.Module]] = {BASELINE: TextbookNet}
    for name in PRESETS:
        table[name] = lambda name=name, **changes: UniRain(**preset(name, **changes))
    for label, kinds in ABLATIONS.items():
        table[f"UniRain_{label}"] = lambda kinds=kinds, **changes: UniRain(**preset("UniRain", **kinds, **changes))
    table["SwinIR"] = _swinir
    table["RCAN"] = _rcan
    table["textbook-tiny"] = lambda: TextbookNet(16, (1, 1, 1, 1), 1)
    return table
