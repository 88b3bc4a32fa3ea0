"""The asymmetric mixtures of experts (paper §4): router, experts, dispatch and the soft and hard mixtures.

Tensors are channels-last, ``(N, H, W, C)``. Shape suffixes: N images, U routed units of an image (pixels, windows row
by row, or 1), E experts, K chosen experts, h hidden channels of an expert.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unirain_plugin.archs import kernels
from unirain_plugin.archs.kernels import can_stream, depthwise_3x3, gated, linear
from unirain_plugin.archs.options import NetworkOptions


class RoutingRecord(NamedTuple):
    """What a mixture decided in one forward pass."""

    logits: Tensor  # (N, U, E) float32
    probabilities: Tensor  # their softmax, of a hard mixture in training with the router's noise
    chosen: Tensor | None  # (N, U, K) int64 expert numbers of a hard mixture

    def share_of_use(self) -> Tensor:
        """``(N, E)``: the share of an image's units that each expert serves; rows sum to 1, no gradient."""
        if self.chosen is None:
            return self.probabilities.detach().mean(1)
        experts = self.logits.shape[-1]
        return F.one_hot(self.chosen, experts).to(self.logits.dtype).mean((1, 2))


class Router(nn.Module):
    """Linear gate, computed in float32 whatever the autocast: in bfloat16 near-ties would be decided by rounding."""

    def __init__(self, channels: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, channels))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, U, C)`` to logits ``(N, U, E)`` in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.weight.float())


def choose_top_k(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose ``top_k`` experts a unit of logits ``(N, U, E)`` float32; exact ties go to the lower expert number.

    Returns their numbers ``(N, U, K)`` int64, weights ``(N, U, K)`` and probabilities ``(N, U, E)``. The weights are
    the softmax probabilities renormalised over the chosen experts. For ``top_k = 1`` that is the constant 1, from which
    no router could learn: the gradient of the probability itself is passed (straight-through; our choice).
    """
    probabilities = logits.softmax(-1)
    if torch.compiler.is_exporting():  # ONNX has no stable sort; its TopK breaks ties the same way
        chosen = logits.topk(top_k, dim=-1).indices
    else:
        chosen = torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., :top_k]
    picked = probabilities.gather(-1, chosen)
    if top_k == 1:
        return chosen, picked - picked.detach() + 1, probabilities  # in this order exactly 1
    return chosen, picked / picked.sum(-1, keepdim=True), probabilities


def load_balance_loss(record: RoutingRecord, share: Tensor | None = None) -> Tensor:
    """E · Σ_e f_e · P_e: 1 when all experts are used evenly, up to E when one serves everything.

    Fedus et al., Switch Transformers (2021), eq. 4 to 6: f_e is the share of units sent to expert e, P_e its mean
    probability. A soft mixture's shares are its probabilities: its loss is E · Σ P². With several ranks P is f, the
    mean over all of them, but a rank has gradients for its own part p only: each computes E · Σ f · (2p − f) with f
    held constant, whose mean over the ranks is E · Σ f² with that square's gradient.

    ``share`` is f, ``(E,)`` without gradient, where it is known over more than this record's images.
    """
    share = record.share_of_use().mean(0) if share is None else share
    probability = record.probabilities.mean((0, 1))
    served = probability if record.chosen is not None else 2 * probability - share
    return len(share) * (share * served).sum()


def z_loss(record: RoutingRecord) -> Tensor:
    """Mean squared log-partition of the logits: keeps them small. Zoph et al., ST-MoE (2022), eq. 5."""
    return record.logits.logsumexp(-1).square().mean()


def auxiliary_losses(records: Mapping[str, RoutingRecord]) -> dict[str, Tensor]:
    """Unweighted scalars ``load_balance`` and ``z_loss``, each the mean over the layers; empty without mixtures.

    In distributed training the shares of use are averaged over all ranks, in one collective for all layers: two images
    a rank say little about balance.
    """
    if not records:
        return {}
    shares = torch.stack([record.share_of_use().mean(0) for record in records.values()])
    if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(shares)
        shares = shares / torch.distributed.get_world_size()
    balance = [load_balance_loss(record, share) for record, share in zip(records.values(), shares, strict=True)]
    logits = [z_loss(record) for record in records.values()]
    return {"load_balance": torch.stack(balance).mean(), "z_loss": torch.stack(logits).mean()}


def hidden_width(channels: int, expansion: float, active: int) -> int:
    """Hidden channels of one expert so that ``active`` of them together have ``expansion · channels``; at least 1."""
    return max(round(channels * expansion / active), 1)


class Experts(nn.Module):
    """``num_experts`` gated feed-forwards as three stacked parameters, so that every parameter always has a gradient.

    An expert is y = W_out · (a ⊙ b), [a; b] = D(W_in · x), with 1×1 convolutions W and a 3×3 depth-wise convolution D:
    Restormer's GDFN (Zamir et al., CVPR 2022, eq. 3) with the activation-free gate of NAFNet (Chen et al., ECCV 2022,
    §3.3). Without biases, the halo of a routed window at the image's border is exactly the whole convolution's zero
    padding. Experts that did not run receive zero gradients (through ``unbind``), as distributed training needs.

    ``expand`` is ``(E, 2h, C)`` (rows 0 … h-1 make a, the others b), ``project`` ``(E, C, h)``, ``depthwise`` ``(E ·
    2h, 1, 3, 3)``: four axes, which ``Module.to(memory_format=torch.channels_last)`` can take.
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

        They run as one wide feed-forward: Σ_e g_e ⊗ W_e z_e = [W_1 … W_E] [g_1 ⊗ z_1; …; g_E ⊗ z_E].
        """
        experts, hidden = self.num_experts, self.hidden
        expand = self.expand.view(experts, 2, hidden, -1).transpose(0, 1).flatten(0, 2)
        depthwise = self.depthwise.unflatten(0, (experts, 2, hidden)).transpose(0, 1).flatten(0, 2)
        project = self.project.transpose(0, 1).flatten(1)
        if can_stream(x):
            return kernels.stream_feed_forward(x, expand, depthwise, project, weights)
        return gated(depthwise_3x3(linear(x, expand), depthwise), project, weights)


def run_expert(
    x: Tensor, expert: tuple[Tensor, Tensor, Tensor], padding: int = 1, weights: Tensor | None = None
) -> Tensor:
    """One expert on ``(N, H, W, C)``; with ``padding`` 0 the output lacks the input's outermost pixels.

    Its output is multiplied with ``weights``, ``(N, H, W, 1)`` or with H = W = 1, where they are given.
    """
    expand, depthwise, project = expert
    if padding and can_stream(x):
        return kernels.stream_feed_forward(x, expand, depthwise, project, weights)
    return gated(depthwise_3x3(linear(x, expand), depthwise, padding), project, weights)


class FeedForward(Experts):
    """One dense feed-forward: the layer without a mixture."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__(channels, hidden_width(channels, expansion, 1), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``(N, H, W, C)`` to the same shape; there is no routing to record."""
        return run_expert(x, self.unbind()[0]), None


