"""The yardstick: a dense transformer of Restormer's size, in the plain formulation of its paper's equations.

Zamir et al., Restormer (CVPR 2022): equation 1 (multi-Dconv head transposed attention), equation 3 (gated-Dconv
feed-forward), figure 2 (the four-level encoder-decoder) and §4 (its widths and depths). Written from those, step by
step, without any of the re-arrangements of ``unirain_plugin.archs``: times of UniRain are quoted as a share of this
network's. Its layers, which map ``(N, C, H, W)`` to the same shape, are the tests' reference of the optimised ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainLayerNorm(nn.Module):
    """LayerNorm over the channels of ``(N, C, H, W)``, from the definition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        rows = x.reshape(n, channels, height * width).transpose(1, 2)
        mean = rows.mean(-1, keepdim=True)
        variance = rows.var(-1, keepdim=True, unbiased=False)
        rows = (rows - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias
        return rows.transpose(1, 2).reshape(n, channels, height, width)


class PlainAttention(nn.Module):
    """Attention across channels (equation 1): softmax(q̂ k̂ᵀ · temperature) v, then a 1×1 convolution."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        q, k, v = self.depthwise(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (t.reshape(n, self.heads, channels // self.heads, height * width) for t in (q, k, v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.project((attention @ v).reshape(n, channels, height, width))


class PlainFeedForward(nn.Module):
    """Gated depth-wise feed-forward (equation 3): W_out (GELU(a) ⊙ b)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.expand(x)).chunk(2, dim=1)
        return self.project(F.gelu(a) * b)


class PlainBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1, self.attention = PlainLayerNorm(channels), PlainAttention(channels, heads)
        self.norm2, self.feed_forward = PlainLayerNorm(channels), PlainFeedForward(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class TextbookNet(nn.Module):
    """The dense network of Restormer's size: 26.1 M parameters, 154.9 G multiply-adds at 3×256×256 (heights and
    widths divisible by 8 only).
    """

    def __init__(
        self,
        dim: int = 48,
        num_blocks: tuple[int, ...] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: tuple[int, ...] = (1, 2, 4, 8),
        expansion: float = 2.66,
    ) -> None:
        super().__init__()
        levels = range(len(num_blocks))
        widths = [dim * 2**level for level in levels]

        def stage(channels: int, level: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(*(PlainBlock(channels, heads[level], expansion) for _ in range(blocks)))

        def conv(channels: int, out: int, size: int) -> nn.Conv2d:
            return nn.Conv2d(channels, out, size, padding=size // 2, bias=False)

        self.embed = conv(3, dim, 3)
        self.encoder = nn.ModuleList(stage(widths[level], level, num_blocks[level]) for level in levels)
        self.down = nn.ModuleList(nn.Sequential(conv(c, c // 2, 3), nn.PixelUnshuffle(2)) for c in widths[:-1])
        self.up = nn.ModuleList(nn.Sequential(conv(2 * c, 4 * c, 3), nn.PixelShuffle(2)) for c in widths[:-1])
        self.reduce = nn.ModuleList(
            nn.Identity() if level == 0 else conv(2 * c, c, 1) for level, c in enumerate(widths[:-1])
        )
        decoded = [2 * dim, *widths[1:-1]]
        self.decoder = nn.ModuleList(stage(c, level, num_blocks[level]) for level, c in enumerate(decoded))
        self.refinement = stage(2 * dim, 0, refinement_blocks)
        self.output = conv(2 * dim, 3, 3)

    def forward(self, lq: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to the same shape."""
        x, skips = self.embed(lq), []
        for level, blocks in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.down[level - 1](x)
            x = blocks(x)
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](self.reduce[level](torch.cat([self.up[level](x), skips.pop()], dim=1)))
        return self.output(self.refinement(x)) + lq
