"""Attention across channels in a form that is equal to the plain one and faster.

Tensors are channels-last, ``(N, H, W, C)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unirain_plugin.archs.experts import depthwise_3x3
from unirain_plugin.archs.products import linear, times_picture_matrix
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
        q, k, v = depthwise_3x3(linear(x, self.qkv), self.depthwise).flatten(1, 2).chunk(3, -1)
        q_norm, k_norm = self._norm(q), self._norm(k)
        if q.dtype == torch.float16:  # a sum over 65,536 pixels would overflow before the division
            q, k = q / q_norm.flatten(1).unsqueeze(1), k / k_norm.flatten(1).unsqueeze(1)
            q_norm, k_norm = torch.ones_like(q_norm), torch.ones_like(k_norm)
        q, k = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2).to(v.dtype) for t in (q, k))
        products = (q.transpose(2, 3) @ k).float()
        return times_picture_matrix(v, self._mixing(products, q_norm, k_norm).to(v.dtype)).view(x.shape)

    def mixing(self, products: Tensor, squares: Tensor) -> Tensor:
        """The matrix that a picture's v is multiplied with, from sums over its pixels.

        Args:
            products: q kᵀ, ``(N, heads, c, c)`` float32.
            squares: Squared norms of q's and then k's channels, ``(N, 2C)`` float32.

        Returns:
            ``(N, C, C)`` float32: the output is v · it.
        """
        return self._mixing(products, *squares.sqrt().unflatten(-1, (2, self.heads, -1)).unbind(1))

    def _mixing(self, products: Tensor, q_norm: Tensor, k_norm: Tensor) -> Tensor:
        scores = products / (q_norm.unsqueeze(-1) * k_norm.unsqueeze(-2)).clamp_min(1e-12)
        return self._folded((scores * self.temperature.view(-1, 1, 1)).softmax(-1))  # the softmax is in float32

    def _folded(self, attention: Tensor) -> Tensor:
        """(W_o · A)ᵀ, ``(N, C, C)``."""
        project = self.project.unflatten(1, (self.heads, -1)).transpose(0, 1).to(attention.dtype)
        return (project @ attention).transpose(2, 3).flatten(1, 2)

    def _norm(self, t: Tensor) -> Tensor:
        """Norms of the channels over all pixels, ``(N, heads, c)`` in float32.

        Square, sum and root take half of ``vector_norm``'s time. The clamp keeps a channel of zeros differentiable.
        """
        squares = (t.float() if t.dtype == torch.float16 else t).square().sum(1, dtype=torch.float32)
        return squares.clamp_min(1e-24).sqrt().unflatten(-1, (self.heads, -1))