def dispatch_images(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor) -> Tensor:
    """Each image by its own experts. Images that share an expert run together."""
    if x.device.type != "cpu":
        return dispatch_gathered(x, experts, chosen[:, 0], weights[:, 0])
    unbound, groups = experts.unbind(), [tuple(row) for row in chosen[:, 0].tolist()]
    if len(set(groups)) == 1:
        return _sum_weighted(x, [unbound[e] for e in groups[0]], weights[:, 0])
    out: list[Tensor | None] = [None] * len(groups)
    for rows in sorted(set(groups)):
        members = [n for n, row in enumerate(groups) if row == rows]
        index = torch.tensor(members)
        y = _sum_weighted(x[index], [unbound[e] for e in rows], weights[index, 0])
        for position, n in enumerate(members):
            out[n] = y[position]
    return torch.stack(out)


def dispatch_gathered(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor, padding: int = 1) -> Tensor:
    """Each of ``(N, H, W, C)`` by its own experts ``(N, K)``, a copy of them each: no host waits for the choice."""
    n, height, width, channels = x.shape
    pixels, total = x.flatten(1, 2), 0.0
    for slot in range(chosen.shape[-1]):
        number = chosen[:, slot]
        expand, project = experts.expand[number], experts.project[number]
        depthwise = experts.depthwise.unflatten(0, (experts.num_experts, -1))[number].flatten(0, 1)
        z = (expand @ pixels.transpose(1, 2)).reshape(1, len(depthwise), height, width)
        z = F.conv2d(z, depthwise, padding=padding, groups=len(depthwise)).view(n, 2, experts.hidden, -1)
        y = (project @ (z[:, 0] * z[:, 1])).transpose(1, 2)
        total = total + y * weights[:, slot, None, None].to(y.dtype)
    return total.reshape(n, height + 2 * padding - 2, width + 2 * padding - 2, channels)


