"""Routers of the mixtures, what they record, and the auxiliary losses computed from the records.

Shape suffixes: N pictures, U routed units of a picture (pixels, windows or 1), E experts, K chosen experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RoutingRecord(NamedTuple):
    """What a mixture decided in one forward pass.

    Attributes:
        logits: ``(N, U, E)`` float32 router outputs.
        probabilities: ``(N, U, E)`` softmax of the logits, of a hard mixture in training with the router's noise.
        chosen: ``(N, U, K)`` int64 expert numbers of a hard mixture; None for a soft one.
    """

    logits: Tensor
    probabilities: Tensor
    chosen: Tensor | None

    def share_of_use(self) -> Tensor:
        """``(N, E)``: the share of a picture's units that each expert serves; rows sum to 1, no gradient."""
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
    """Choose ``top_k`` experts a unit and give their combination weights.

    The weights are the softmax probabilities renormalised over the chosen experts. For ``top_k = 1`` that is the
    constant 1, from which no router could learn; the value stays 1 but the gradient of the probability itself is
    passed (straight-through; our choice, the paper is silent). Exact ties go to the lower expert number. Logits that
    differ by less than float32 rounding (about 1e-6) can be decided otherwise when a batch makes the library pick
    another kernel; nothing else ties a picture's result to its batch.

    Args:
        logits: ``(N, U, E)`` float32.
        top_k: 1 to E.

    Returns:
        chosen ``(N, U, K)`` int64, weights ``(N, U, K)`` that sum to 1 over K, probabilities ``(N, U, E)``.
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
    probability. A soft mixture sends every unit everywhere, so there f = P (our choice).

    Args:
        record: What the mixture decided.
        share: f, ``(E,)`` without gradient, where it is known over more than this record's pictures. A soft mixture's
            E · Σ f² then comes as f · (2P − f), whose mean over the ranks has that value and gradient.
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

    In distributed training the experts' shares of use are averaged over all ranks, because two pictures a rank say
    little about balance: one collective for all layers.
    """
    if not records:
        return {}
    shares = torch.stack([record.share_of_use().mean(0) for record in records.values()])
    if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(shares)
        shares = shares / torch.distributed.get_world_size()
    balance = [load_balance_loss(record, share) for record, share in zip(records.values(), shares, strict=True)]
    return {
        "load_balance": torch.stack(balance).mean(),
        "z_loss": torch.stack([z_loss(record) for record in records.values()]).mean(),
    }
