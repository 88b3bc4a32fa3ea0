"""Pixel losses, registered in BasicSR: L1 between Fourier spectra, the logarithm of the MSE, and 1 − SSIM."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from basicsr.losses.loss_util import weight_reduce_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.support.spec import Rule, above, complaint


def at_least_float32(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    """Half-precision tensors in float32, others (and None) as they are."""
    for x in tensors:
        yield x.float() if x is not None and x.dtype in (torch.float16, torch.bfloat16) else x


class _PixelLoss(nn.Module):
    """All have ``loss_weight``, a factor, and ``reduction``: ``mean``, ``none`` or ``sum`` (else an OptionError)."""

    def __init__(self, loss_weight: float, reduction: str) -> None:
        super().__init__()
        self._check("reduction", reduction, Literal["mean", "none", "sum"])
        self.loss_weight, self.reduction = loss_weight, reduction

    def _check(self, name: str, value: object, kind: object) -> None:
        if text := complaint(value, kind):
            raise OptionError(f"{type(self).__name__}: {name}: {text}")


def frequency_l1_map(pred: Tensor, target: Tensor, weight: Tensor | None = None, norm: str = "ortho") -> Tensor:
    r"""(|Re D| + |Im D|) / 2 with D the 2-D discrete Fourier transform of pred − target, for every frequency.

    Its mean is the "frequency reconstruction" loss of Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image
    Deblurring" (MIMO-UNet, ICCV 2021, equation 7). Per-pixel weights multiply the difference before the transform.

    Images are (N, C, H, W) of any range, weights (N, C or 1, H, W); ``norm`` is the transform's scaling, as in
    ``torch.fft.fft2``. The map is (N, C, H, W), the frequency (0, 0) first; float32 at least.
    """
    pred, target = at_least_float32(pred, target)
    difference = pred - target if weight is None else (pred - target) * weight
    spectrum = torch.view_as_real(torch.fft.fft2(difference, norm=norm))
    return spectrum.abs().mean(-1)


@LOSS_REGISTRY.register()
class FrequencyL1Loss(_PixelLoss):
    """Mean absolute difference of real and imaginary parts of the spectra; see :func:`frequency_l1_map`.

    Images are (N, C, H, W), range [0, 1]; the result is a scalar, or with reduction ``none`` as large as they are.
    ``norm`` is ``ortho`` (our choice: the value then does not grow with the crop and is of the size of a pixel L1),
    ``backward`` (unscaled, as in MIMO-UNet, which weights it by 0.1) or ``forward``.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean", norm: str = "ortho") -> None:
        super().__init__(loss_weight, reduction)
        self._check("norm", norm, Literal["ortho", "backward", "forward"])
        self.norm = norm

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss; with ``weight`` (N, C or 1, H, W), ``mean`` divides by the weights' mean."""
        loss = frequency_l1_map(pred, target, weight, self.norm)
        if self.reduction == "sum":
            loss = loss.sum()
        elif self.reduction == "mean":
            loss = loss.mean() if weight is None else loss.mean() / weight.mean()
        return self.loss_weight * loss


@LOSS_REGISTRY.register()
class LogMSELoss(_PixelLoss):
    r"""ln(1 + MSE / eps) of every sample: a gain of 1 dB counts the same on a hard image and on an easy one.

    Far above ``eps`` it is −ln(10)/10 · PSNR but for a constant, the loss of Chen et al., "Simple Baselines for Image
    Restoration" (NAFNet, ECCV 2022); far below it is the MSE, so that clean images do not outweigh the rest. It is
    never negative, which reweighting by loss ratios needs.

    Images are (N, C, H, W), range [0, 1]; the result is a scalar, or with reduction ``none`` (N, 1). ``eps`` > 0 is the
    mean squared error at which the loss turns from logarithmic to linear; 1e-4 is a PSNR of 40 dB.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean", eps: float = 1e-4) -> None:
        super().__init__(loss_weight, reduction)
        self._check("eps", eps, Annotated[float, above(0)])
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare predictions with targets; computed in float32 at least."""
        pred, target = at_least_float32(pred, target)
        error = pred - target
        losses = self.loss_weight * torch.log1p(error.square().flatten(1).mean(1, keepdim=True) / self.eps)
        return losses if self.reduction == "none" else getattr(losses, self.reduction)()


_C1, _C2 = 0.01**2, 0.03**2  # the constants of Wang et al. for a data range of 1


def ssim_map(pred: Tensor, target: Tensor, window_size: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity at every position that a whole Gaussian window fits around.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004, equation 13,
    with the window and constants of the paper, per channel: the mean is what BasicSR's ``calculate_ssim`` gives.

    Images are (N, C, H, W) of range [0, 1]; the window's side and standard deviation are pixels. The map is (N, C, H −
    window_size + 1, W − window_size + 1), range [-1, 1]; float32 at least. A DataError if the images are smaller than
    the window.
    """
    if min(pred.shape[-2:]) < window_size:
        found = f"{pred.shape[-2]}×{pred.shape[-1]}"
        raise DataError(f"SSIM: the images are {found}; expected {window_size}×{window_size} or more.")
    x, y = at_least_float32(pred, target)
    bell = [math.exp(-((offset - (window_size - 1) / 2) ** 2) / (2 * sigma**2)) for offset in range(window_size)]
    kernel = [value / sum(bell) for value in bell]
    planes = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(_blur(planes, kernel, -2), kernel, -1)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = mean_xy - product, mean_xx + mean_yy - squares
    return (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


def _blur(planes: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """Weighted sum of neighbours along an axis, where the kernel fits.

    No convolution: GPUs since Ampere may round its input to TF32, by which a flat patch's SSIM came out at up to ±10.
    """
    length = planes.shape[axis] - len(kernel) + 1
    total = kernel[0] * planes.narrow(axis, 0, length)
    for offset, weight in enumerate(kernel[1:], 1):
        total = torch.add(total, planes.narrow(axis, offset, length), alpha=weight)
    return total


@LOSS_REGISTRY.register()
class SSIMLoss(_PixelLoss):
    """1 − SSIM of images (N, C, H, W), range [0, 1]; see :func:`ssim_map`.

    A scalar, or with reduction ``none`` the map in [0, 2]. The Gaussian window's side is odd, at least 3, its σ above
    0.
    """

    def __init__(
        self, loss_weight: float = 1.0, reduction: str = "mean", window_size: int = 11, sigma: float = 1.5
    ) -> None:
        super().__init__(loss_weight, reduction)
        odd = Rule(holds=lambda size: size >= 3 and size % 2 == 1, kind="an odd integer, 3 or more")
        self._check("window_size", window_size, Annotated[int, odd])
        self._check("sigma", sigma, Annotated[float, above(0)])
        self.window_size, self.sigma = window_size, sigma

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss; of ``weight`` (N, C or 1, H, W) the part under the window centres counts."""
        loss = 1 - ssim_map(pred, target, self.window_size, self.sigma)
        if weight is not None:
            edge = self.window_size // 2
            weight = weight[..., edge:-edge, edge:-edge]
        return self.loss_weight * weight_reduce_loss(loss, weight, self.reduction)