def _sum_weighted(x: Tensor, chosen: list[tuple[Tensor, Tensor, Tensor]], weights: Tensor) -> Tensor:
    """Σ_j w_j · E_j(x) for images with the same experts; ``weights`` is ``(N, K)``."""
    if len(chosen) == 1:  # its weight is 1, but may have a gradient
        expand, depthwise, project = chosen[0]
        if not weights.requires_grad or len(x) > 1:
            return run_expert(x, chosen[0], weights=weights[:, :, None, None] if weights.requires_grad else None)
        return run_expert(x, (expand, depthwise, project * weights.to(project.dtype)))
    total = None
    for j, expert in enumerate(chosen):
        y = run_expert(x, expert)
        w = weights[:, j, None, None, None].to(y.dtype)
        total = y * w if total is None else torch.addcmul(total, y, w)
    return total


def spread_windows(values: Tensor, window: int, height: int, width: int) -> Tensor:
    """Repeat ``(N, rows, columns, E)`` over the pixels of each window: ``(N, H, W, E)``."""
    return values.repeat_interleave(window, 1).repeat_interleave(window, 2)[:, :height, :width]


def dispatch_windows(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor, window: int) -> Tensor:
    """Each window by its own experts ``(N, rows, columns, K)``, exactly.

    Windows (without gradients on the CPU: rectangles of windows that touch and share an expert) are computed with the
    true values of the neighbours' pixels that the 3×3 convolution reads.
    """
    n, height, width, channels = x.shape
    rows, columns = chosen.shape[1:3]
    if can_stream(x):
        return _stream_windows(x, experts, chosen, weights, window)
    padded = F.pad(x, (0, 0, 1, columns * window - width + 1, 1, rows * window - height + 1))
    tiles = padded.unfold(1, window + 2, window).unfold(2, window + 2, window)
    tiles = tiles.permute(0, 1, 2, 4, 5, 3)  # channels last before the gather, which then copies whole rows
    chosen, weights = chosen.flatten(0, 2), weights.flatten(0, 2)
    if x.device.type != "cpu":
        out = dispatch_gathered(tiles.flatten(0, 2), experts, chosen, weights, padding=0)
    else:
        out = _sum_by_expert(tiles, experts, chosen, weights)
    out = out.view(n, rows, columns, window, window, channels).transpose(2, 3)
    return out.reshape(n, rows * window, columns * window, channels)[:, :height, :width]


def _sum_by_expert(tiles: Tensor, experts: Experts, chosen: Tensor, weights: Tensor) -> Tensor:
    """Tiles ``(N, rows, columns, …)`` on the CPU: expert after expert, each on its own only."""
    out = None
    for number, expert in enumerate(experts.unbind()):
        unit, slot = (chosen == number).nonzero(as_tuple=True)
        if unit.numel() == 0:
            continue
        y = run_expert(tiles[torch.unravel_index(unit, tiles.shape[:3])], expert, padding=0)
        if chosen.shape[1] > 1 or weights.requires_grad:
            y = y * weights[unit, slot, None, None, None].to(y.dtype)
        out = y.new_zeros(len(chosen), *y.shape[1:]) if out is None else out
        out = out.index_add(0, unit, y)
    return out


def _stream_windows(x: Tensor, experts: Experts, chosen: Tensor, weights: Tensor, window: int) -> Tensor:
    """Expert after expert; its windows that touch run as one rectangle, in strips that fit the cache."""
    dtype, (height, width) = kernels.compute_dtype(x), x.shape[1:3]
    single = chosen.shape[-1] == 1  # the weight of a single expert is 1, and nothing is added up
    out = (torch.empty_like if single else torch.zeros_like)(x, dtype=dtype, memory_format=torch.contiguous_format)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(dtype)
        for number, expert in enumerate(experts.unbind()):
            expand, depthwise, project = (t.to(dtype) for t in expert)
            here = chosen == number
            shares = None if single else spread_windows((weights * here).sum(-1, keepdim=True), window, height, width)
            for i, grid in enumerate(here.any(-1).tolist()):
                for region in _rectangles(grid, window, height, width):
                    strips = kernels.expanded_strips(x[i], expand, depthwise, region)
                    for place, product in kernels.gated_strips(strips, None if single else shares[i]):
                        y = linear(product, project)
                        out[i][place].copy_(y) if single else out[i][place].add_(y)
    return out


