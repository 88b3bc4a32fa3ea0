"""Blocks of the network: padding, normalisation, channel attention, transformer block, changes of resolution.

Tensors are channels-last, ``(N, H, W, C)``: 1×1 convolutions are then matrix products without any re-ordering, and
LayerNorm over channels reads contiguous rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs import kernels
from unirain_plugin.archs.kernels import computed_again, depthwise_3x3, is_plain, linear
from unirain_plugin.archs.mixtures import RoutingRecord, build_feed_forward
from unirain_plugin.archs.options import NetworkOptions


def reflect_indices(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices 0 … size-1 continued by reflection without repeating the edge: ``(padded,)``, for any size ≥ 1."""
    index = torch.arange(padded, device=device)
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # no remainder by a symbolic number
        return torch.minimum(index, 2 * (size - 1) - index)  # enough where less is added than the image has
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.minimum(index, period - index) if size > 1 else index


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad ``(N, C, H, W)`` at the bottom and right by reflection until H and W are multiples of ``multiple``."""
    for axis in (2, 3):
        size = x.shape[axis]
        padded = (size + multiple - 1) // multiple * multiple  # of numbers ≥ 0: ONNX divides towards zero
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


class ChannelAttention(nn.Module):
    """Attention across channels, as in Restormer's MDTA (Zamir et al., CVPR 2022, eq. 1).

    The c×c scores are divided by the norms of q and k instead of normalising these; and W_o · A, a C×C matrix an image,
    is multiplied once with v. The result is that of the plain formulation.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads))  # factor of the cosines before the softmax
        self.qkv = nn.Parameter(torch.empty(3 * channels, channels))  # 1×1; rows of q, k, v, each head by head
        self.depthwise = nn.Parameter(torch.empty(3 * channels, 1, 3, 3))
        self.project = nn.Parameter(torch.empty(channels, channels))  # W_o
        for parameter, fan_in in ((self.qkv, channels), (self.depthwise, 9), (self.project, channels)):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, H, W, C)`` to the same shape."""
        if kernels.can_stream(x):
            products, squares, v = kernels.stream_attention(x, self.qkv, self.depthwise, self.heads)
            return kernels.times_image_matrix(v.flatten(1, 2), self.mixing(products, squares).to(v.dtype)).view(x.shape)
        z = depthwise_3x3(linear(x, self.qkv), self.depthwise).flatten(1, 2)
        if is_plain(z, self.project):
            return kernels.attend(z, self.temperature, self.project).view(x.shape)
        qk, v = z.split((2 * x.shape[-1], x.shape[-1]), -1)
        squares = (qk.float() if qk.dtype == torch.float16 else qk).square().sum(1, dtype=torch.float32)
        if qk.dtype == torch.float16:  # a sum over 65,536 pixels would overflow before the division
            qk = (qk / squares.clamp_min(kernels.LEAST_SQUARE).sqrt().unsqueeze(1)).half()
            squares = torch.ones_like(squares)
        mixing = self.mixing(kernels.head_products(qk, self.heads).float(), squares)
        return kernels.times_image_matrix(v, mixing.to(v.dtype)).view(x.shape)

    def mixing(self, products: Tensor, squares: Tensor) -> Tensor:
        return kernels.mixing_matrix(products, squares, self.temperature, self.project)


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
        """Map ``(N, H, W, C)`` to the same shape; the second is the routing record of a mixture."""
        x = x + self._normalised(self.norm1, x, self.attention)
        y, record = self._normalised(self.norm2, x, self.feed_forward)
        return x + y, record

    @staticmethod
    def _normalised(norm: ChannelNorm, x: Tensor, layer: nn.Module) -> object:
        """``layer(norm(x))``; for the backward pass the normalised map is made again."""
        y = norm(x)
        with computed_again(y, lambda: norm(x)):
            return layer(y)


class Downsample(nn.Module):
    """``(N, H, W, C)`` to ``(N, H/2, W/2, 2C)``: 3×3 convolution to C/2 channels, then pixels to channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.conv = Conv3x3(channels, half)
        self.match = None if 4 * half == 2 * channels else nn.Linear(4 * half, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        return x if self.match is None else self.match(x)


class Upsample(nn.Module):
    """``(N, H, W, 2C)`` to ``(N, 2H, 2W, C)``: 3×3 convolution to 4C channels, then channels to pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(2 * channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
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
