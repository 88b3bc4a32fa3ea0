"""Exponential moving average of a whole network: parameters and buffers."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: a ← decay · a + (1 − decay) · n, in one fused call per dtype.

    Unlike the toolbox, floating-point buffers (running statistics) are averaged as well; all other buffers, such as
    counters, are copied.

    Args:
        average: The averaged network, changed in place.
        network: The trained network, of the same architecture, without wrappers.
        decay: In [0, 1]; 0 copies.
    """
    targets, sources = [], []
    for (name, target), source in zip(average.state_dict().items(), network.state_dict().values(), strict=True):
        if not isinstance(target, torch.Tensor):
            continue  # a module's extra state
        if target.shape != source.shape:
            raise ValueError(
                f"EMA: {name} is {tuple(target.shape)} in the average, {tuple(source.shape)} in the network."
            )
        if target.is_floating_point():
            targets.append(target)
            sources.append(source)
        else:
            target.copy_(source)
    torch._foreach_mul_(targets, decay)
    torch._foreach_add_(targets, sources, alpha=1 - decay)
