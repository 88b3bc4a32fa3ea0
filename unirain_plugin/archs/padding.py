"""Padding of any picture to a multiple of the network's stride."""

from __future__ import annotations

import torch
from torch import Tensor


def reflect_indices(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices 0 … size-1 continued by reflection without repeating the edge: ``(padded,)``.

    A triangle wave, so that any amount of padding works on any size ≥ 1; of a single row only copies can be made.
    """
    period = max(2 * (size - 1), 1)
    index = torch.arange(padded, device=device) % period
    return torch.minimum(index, period - index) if size > 1 else index


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad ``(N, C, H, W)`` at the bottom and right by reflection until H and W are multiples of ``multiple``."""
    for axis in (2, 3):
        size = x.shape[axis]
        padded = -(-size // multiple) * multiple
        if torch.compiler.is_exporting() or padded != size:  # exported: for every size, without a branch
            x = x.index_select(axis, reflect_indices(size, padded, x.device))
    return x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left ``(N, C, height, width)`` of ``(N, C, H, W)``."""
    if not torch.compiler.is_exporting():
        return x[:, :, :height, :width]
    # A slice makes the exporter ask whether anything was cut off, and fix the answer in the graph; this does not.
    rows = torch.arange(height, device=x.device)
    return x.index_select(2, rows).index_select(3, torch.arange(width, device=x.device))
