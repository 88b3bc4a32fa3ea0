"""The experts: gated depth-wise feed-forwards whose weights are stacked.

An expert is y = W_out · (a ⊙ b), [a; b] = D(W_in · x), with 1×1 convolutions W and a 3×3 depth-wise convolution D:
Restormer's GDFN (Zamir et al., CVPR 2022, eq. 3) with the activation-free gate of NAFNet (Chen et al., ECCV 2022,
§3.3), which costs one product where GELU costs several passes. Without biases, a zero input gives a zero output: the
halo of a routed window at the picture's border is then exactly the zero padding of the whole picture's convolution.

Tensors are channels-last, ``(N, H, W, C)``. E experts, h hidden channels an expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from unirain_plugin.archs.products import is_plain, linear
from unirain_plugin.archs.streaming import can_stream, stream_feed_forward


def hidden_width(channels: int, expansion: float, active: int) -> int:
    """Hidden channels of one expert so that ``active`` of them together have ``expansion · channels``; at least 1."""
    return max(round(channels * expansion / active), 1)


def depthwise_3x3(x: Tensor, weight: Tensor, padding: int = 1) -> Tensor:
    """Depth-wise 3×3 convolution of ``(N, H, W, C)`` by ``(C, 1, 3, 3)``; ``padding`` 0 shrinks each edge by 1."""
    weight = weight.flatten(1).unflatten(1, (1, 3, 3))  # its gradient is then contiguous as it is, as DDP asks
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return torch.mul(*z.chunk(2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        for_z = torch.empty_like(z)
        for half, other in zip(for_z.chunk(2, -1), reversed(z.chunk(2, -1)), strict=True):
            torch.mul(gradient, other, out=half)
        return for_z


def gate(z: Tensor) -> Tensor:
    """The gate a ⊙ b of a and b, the halves of ``(…, 2h)``: ``(…, h)``.

    In float32 on the CPU its own backward pass writes both gradients into their place, where autograd puts two tensors
    together: measured, forward and backward take 0.7 to 0.85 of the time. That pass can be differentiated once only.
    """
    return _Gate.apply(z) if is_plain(z) else torch.mul(*z.chunk(2, -1))


class Experts(nn.Module):
    """``num_experts`` feed-forwards as three stacked parameters, so that every parameter always has a gradient.

    Experts that did not run receive zeros (autograd's own, through ``unbind``), which is what distributed training
    without ``find_unused_parameters`` needs.

    Attributes:
        expand: ``(E, 2h, C)``; rows 0 … h-1 make a, the others b.
        depthwise: ``(E · 2h, 1, 3, 3)``: four axes, which ``Module.to(memory_format=torch.channels_last)`` can take.
        project: ``(E, C, h)``.
    """

    def __init__(self, channels: int, hidden: int, num_experts: int) -> None:
        super().__init__()
        self.channels, self.hidden, self.num_experts = channels, hidden, num_experts
        self.expand = nn.Parameter(torch.empty(num_experts, 2 * hidden, channels))
        self.depthwise = nn.Parameter(torch.empty(num_experts * 2 * hidden, 1, 3, 3))
        self.project = nn.Parameter(torch.empty(num_experts, channels, hidden))
        for parameter, fan_in in ((self.expand, channels), (self.depthwise, 9), (self.project, hidden)):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def unbind(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The weights of each expert; call once a forward, so that the gradient is stacked once."""
        depthwise = self.depthwise.chunk(self.num_experts)
        return list(zip(self.expand.unbind(), depthwise, self.project.unbind(), strict=True))

    def forward_all(self, x: Tensor, weights: Tensor) -> Tensor:
        """All experts, weighted: ``(N, H, W, C)`` and ``(N, H, W, E)`` (or broadcastable) to ``(N, H, W, C)``.

        The experts run as one wide feed-forward. W_out is linear and free of biases, so weighting its input channels
        is the same as weighting each expert's output: Σ_e g_e ⊗ W_e z_e = [W_1 … W_E] [g_1 ⊗ z_1; …; g_E ⊗ z_E].
        """
        experts, hidden = self.num_experts, self.hidden
        expand = self.expand.view(experts, 2, hidden, -1).transpose(0, 1).flatten(0, 2)
        depthwise = self.depthwise.unflatten(0, (experts, 2, hidden)).transpose(0, 1).flatten(0, 2)
        project = self.project.transpose(0, 1).flatten(1)
        if can_stream(x):
            return stream_feed_forward(x, expand, depthwise, project, weights)
        z = gate(depthwise_3x3(linear(x, expand), depthwise))
        z = z.unflatten(-1, (experts, hidden)) * weights.to(z.dtype).unsqueeze(-1)
        return linear(z.flatten(-2), project)


def run_expert(x: Tensor, expert: tuple[Tensor, Tensor, Tensor], padding: int = 1) -> Tensor:
    """One expert on ``(N, H, W, C)``; with ``padding`` 0 the output lacks the input's outermost pixels."""
    expand, depthwise, project = expert
    if padding and can_stream(x):
        return stream_feed_forward(x, expand, depthwise, project)
    return linear(gate(depthwise_3x3(linear(x, expand), depthwise, padding)), project)


class FeedForward(Experts):
    """One dense feed-forward: the layer without a mixture."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__(channels, hidden_width(channels, expansion, 1), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``(N, H, W, C)`` to the same shape; there is no routing to record."""
        return run_expert(x, self.unbind()[0]), None
