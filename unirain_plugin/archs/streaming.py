"""Evaluation in strips that fit the processor's cache.

Every layer here starts with W · x (1×1) and a 3×3 depth-wise convolution D of the result, whose maps are several times
as wide as x: at 256×256 they exceed the cache, and on most systems each is fresh memory that must be mapped first.
Without gradients nobody needs the whole map, so it is made strip by strip. The two rows that neighbouring strips share
are carried over, so nothing of a map is computed twice and the result is that of the whole map: measured, a
feed-forward takes 0.5 to 0.6 of the time at 48 channels, 256×256. At 192 channels, 64×64, it takes 1.1 to 1.2 when run
over and over on its own, but the whole network is no faster with such maps made at once. With gradients, on a GPU,
while a graph is being captured and where operations are counted, the whole map is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unirain_plugin.archs.products import has_bfloat16, is_watched, linear, linear_into

STRIP_BYTES = 4 * 2**20
"""Bytes of a strip: twice the second-level cache of two cores (3 to 9 MiB measured equal, 1 and 2 MiB slower)."""


class Region(NamedTuple):
    """Rows top … bottom-1 and columns left … right-1 of a map."""

    top: int
    bottom: int
    left: int
    right: int


Strip = tuple[int, int, Tensor]
"""Rows top … bottom-1 of a map: top, bottom, values ``(rows, columns, channels)``."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of ``x`` are computed in: autocast's type where it is on, else (and for float64) its own."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def wants_slow_bfloat16(x: Tensor) -> bool:
    """Whether autocast asks to compute with float32 ``x`` in bfloat16 on a CPU that has no instructions for it.

    Not while a graph is captured or operations are counted: that shall not depend on the processor.
    """
    asked = x.device.type == "cpu" and x.dtype == torch.float32 and compute_dtype(x) == torch.bfloat16
    return asked and not is_watched() and not has_bfloat16()


def can_stream(x: Tensor) -> bool:
    """Whether strips may be used for ``(N, H, W, C)``: on the CPU, without gradients, while nobody watches."""
    known = compute_dtype(x) in (torch.float32, torch.bfloat16, torch.float64)
    return x.device.type == "cpu" and known and not torch.is_grad_enabled() and not is_watched()


def expanded_strips(x: Tensor, expand: Tensor, depthwise: Tensor) -> Iterator[Strip]:
    """Yield ``(top, bottom, z)`` with z = D(W · x) of the rows top … bottom-1, ``(rows, width, channels)``.

    Args:
        x: One picture's map ``(H, W, C)``.
        expand: W, ``(channels, C)``, of the same dtype.
        depthwise: D, ``(channels, 1, 3, 3)``, zero padding.
    """
    height, width, _ = x.shape
    if height <= _rows_of_strip(width, expand):  # no neighbours to carry over
        z = linear(x.unsqueeze(0), expand).permute(0, 3, 1, 2)
        yield 0, height, F.conv2d(z, depthwise, padding=1, groups=len(expand))[0].permute(1, 2, 0)
    else:
        yield from expanded_region(x, Region(0, height, 0, width), expand, depthwise)


def expanded_region(x: Tensor, region: Region, expand: Tensor, depthwise: Tensor) -> Iterator[Strip]:
    """Likewise of a region of the map, for which its neighbours' values are read; rows are counted from its top.

    W has no bias, so zeros stay zeros: products are made of the zeros around the map too, and are at once what the
    convolution reads.
    """
    height, columns, channels = region.bottom - region.top, region.right - region.left + 2, len(expand)
    rows = -(-height // -(-height // _rows_of_strip(columns, expand)))
    whole = x.new_empty(1, rows + 2, columns, channels)  # with the batch axis: else its strides hide channels_last
    strip = whole[0]  # its row i holds the region's row top - 1 + i
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        start, stop = 2 if top else 0, bottom - top + 2
        if top:
            strip[:2] = strip[rows:]
        first, last = region.top + top - 1 + start, region.top + bottom + 1
        pixels = _with_zeros(x, Region(first, last, region.left - 1, region.right + 1))
        linear_into(strip[start:stop].flatten(0, 1), pixels.flatten(0, 1), expand)
        z = F.conv2d(whole[:, :stop].permute(0, 3, 1, 2), depthwise, groups=channels)
        yield top, bottom, z[0].permute(1, 2, 0)


def _with_zeros(x: Tensor, region: Region) -> Tensor:
    """Cut a region that may reach beyond the map ``(H, W, C)``, where the values are 0."""
    height, width, channels = x.shape
    top, bottom, left, right = region
    part = x.new_zeros(bottom - top, right - left, channels)
    above, below, before, behind = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    part[above - top : below - top, before - left : behind - left] = x[above:below, before:behind]
    return part


def _rows_of_strip(columns: int, expand: Tensor) -> int:
    return max(STRIP_BYTES // (columns * len(expand) * expand.element_size()), 2)


def gated_strips(strips: Iterable[Strip], weights: Tensor | None = None) -> Iterator[Strip]:
    """Yield ``(top, bottom, w ⊗ (a ⊙ b))`` of strips of [a; b].

    Args:
        strips: ``(top, bottom, z)``, z ``(rows, columns, 2h)``.
        weights: w, ``(H, columns, E)`` or ``(1, 1, E)``: each of E equal groups of the h channels is scaled by its own;
            None for no scaling.
    """
    for top, bottom, z in strips:
        product = torch.mul(*z.chunk(2, -1))
        if weights is not None:
            w = weights if weights.shape[:2] == (1, 1) else weights[top:bottom]
            product.unflatten(-1, (w.shape[-1], -1)).mul_(w.to(product.dtype).unsqueeze(-1))
        yield top, bottom, product


def stream_feed_forward(
    x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor, weights: Tensor | None = None
) -> Tensor:
    """W_out · (w ⊗ (a ⊙ b)), [a; b] = D(W_in · x), in strips: ``(N, H, W, C)`` to the same shape.

    Args:
        x: The normalised map.
        expand: W_in, ``(2h, C)``.
        depthwise: D, ``(2h, 1, 3, 3)``.
        project: W_out, ``(C, h)``.
        weights: w, ``(N, H, W, E)`` or with H = W = 1, see :func:`gated_strips`.
    """
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, expand, depthwise, project = (t.to(dtype) for t in (x, expand, depthwise, project))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for n, picture in enumerate(x):
            strips = expanded_strips(picture, expand, depthwise)
            for top, bottom, product in gated_strips(strips, None if weights is None else weights[n]):
                linear_into(out[n, top:bottom].flatten(0, 1), product.flatten(0, 1), project)
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
