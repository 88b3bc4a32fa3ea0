"""Restoration of one picture at several sizes.

A drop covers as large a part of a picture of 4000 pixels as of one of 400, but a network trained on crops knows rain up
to some size in pixels. A large photograph can therefore be restored shrunk as well: what changes there is enlarged and
blended with what changes at full size, by where either changes more. Detail of the photograph is never resampled, only
the correction is; and how much brighter or darker the whole picture becomes is decided at full size. Our own; not part
of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE_RAIN = (640, 427)
"""Longer edges that serve the weights the package ships."""
SMALLER = 0.75
"""A size is used where it is less than this share of the longer edge: little below full size shows nothing new."""
NEIGHBOURHOOD = 80
"""A neighbourhood, in which corrections are compared, reaches 1 / this of the longer edge to each side."""

CONFIDENCE = 0.95
"""How far the blend goes from the correction at full size towards that from smaller sizes, 0 to 1.

Chosen with the package's weights on their held-out photographs: clean scenery that is taken for rain when shrunk is
damaged 0.4 dB less than with 1, and rendered rain gains as much (shares from 0.85 to 1.05 lie within 0.03 dB).
"""


def used_sizes(sizes: Sequence[int], height: int, width: int) -> list[int]:
    """Those of the sizes at which a picture is restored as well: the ones below 3/4 of its longer edge."""
    return [size for size in sizes if size < SMALLER * max(height, width)]


def restore_at_sizes(restore: Callable[[Tensor], Tensor], image: Tensor, sizes: Sequence[int]) -> Tensor:
    """Blend the correction at full size with the mean of the corrections at smaller sizes.

    y = x + d_f + c - m(c), c = 0.95 · e_s / (e_s + e_f) · (d_s - d_f), with d_f = R(x) - x, d_s the mean over the sizes
    of the enlarged R(shrunk x) - shrunk x, e the mean of d² over a neighbourhood and the channels, m the mean over the
    picture, channel by channel, and 0.95 :data:`CONFIDENCE`.

    Args:
        restore: R, maps ``(1, 3, h, w)`` to the same shape.
        image: x, ``(1, 3, H, W)`` float32 in [0, 1].
        sizes: Longer edges in pixels; those from 3/4 of the picture's on are passed over.

    Returns:
        ``(1, 3, H, W)`` float32, not clamped; R(x) itself where no size is used.
    """
    full = restore(image)
    height, width = image.shape[2:]
    factors = [size / max(height, width) for size in used_sizes(sizes, height, width)]
    if not factors or full.shape != image.shape:  # of another shape: the caller tells
        return full
    fine = full - image
    coarse = torch.zeros_like(image)
    for factor in factors:
        shape = [max(round(edge * factor), 1) for edge in (height, width)]
        small = F.interpolate(image, shape, mode="bilinear", antialias=True)
        coarse += F.interpolate(restore(small) - small, (height, width), mode="bicubic") / len(factors)
    reach = max(height, width) // NEIGHBOURHOOD
    share = _strength(coarse, reach)
    share = share / (share + _strength(fine, reach))
    change = CONFIDENCE * share * (coarse - fine)
    return image + fine + change - change.mean((2, 3), keepdim=True)


def _strength(correction: Tensor, reach: int) -> Tensor:
    """Mean square over the channels and ``reach`` pixels to each side, ``(1, 1, H, W)``; above 0."""
    x = correction.square().mean(1, keepdim=True)
    for kernel, padding in (((1, 2 * reach + 1), (0, reach)), ((2 * reach + 1, 1), (reach, 0))):
        x = F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)
    return x + 1e-9
