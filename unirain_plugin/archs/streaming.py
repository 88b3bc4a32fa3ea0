"""Evaluation in strips that fit the processor's cache.

Every layer here starts with W · x (1×1) and a 3×3 depth-wise convolution D of the result, whose maps are several times
as wide as x: at 256×256 they exceed the cache, and on most systems each is fresh memory that must be mapped first.
Without gradients nobody needs the whole map, so it is made strip by strip. The two rows that neighbouring strips share
are carried over, so nothing of a map is computed twice and the result is that of the whole map: measured, a
feed-forward takes 0.5 to 0.6 of the time at 48 channels, 256×256. At 192 channels, 64×64, it takes 1.1 to 1.2 when run
over and over on its own, but the whole network is no faster with such maps made at once. With gradients, on a GPU and
while a graph is being captured, the whole map is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unirain_plugin.archs.products import linear

STRIP_BYTES = 4 * 2**20
"""Bytes of a strip: twice the second-level cache of two cores (3 to 9 MiB measured equal, 1 and 2 MiB slower)."""


class Region(NamedTuple):
    """Rows top … bottom-1 and columns left … right-1 of a map."""

    top: int
    bottom: int
    left: int
    right: int


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of ``x`` are computed in: autocast's type where it is on, else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def can_stream(x: Tensor) -> bool:
    """Whether strips may be used for ``(N, H, W, C)``: on the CPU, without gradients, not while capturing a graph."""
    capturing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    known = compute_dtype(x) in (torch.float32, torch.bfloat16, torch.float64)
    return x.device.type == "cpu" and known and not torch.is_grad_enabled() and not capturing


def expanded_strips(
    x: Tensor, expand: Tensor, depthwise: Tensor, region: Region | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield ``(top, bottom, z)`` with z = D(W · x) of the rows top … bottom-1, ``(rows, columns, channels)``.

    Args:
        x: One picture's map ``(H, W, C)``.
        expand: W, ``(channels, C)``, of the same dtype.
        depthwise: D, ``(channels, 1, 3, 3)``, zero padding.
        region: What to make of the map, the whole of it if None. Its neighbours' values are read as well, so the
            result is that of the whole map.
    """
    height, width, inner = x.shape
    region = region or Region(0, height, 0, width)
    channels, columns = expand.shape[0], region.right - region.left
    above, below = max(region.top - 1, 0), min(region.bottom + 1, height)
    left, right = max(region.left - 1, 0), min(region.right + 1, width)
    most = max(STRIP_BYTES // ((columns + 2) * channels * x.element_size()), 2)
    strips = -(-(region.bottom - region.top) // most)
    edges = region.top == 0, region.bottom == height, region.left == 0, region.right == width
    if strips == 1 and edges[0] == edges[1] and edges[2] == edges[3]:  # nothing to carry over or to pad on one side
        z = linear(x[above:below, left:right].unsqueeze(0), expand).permute(0, 3, 1, 2)
        z = F.conv2d(z, depthwise, padding=(int(edges[0]), int(edges[2])), groups=channels)
        yield region.top, region.bottom, z[0].permute(1, 2, 0)
        return
    rows = -(-(region.bottom - region.top) // strips)
    whole = x.new_empty(1, rows + 2, columns + 2, channels)  # with the batch axis: else its strides hide channels_last
    strip = whole[0]  # row i, column j hold the map's row top - 1 + i, column region.left - 1 + j; zero beyond the map
    for line in (strip[0], strip[:, 0], strip[:, -1]):
        line.zero_()
    inside = slice(left - region.left + 1, right - region.left + 1)
    done = above
    for top in range(region.top, region.bottom, rows):
        bottom = min(top + rows, region.bottom)
        need = min(bottom + 1, height)
        if top > region.top:
            strip[:2] = strip[rows:]
        start, stop = done - top + 1, need - top + 1
        if need > done:
            made = linear(x[done:need, left:right].reshape(-1, inner), expand)
            strip[start:stop, inside] = made.view(need - done, right - left, channels)
        if need == bottom:  # the row below the map
            strip[stop].zero_()
            stop += 1
        done = need
        z = F.conv2d(whole[:, :stop].permute(0, 3, 1, 2), depthwise, groups=channels)
        yield top, bottom, z[0].permute(1, 2, 0)


def feed_forward_of_region(
    x: Tensor, kernels: Sequence[Tensor], region: Region | None = None, weights: Tensor | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield ``(top, bottom, y)``, y = W_out · (w ⊗ (a ⊙ b)), [a; b] = D(W_in · x), of the rows top … bottom-1.

    Args:
        x: One picture's normalised map ``(H, W, C)``.
        kernels: W_in ``(2h, C)``, D ``(2h, 1, 3, 3)`` and W_out ``(C, h)``, of the same dtype.
        region: What to make of the map, the whole of it if None.
        weights: w, ``(H, W, E)`` or with H = W = 1: each of E equal groups of the h channels is scaled by its own;
            None for no scaling.
    """
    expand, depthwise, project = kernels
    columns = slice(None) if region is None else slice(region.left, region.right)
    for top, bottom, z in expanded_strips(x, expand, depthwise, region):
        product = torch.mul(*z.chunk(2, -1))
        if weights is not None:
            w = weights if weights.shape[:2] == (1, 1) else weights[top:bottom, columns]
            product.unflatten(-1, (w.shape[-1], -1)).mul_(w.to(x.dtype).unsqueeze(-1))
        yield top, bottom, linear(product, project)


def stream_feed_forward(
    x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor, weights: Tensor | None = None
) -> Tensor:
    """``feed_forward_of_region`` of whole maps ``(N, H, W, C)``, to the same shape; ``weights`` has the axis N too."""
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, *kernels = (t.to(dtype) for t in (x, expand, depthwise, project))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for n, picture in enumerate(x):
            for top, bottom, y in feed_forward_of_region(
                picture, kernels, weights=None if weights is None else weights[n]
            ):
                out[n, top:bottom] = y
    return out


def stream_attention_scores(x: Tensor, qkv: Tensor, depthwise: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over pixels that channel attention needs, and v, in strips.

    Args:
        x: The normalised map ``(N, H, W, C)``.
        qkv: ``(3C, C)``.
        depthwise: ``(3C, 1, 3, 3)``.
        heads: Number of heads; c = C / heads.

    Returns:
        q kᵀ ``(N, heads, c, c)`` and the squared norms of q's and k's channels ``(N, 2C)``, both float32;
        v ``(N, H · W, C)``.
    """
    dtype = compute_dtype(x)
    n, height, width, channels = x.shape
    products = x.new_zeros(n, heads, channels // heads, channels // heads, dtype=torch.float32)
    squares = x.new_zeros(n, 2 * channels, dtype=torch.float32)
    v = x.new_empty(n, height * width, channels, dtype=dtype)
    with torch.autocast(x.device.type, enabled=False):
        x, qkv, depthwise = (t.to(dtype) for t in (x, qkv, depthwise))
        for i, picture in enumerate(x):
            for top, bottom, z in expanded_strips(picture, qkv, depthwise):
                z = z.reshape(-1, 3 * channels)
                q, k = z[:, : 2 * channels].unflatten(-1, (2, heads, -1)).unbind(1)
                products[i] += q.permute(1, 2, 0) @ k.transpose(0, 1)
                squares[i] += z[:, : 2 * channels].square().sum(0, dtype=torch.float32)
                v[i, top * width : bottom * width] = z[:, 2 * channels :]
    return products, squares, v
