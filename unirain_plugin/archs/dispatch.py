"""Sparse evaluation of a hard mixture: only the chosen experts compute.

Tensors are channels-last, ``(N, H, W, C)``. ``chosen`` and ``weights`` are ``(N, U, K)``; U = 1 for routing by picture
and the number of windows, row by row, for routing by window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from unirain_plugin.archs.experts import Experts, run_expert
from unirain_plugin.archs.products import linear
from unirain_plugin.archs.streaming import Region, can_stream, compute_dtype, expanded_region, gated_strips


def dispatch_images(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor) -> Tensor:
    """Each picture by its own experts. Pictures that share an expert run together."""
    unbound = experts.unbind()
    groups = chosen[:, 0].tolist()
    if len({tuple(row) for row in groups}) == 1:
        return _sum_weighted(x, [unbound[e] for e in groups[0]], weights[:, 0])
    out: list[Tensor | None] = [None] * len(groups)
    for rows in sorted({tuple(row) for row in groups}):
        members = [n for n, row in enumerate(groups) if tuple(row) == rows]
        index = torch.tensor(members, device=x.device)
        y = _sum_weighted(x[index], [unbound[e] for e in rows], weights[index, 0])
        for position, n in enumerate(members):
            out[n] = y[position]
    return torch.stack(out)


def _sum_weighted(x: Tensor, chosen: list[tuple[Tensor, Tensor, Tensor]], weights: Tensor) -> Tensor:
    """Σ_j w_j · E_j(x) for pictures with the same experts; ``weights`` is ``(N, K)``."""
    if len(chosen) == 1 and not weights.requires_grad:
        return run_expert(x, chosen[0])  # the weight of a single expert is 1
    total = None
    for j, expert in enumerate(chosen):
        y = run_expert(x, expert)
        w = weights[:, j, None, None, None].to(y.dtype)
        total = y * w if total is None else torch.addcmul(total, y, w)
    return total


def window_counts(height: int, width: int, window: int) -> tuple[int, int]:
    """Rows and columns of windows that cover a map; the last ones may reach beyond it."""
    return -(-height // window), -(-width // window)


def spread_windows(values: Tensor, window: int, height: int, width: int) -> Tensor:
    """Repeat ``(N, rows, columns, E)`` over the pixels of each window: ``(N, H, W, E)``."""
    return values.repeat_interleave(window, 1).repeat_interleave(window, 2)[:, :height, :width]


def dispatch_windows(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor, window: int) -> Tensor:
    """Each window by its own experts, exactly.

    Windows (without gradients on the CPU: rectangles of windows that touch and share an expert) are computed with the
    1-pixel halo that the 3×3 convolution reads. The halo holds the neighbours' true values, so the result equals
    running an expert on the whole map and cutting the window out of it.
    """
    n, height, width, channels = x.shape
    rows, columns = window_counts(height, width, window)
    chosen, weights = chosen.flatten(0, 1), weights.flatten(0, 1)
    if can_stream(x):
        return _stream_windows(x, experts, chosen, weights, window)
    padded = F.pad(x, (0, 0, 1, columns * window - width + 1, 1, rows * window - height + 1))
    tiles = padded.unfold(1, window + 2, window).unfold(2, window + 2, window)
    tiles = tiles.permute(0, 1, 2, 4, 5, 3)  # channels last before the gather, which then copies whole rows
    out = x.new_zeros(0)
    for number, expert in enumerate(experts.unbind()):
        unit, slot = (chosen == number).nonzero(as_tuple=True)
        if unit.numel() == 0:
            continue
        image, cell = unit // (rows * columns), unit % (rows * columns)
        y = run_expert(tiles[image, cell // columns, cell % columns], expert, padding=0)
        if chosen.shape[1] > 1 or weights.requires_grad:
            y = y * weights[unit, slot, None, None, None].to(y.dtype)
        if out.numel() == 0:
            out = y.new_zeros(n * rows * columns, window, window, channels)
        out = out.index_add(0, unit, y)
    out = out.view(n, rows, columns, window, window, channels).transpose(2, 3)
    return out.reshape(n, rows * window, columns * window, channels)[:, :height, :width]


def _stream_windows(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor, window: int) -> Tensor:
    """Expert after expert; its windows that touch run as one rectangle, in strips that fit the cache.

    Args:
        x: The map ``(N, H, W, C)``.
        experts: The experts.
        chosen: ``(N · rows · columns, K)``.
        weights: Likewise.
        window: Side of a window; the last ones of a row or column are smaller where the map ends.
    """
    dtype = compute_dtype(x)
    n, height, width, _ = x.shape
    rows, columns = window_counts(height, width, window)
    chosen, weights = (t.view(n, rows, columns, -1) for t in (chosen, weights))
    single = chosen.shape[-1] == 1  # the weight of a single expert is 1, and nothing is added up
    out = (torch.empty_like if single else torch.zeros_like)(x, dtype=dtype, memory_format=torch.contiguous_format)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(dtype)
        for number, expert in enumerate(experts.unbind()):
            expand, depthwise, project = (t.to(dtype) for t in expert)
            here = chosen == number
            shares = None if single else spread_windows((weights * here).sum(-1, keepdim=True), window, height, width)
            for i, grid in enumerate(here.any(-1).tolist()):
                for region in _rectangles(grid, window, height, width):
                    place = i, slice(region.top, region.bottom), slice(region.left, region.right)
                    part, share = out[place], None if single else shares[place]
                    strips = expanded_region(x[i], region, expand, depthwise)
                    for top, bottom, product in gated_strips(strips, share):
                        y = linear(product, project)
                        part[top:bottom].copy_(y) if single else part[top:bottom].add_(y)
    return out


def _rectangles(grid: list[list[bool]], window: int, height: int, width: int) -> Iterator[Region]:
    """Cover the marked windows by rectangles that do not overlap, as wide and then as high as they go.

    Neighbours that run together do not compute each other's halo.
    """
    marked = [(row, column) for row, marks in enumerate(grid) for column, mark in enumerate(marks) if mark]
    open_cells = set(marked)
    for row, column in marked:
        if (row, column) not in open_cells:
            continue
        right, bottom = column, row
        while (row, right) in open_cells:
            right += 1
        while all((bottom, c) in open_cells for c in range(column, right)):
            open_cells.difference_update((bottom, c) for c in range(column, right))
            bottom += 1
        top, left = row * window, column * window
        yield Region(top, min(bottom * window, height), left, min(right * window, width))


def dispatch_dense(x: Tensor, experts: Experts, mask: Tensor) -> Tensor:
    """All experts on everything, then the masked weights ``(N, H, W, E)``: the plain definition, and no branches."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for number, expert in enumerate(experts.unbind()):
        y = run_expert(x, expert)
        total = total + y * mask[..., number, None].to(y.dtype)
    return total
