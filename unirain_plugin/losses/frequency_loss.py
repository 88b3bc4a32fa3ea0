"""L1 between Fourier spectra, as a loss of BasicSR."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from unirain_plugin.errors import OptionError, did_you_mean

_NORMS = ("ortho", "backward", "forward")
_REDUCTIONS = ("mean", "none", "sum")


def frequency_l1_map(pred: Tensor, target: Tensor, weight: Tensor | None = None, norm: str = "ortho") -> Tensor:
    r"""(|Re D| + |Im D|) / 2 with D the 2-D discrete Fourier transform of pred − target, for every frequency.

    The mean over it is the L1 distance between the spectra with real and imaginary parts stacked, the "frequency
    reconstruction" loss of Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring" (MIMO-UNet,
    ICCV 2021, equation 7). A transform is linear, so per-pixel weights multiply the difference before it.

    Args:
        pred: Images (N, C, H, W), any range.
        target: Images, same shape.
        weight: Per-pixel weights (N, C or 1, H, W) or None.
        norm: Scaling of the transform, as in ``torch.fft.fft2``.

    Returns:
        (N, C, H, W), the frequency (0, 0) first; float32 at least.
    """
    pred, target = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (pred, target))
    difference = pred - target if weight is None else (pred - target) * weight
    spectrum = torch.view_as_real(torch.fft.fft2(difference, norm=norm))
    return spectrum.abs().mean(-1)


@LOSS_REGISTRY.register()
class FrequencyL1Loss(nn.Module):
    """Mean absolute difference of real and imaginary parts of the spectra; see :func:`frequency_l1_map`.

    Args:
        loss_weight: Factor.
        reduction: ``mean``, ``none`` (a map as large as the image) or ``sum``.
        norm: ``ortho`` (default, our choice: the value then does not grow with the crop and is of the size of a pixel
            L1), ``backward`` (unscaled, as in MIMO-UNet, which weights it by 0.1) or ``forward``.

    Shape:
        pred, target: (N, C, H, W), range [0, 1]; result: a scalar, or (N, C, H, W).

    Raises:
        OptionError: If ``reduction`` or ``norm`` is unknown.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean", norm: str = "ortho") -> None:
        super().__init__()
        for name, value, choices in (("reduction", reduction, _REDUCTIONS), ("norm", norm, _NORMS)):
            if value not in choices:
                hint = did_you_mean(value, choices)
                raise OptionError(f"FrequencyL1Loss: {name}: found {value!r}; expected {' | '.join(choices)}.{hint}")
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.norm = norm

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss; with ``weight`` (N, C or 1, H, W), ``mean`` divides by the weights' mean."""
        loss = frequency_l1_map(pred, target, weight, self.norm)
        if self.reduction == "sum":
            loss = loss.sum()
        elif self.reduction == "mean":
            loss = loss.mean() if weight is None else loss.mean() / weight.mean()
        return self.loss_weight * loss
