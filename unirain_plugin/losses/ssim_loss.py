"""1 − SSIM as a loss of BasicSR."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from basicsr.losses.loss_util import weight_reduce_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from unirain_plugin.errors import DataError, OptionError, did_you_mean

_C1, _C2 = 0.01**2, 0.03**2  # the constants of Wang et al. for a data range of 1
_REDUCTIONS = ("mean", "none", "sum")


def ssim_map(pred: Tensor, target: Tensor, window_size: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity at every position that a whole Gaussian window fits around.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004, equation 13,
    with the window and constants of the paper, per channel: the mean is what BasicSR's ``calculate_ssim`` gives.

    Args:
        pred: Images (N, C, H, W), range [0, 1].
        target: Images, same shape.
        window_size: Side of the Gaussian window in pixels.
        sigma: Its standard deviation in pixels.

    Returns:
        (N, C, H − window_size + 1, W − window_size + 1), range [-1, 1]; float32 at least.

    Raises:
        DataError: If the images are smaller than the window.
    """
    if min(pred.shape[-2:]) < window_size:
        raise DataError(
            f"SSIM: the images are {pred.shape[-2]}×{pred.shape[-1]}; expected {window_size}×{window_size} or more."
        )
    x, y = (v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for v in (pred, target))
    bell = [math.exp(-((offset - (window_size - 1) / 2) ** 2) / (2 * sigma**2)) for offset in range(window_size)]
    kernel = [value / sum(bell) for value in bell]
    planes = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(_blur(planes, kernel, -2), kernel, -1)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = mean_xy - product, mean_xx + mean_yy - squares
    return (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


def _blur(planes: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """Weighted sum of neighbours along an axis, where the kernel fits.

    No convolution: on GPUs since Ampere it may round its input to TF32, and a variance is the small difference of two
    such sums: in float32 their error is 2e-6; with TF32's 10 bits, emulated, a flat patch's SSIM came out at up to ±10.
    """
    length = planes.shape[axis] - len(kernel) + 1
    total = kernel[0] * planes.narrow(axis, 0, length)
    for offset, weight in enumerate(kernel[1:], 1):
        total = torch.add(total, planes.narrow(axis, offset, length), alpha=weight)
    return total


@LOSS_REGISTRY.register()
class SSIMLoss(nn.Module):
    """1 − SSIM; see :func:`ssim_map`.

    Args:
        loss_weight: Factor.
        reduction: ``mean``, ``none`` (the map, smaller than the image by window_size − 1) or ``sum``.
        window_size: Side of the Gaussian window, odd, at least 3.
        sigma: Its standard deviation, above 0.

    Shape:
        pred, target: (N, C, H, W), range [0, 1]; result: a scalar, or the map; each value in [0, 2].

    Raises:
        OptionError: If an option is out of range.
    """

    def __init__(
        self, loss_weight: float = 1.0, reduction: str = "mean", window_size: int = 11, sigma: float = 1.5
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            hint = did_you_mean(reduction, _REDUCTIONS)
            raise OptionError(f"SSIMLoss: reduction: found {reduction!r}; expected {' | '.join(_REDUCTIONS)}.{hint}")
        if isinstance(window_size, bool) or not isinstance(window_size, int) or window_size < 3 or window_size % 2 == 0:
            raise OptionError(f"SSIMLoss: window_size: found {window_size!r}; expected an odd integer, 3 or more.")
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not sigma > 0:
            raise OptionError(f"SSIMLoss: sigma: found {sigma!r}; expected a number above 0.")
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.window_size = window_size
        self.sigma = sigma

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss; of ``weight`` (N, C or 1, H, W) the part under the window centres counts."""
        loss = 1 - ssim_map(pred, target, self.window_size, self.sigma)
        if weight is not None:
            edge = self.window_size // 2
            weight = weight[..., edge:-edge, edge:-edge]
        return self.loss_weight * weight_reduce_loss(loss, weight, self.reduction)
