"""Attention across channels in a form that is equal to the plain one and faster.

Tensors are channels-last, ``(N, H, W, C)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unirain_plugin.archs.attend import LEAST_SQUARE, attend, head_products, mixing_matrix
from unirain_plugin.archs.experts import depthwise_3x3
from unirain_plugin.archs.products import is_plain, linear, times_picture_matrix
from unirain_plugin.archs.streaming import can_stream, stream_attention_scores


class ChannelAttention(nn.Module):
    """Attention across channels, as in Restormer's MDTA (Zamir et al., CVPR 2022, eq. 1).

    Two steps differ from the plain formulation, not their result: the c×c scores are divided by the norms of q and k
    instead of normalising q and k; and W_o · A, a C×C matrix a picture, is multiplied once with v instead of A with v
    and then W_o with that.

    Attributes:
        qkv: ``(3C, C)``, 1×1 convolution; rows of q, k, v in this order, each head by head.
        depthwise: ``(3C, 1, 3, 3)``.
        temperature: ``(heads,)``, factor of the cosines before the softmax.
        project: W_o, ``(C, C)``.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads))
        self.qkv = nn.Parameter(torch.empty(3 * channels, channels))
        self.depthwise = nn.Parameter(torch.empty(3 * channels, 1, 3, 3))
        self.project = nn.Parameter(torch.empty(channels, channels))
        for parameter, fan_in in ((self.qkv, channels), (self.depthwise, 9), (self.project, channels)):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, H, W, C)`` to the same shape."""
        if can_stream(x):
            products, squares, v = stream_attention_scores(x, self.qkv, self.depthwise, self.heads)
            return times_picture_matrix(v, self.mixing(products, squares).to(v.dtype)).view(x.shape)
        z = depthwise_3x3(linear(x, self.qkv), self.depthwise).flatten(1, 2)
        if is_plain(z, self.project):
            return attend(z, self.temperature, self.project).view(x.shape)
        qk, v = z.split((2 * x.shape[-1], x.shape[-1]), -1)
        squares = (qk.float() if qk.dtype == torch.float16 else qk).square().sum(1, dtype=torch.float32)
        if qk.dtype == torch.float16:  # a sum over 65,536 pixels would overflow before the division
            qk = (qk / squares.clamp_min(LEAST_SQUARE).sqrt().unsqueeze(1)).half()
            squares = torch.ones_like(squares)
        products = head_products(qk, self.heads).float()
        return times_picture_matrix(v, self.mixing(products, squares).to(v.dtype)).view(x.shape)

    def mixing(self, products: Tensor, squares: Tensor) -> Tensor:
        """:func:`~unirain_plugin.archs.attend.mixing_matrix` with this layer's temperature and W_o."""
        return mixing_matrix(products, squares, self.temperature, self.project)
