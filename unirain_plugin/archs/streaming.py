"""Evaluation in strips that stay in the processor's cache.

Every layer here starts with W · x (1×1) and a 3×3 depth-wise convolution D of the result, whose maps are several times
as wide as x: at 256×256 they exceed the cache, and on most systems each is fresh memory that must be mapped first.
Without gradients nobody needs the whole map, so it is made strip by strip. The two rows that neighbouring strips share
are carried over, so nothing is computed twice and the result is that of the whole map: measured, a feed-forward takes
0.35 (48 channels, 256×256) to 0.9 (192 channels, 64×64) of the time. With gradients, on a GPU, and while a graph is
being captured, the whole map is used.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from unirain_plugin.archs.products import linear, linear_into

STRIP_BYTES = 2 * 2**20
"""Bytes of a strip: about the second-level cache of two cores (1 to 4 MiB measured equal)."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of ``x`` are computed in: autocast's type where it is on, else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def can_stream(x: Tensor) -> bool:
    """Whether strips may be used for ``(N, H, W, C)``: on the CPU, without gradients, not while capturing a graph."""
    capturing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    known = compute_dtype(x) in (torch.float32, torch.bfloat16, torch.float64)
    return x.device.type == "cpu" and known and not torch.is_grad_enabled() and not capturing


def expanded_strips(x: Tensor, expand: Tensor, depthwise: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield ``(top, bottom, z)`` with z = D(W · x) of the rows top … bottom-1, ``(rows, W, channels)``.

    Args:
        x: One picture's map ``(H, W, C)``.
        expand: W, ``(channels, C)``, of the same dtype.
        depthwise: D, ``(channels, 1, 3, 3)``, zero padding.
    """
    height, width, inner = x.shape
    channels = expand.shape[0]
    rows = min(max(STRIP_BYTES // (width * channels * x.element_size()), 2), height)
    whole = x.new_empty(1, rows + 2, width, channels)  # with the batch axis: else its strides hide channels_last
    strip = whole[0]  # row i holds the map's row top - 1 + i
    strip[0].zero_()
    done = 0
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        need = min(bottom + 1, height)
        if top:
            strip[:2] = strip[rows:]
        start, stop = done - top + 1, need - top + 1
        if need > done:
            linear_into(strip[start:stop].view(-1, channels), x[done:need].reshape(-1, inner), expand)
        if need == bottom:  # the row below the map
            strip[stop].zero_()
            stop += 1
        done = need
        z = F.conv2d(whole[:, :stop].permute(0, 3, 1, 2), depthwise, padding=(0, 1), groups=channels)
        yield top, bottom, z[0].permute(1, 2, 0)


def stream_feed_forward(
    x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor, weights: Tensor | None = None
) -> Tensor:
    """W_out · (w ⊗ (a ⊙ b)), [a; b] = D(W_in · x), in strips: ``(N, H, W, C)`` to the same shape.

    Args:
        x: The normalised map.
        expand: ``(2h, C)``.
        depthwise: ``(2h, 1, 3, 3)``.
        project: ``(C, h)``.
        weights: w, ``(N, H, W, E)`` or with H = W = 1: each of E equal groups of the h channels is scaled by its own;
            None for no scaling.
    """
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, expand, depthwise, project = (t.to(dtype) for t in (x, expand, depthwise, project))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for n, picture in enumerate(x):
            for top, bottom, z in expanded_strips(picture, expand, depthwise):
                a, b = z.chunk(2, -1)
                product = a * b
                if weights is not None:
                    w = weights[n] if weights.shape[1] == 1 else weights[n, top:bottom]
                    product.unflatten(-1, (w.shape[-1], -1)).mul_(w.to(dtype).unsqueeze(-1))
                strip = out[n, top:bottom]
                linear_into(strip.view(-1, strip.shape[-1]), product.flatten(0, 1), project)
    return out


def feed_forward_of_patch(x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor) -> Tensor:
    """The same for one window with its halo, small enough for the cache: ``(h + 2, w + 2, C)`` to ``(h, w, C)``."""
    z = linear(x.unsqueeze(0), expand)  # with a batch axis, so that the convolution sees channels_last
    z = F.conv2d(z.permute(0, 3, 1, 2), depthwise, groups=expand.shape[0])
    return linear(torch.mul(*z[0].permute(1, 2, 0).chunk(2, -1)), project)


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