def _rectangles(grid: list[list[bool]], window: int, height: int, width: int) -> Iterator[kernels.Place]:
    """Cover the marked windows by rectangles that do not overlap, as wide and then as high as they go."""
    marked = [(row, column) for row, marks in enumerate(grid) for column, mark in enumerate(marks) if mark]
    open_cells = set(marked)
    for row, column in marked:
        if (row, column) not in open_cells:
            continue
        right, bottom = column, row
        while (row, right) in open_cells:
            right += 1
        while all((bottom, c) in open_cells for c in range(column, right)):
            open_cells.difference_update((bottom, c) for c in range(column, right))
            bottom += 1
        top, left = row * window, column * window
        yield slice(top, min(bottom * window, height)), slice(left, min(right * window, width))


def pool_windows(x: Tensor, window: int) -> Tensor:
    """Means of the windows of ``(N, H, W, C)``, over their pixels inside the map: ``(N, rows, columns, C)`` float32."""
    x = x.permute(0, 3, 1, 2).float()
    return F.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)


def routed_features(x: Tensor, routing: str, window: int) -> Tensor:
    """What a router reads of ``(N, H, W, C)``: its pixels, or the means of its windows or of the whole in float32."""
    if routing == "pixel":
        return x
    return pool_windows(x, window) if routing == "window" else x.mean((1, 2), keepdim=True, dtype=torch.float32)


class SoftMoE(nn.Module):
    """y = Σ_i R_i ⊗ E_i(x), R the softmax of a router's logits at every pixel (paper §4, encoder).

    The router's input is open in the paper; ours is the normalised feature of the pixel (or its mean over a window or
    the image).
    """

    def __init__(self, channels: int, expansion: float, options: NetworkOptions) -> None:
        super().__init__()
        self.routing, self.window = options.soft_routing, options.window
        self.router = Router(channels, options.num_experts)
        hidden = hidden_width(channels, expansion, options.num_experts)
        self.experts = Experts(channels, hidden, options.num_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, RoutingRecord]:
        """Map ``(N, H, W, C)`` to the same shape, with the record of U = pixels, windows or 1 units an image."""
        height, width = x.shape[1:3]
        logits = self.router(routed_features(x, self.routing, self.window))
        probabilities = weights = logits.softmax(-1)
        if self.routing == "window":
            weights = spread_windows(probabilities, self.window, height, width)
        record = RoutingRecord(logits.flatten(1, 2), probabilities.flatten(1, 2), None)
        return self.experts.forward_all(x, weights), record


class HardMoE(nn.Module):
    """y = Σ_{i in top-k} R_i · E_i(x), only the chosen experts run (paper §4, decoder).

    The router reads the mean of the normalised features over the image or window that is routed (our choice).
    """

    def __init__(self, channels: int, expansion: float, options: NetworkOptions) -> None:
        super().__init__()
        self.routing, self.window, self.dispatch = options.hard_routing, options.window, options.dispatch
        self.top_k, self.noise = options.top_k, options.router_noise
        self.router = Router(channels, options.num_experts)
        self.experts = Experts(channels, hidden_width(channels, expansion, options.top_k), options.num_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, RoutingRecord]:
        """Map ``(N, H, W, C)`` to the same shape, with the record of U = windows or 1 units an image."""
        height, width = x.shape[1:3]
        by_window = self.routing == "window"
        scores = self.router(routed_features(x, self.routing, self.window))
        logits = scores.flatten(1, 2)
        noisy = logits + self.noise * torch.randn_like(logits) if self.training and self.noise > 0 else logits
        chosen, weights, probabilities = choose_top_k(noisy, self.top_k)
        if self.dispatch == "dense" or torch.compiler.is_compiling():
            last = logits.dim() - 1  # OpenCV's dnn module mishandles ONNX's ScatterElements with a negative axis
            mask = torch.zeros_like(logits).scatter(last, chosen, weights).view_as(scores)
            mask = spread_windows(mask, self.window, height, width) if by_window else mask
            results = (run_expert(x, expert) for expert in self.experts.unbind())  # all experts on everything
            y = sum(result * mask[..., number, None].to(result.dtype) for number, result in enumerate(results))
        elif by_window:
            grids = (t.unflatten(1, scores.shape[1:3]) for t in (chosen, weights))
            y = dispatch_windows(x, self.experts, *grids, self.window)
        else:
            y = dispatch_images(x, self.experts, chosen, weights)
        return y, RoutingRecord(logits, probabilities, chosen)


def build_feed_forward(kind: str, channels: int, expansion: float, options: NetworkOptions) -> nn.Module:
    """The feed-forward of a block: ``soft``, ``hard`` or ``none``, at equal multiply-adds."""
    if kind == "none":
        return FeedForward(channels, expansion)
    return (SoftMoE if kind == "soft" else HardMoE)(channels, expansion, options)
