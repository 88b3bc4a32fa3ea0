"""The asymmetric mixtures of experts (paper §4): soft in the encoder, hard in the decoder.

Tensors are channels-last, ``(N, H, W, C)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs.dispatch import dispatch_dense, dispatch_images, dispatch_windows, spread_windows
from unirain_plugin.archs.experts import Experts, FeedForward, hidden_width
from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.archs.routing import Router, RoutingRecord, choose_top_k


def pool_windows(x: Tensor, window: int) -> Tensor:
    """Means of the windows of ``(N, H, W, C)``: ``(N, rows, columns, C)`` in float32.

    A window that reaches beyond the map averages the pixels inside the map only.
    """
    x = x.permute(0, 3, 1, 2).float()
    return F.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)


class SoftMoE(nn.Module):
    """y = Σ_i R_i ⊗ E_i(x), R the softmax of a router's logits at every pixel (paper §4, encoder).

    Every expert contributes everywhere with a continuous weight, so no degradation cue is dropped. The router's input
    is open in the paper; ours is the normalised feature of the pixel (or its mean over a window or the picture).
    """

    def __init__(self, channels: int, expansion: float, options: NetworkOptions) -> None:
        super().__init__()
        self.routing, self.window = options.soft_routing, options.window
        self.router = Router(channels, options.num_experts)
        hidden = hidden_width(channels, expansion, options.num_experts)
        self.experts = Experts(channels, hidden, options.num_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, RoutingRecord]:
        """Map ``(N, H, W, C)`` to the same shape, with the record of U = pixels, windows or 1 units a picture."""
        height, width = x.shape[1:3]
        if self.routing == "pixel":
            features = x
        elif self.routing == "window":
            features = pool_windows(x, self.window)
        else:
            features = x.mean((1, 2), keepdim=True, dtype=torch.float32)
        logits = self.router(features)
        probabilities = logits.softmax(-1)
        weights = probabilities
        if self.routing == "window":
            weights = spread_windows(probabilities, self.window, height, width)
        y = self.experts.forward_all(x, weights)
        return y, RoutingRecord(logits.flatten(1, 2), probabilities.flatten(1, 2), None)


class HardMoE(nn.Module):
    """y = Σ_{i in top-k} R_i · E_i(x), only the chosen experts run (paper §4, decoder).

    Routed by picture or by window; the router reads the mean of the normalised features over that unit (our choice).
    """

    def __init__(self, channels: int, expansion: float, options: NetworkOptions) -> None:
        super().__init__()
        self.routing, self.window, self.dispatch = options.hard_routing, options.window, options.dispatch
        self.top_k, self.noise = options.top_k, options.router_noise
        self.router = Router(channels, options.num_experts)
        self.experts = Experts(channels, hidden_width(channels, expansion, options.top_k), options.num_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, RoutingRecord]:
        """Map ``(N, H, W, C)`` to the same shape, with the record of U = windows or 1 units a picture."""
        height, width = x.shape[1:3]
        by_window = self.routing == "window"
        features = pool_windows(x, self.window) if by_window else x.mean((1, 2), keepdim=True, dtype=torch.float32)
        logits = self.router(features).flatten(1, 2)
        noisy = logits
        if self.training and self.noise > 0:
            noisy = logits + self.noise * torch.randn_like(logits)
        chosen, weights, probabilities = choose_top_k(noisy, self.top_k)
        if self.dispatch == "dense" or torch.compiler.is_compiling():
            last = logits.dim() - 1  # OpenCV's dnn module mishandles ONNX's ScatterElements with a negative axis
            mask = torch.zeros_like(logits).scatter(last, chosen, weights).view(*features.shape[:3], -1)
            mask = spread_windows(mask, self.window, height, width) if by_window else mask
            y = dispatch_dense(x, self.experts, mask)
        elif by_window:
            y = dispatch_windows(x, self.experts, chosen, weights, self.window)
        else:
            y = dispatch_images(x, self.experts, chosen, weights)
        return y, RoutingRecord(logits, probabilities, chosen)


def build_feed_forward(kind: str, channels: int, expansion: float, options: NetworkOptions) -> nn.Module:
    """The feed-forward of a block: ``soft``, ``hard`` or ``none``, at equal multiply-adds."""
    if kind == "none":
        return FeedForward(channels, expansion)
    return (SoftMoE if kind == "soft" else HardMoE)(channels, expansion, options)
