"""Blocks of the network: normalisation, channel attention, transformer block, changes of resolution.

Tensors are channels-last, ``(N, H, W, C)``: 1×1 convolutions are then matrix products without any re-ordering, and
LayerNorm over channels reads contiguous rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs.attention import ChannelAttention
from unirain_plugin.archs.moe import build_feed_forward
from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.archs.routing import RoutingRecord


class ChannelNorm(nn.Module):
    """LayerNorm over the last axis with gain and offset; statistics in float32 inside, output in the input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(…, C)`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):  # autocast would widen the output to float32 on a GPU
            return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Conv3x3(nn.Module):
    """Dense 3×3 convolution of ``(N, H, W, C)`` without bias, zero padding."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, H, W, in)`` to ``(N, H, W, out)``."""
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=1).permute(0, 2, 3, 1)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); the feed-forward is a mixture or dense."""

    def __init__(self, channels: int, heads: int, kind: str, expansion: float, options: NetworkOptions) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attention = ChannelAttention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.feed_forward = build_feed_forward(kind, channels, expansion, options)

    def forward(self, x: Tensor) -> tuple[Tensor, RoutingRecord | None]:
        """Map ``(N, H, W, C)`` to the same shape, with the routing record of a mixture."""
        x = x + self.attention(self.norm1(x))
        y, record = self.feed_forward(self.norm2(x))
        return x + y, record


class Downsample(nn.Module):
    """``(N, H, W, C)`` to ``(N, H/2, W/2, 2C)``: 3×3 convolution to C/2 channels, then pixels to channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = max(channels // 2, 1)
        self.conv = Conv3x3(channels, self.half)
        self.out = 2 * channels
        self.match = None if 4 * self.half == self.out else nn.Linear(4 * self.half, self.out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of a map with even H and W."""
        x = self.conv(x)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        return x if self.match is None else self.match(x)


class Upsample(nn.Module):
    """``(N, H, W, 2C)`` to ``(N, 2H, 2W, C)``: 3×3 convolution to 4C channels, then channels to pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(2 * channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Double the resolution."""
        x = self.conv(x)
        return x.unflatten(-1, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Fuse(nn.Module):
    """W_1 · skip + W_2 · up: the 1×1 convolution of their concatenation, without making it."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip = nn.Linear(channels, out_channels, bias=False)
        self.up = nn.Linear(channels, out_channels, bias=False)

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Two maps ``(N, H, W, C)`` to ``(N, H, W, out)``."""
        return self.skip(skip) + self.up(up)
