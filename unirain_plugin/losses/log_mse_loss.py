"""The logarithm of each sample's mean squared error: what the PSNR measures, as a loss of BasicSR."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from unirain_plugin.errors import OptionError, did_you_mean

_REDUCTIONS = ("mean", "none", "sum")


@LOSS_REGISTRY.register()
class LogMSELoss(nn.Module):
    r"""ln(1 + MSE / eps) of every sample: a gain of 1 dB counts the same on a hard picture and on an easy one.

    Far above ``eps`` it is −ln(10)/10 · PSNR but for a constant, the loss of Chen et al., "Simple Baselines for Image
    Restoration" (NAFNet, ECCV 2022); far below it is the MSE, so that clean pictures do not outweigh the rest. It is
    never negative, which reweighting by loss ratios needs.

    Args:
        loss_weight: Factor.
        reduction: ``mean``, ``none`` (a value a sample, (N, 1)) or ``sum``.
        eps: Mean squared error at which the loss turns from logarithmic to linear, > 0; 1e-4 is a PSNR of 40 dB.

    Shape:
        pred, target: (N, C, H, W), range [0, 1]; result: a scalar, or (N, 1).

    Raises:
        OptionError: If ``reduction`` is unknown or ``eps`` not positive.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean", eps: float = 1e-4) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            hint = did_you_mean(reduction, _REDUCTIONS)
            raise OptionError(f"LogMSELoss: reduction: found {reduction!r}; expected {' | '.join(_REDUCTIONS)}.{hint}")
        if not eps > 0:
            raise OptionError(f"LogMSELoss: eps: found {eps!r}; expected a number > 0.")
        self.loss_weight, self.reduction, self.eps = loss_weight, reduction, eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare predictions with targets; computed in float32 at least."""
        error = (pred.float() if pred.dtype in (torch.float16, torch.bfloat16) else pred) - target
        losses = self.loss_weight * torch.log1p(error.square().flatten(1).mean(1, keepdim=True) / self.eps)
        return losses if self.reduction == "none" else getattr(losses, self.reduction)()
