"""Restoration of large images in overlapping tiles."""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from unirain_plugin.errors import OptionError


def checked_output(output: object) -> Tensor:
    """What a network returned; an OptionError if that is not one tensor, but several as some networks give."""
    if not isinstance(output, Tensor):
        raise OptionError(f"the network returns a {type(output).__name__}; expected one tensor (N, 3, H, W).")
    return output


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis: evenly spread, neighbours share at least ``overlap`` pixels."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (count - 1) for i in range(count)]


def _ramp(length: int, overlap: int, fade_in: bool, fade_out: bool, like: Tensor) -> Tensor:
    """Blending weights along one axis: 0 for the outer quarter of the overlap, then rising linearly to 1.

    So the result is the untiled one for networks whose reach is at most ``overlap / 4``.
    """
    weights = torch.ones(length, device=like.device)
    quarter = overlap // 4
    rise = torch.linspace(0, 1, overlap - 2 * quarter + 2, device=like.device)[1:-1]
    edge = torch.cat([torch.zeros(quarter, device=like.device), rise, torch.ones(quarter, device=like.device)])
    if fade_in:
        weights[:overlap] *= edge
    if fade_out:
        weights[length - overlap :] *= edge.flip(0)
    return weights


def restore_in_tiles(
    restore: Callable[[Tensor], Tensor], image: Tensor, tile: int | tuple[int, int], overlap: int
) -> Tensor:
    """Apply ``restore`` to overlapping tiles of (N, 3, H, W) and blend the results smoothly: (N, 3, s·H, s·W) float32.

    ``restore`` maps (N, 3, h, w) to (N, 3, s·h, s·w) with a whole factor s. A tile's side is ``tile`` pixels (its rows,
    its columns), less only where the image has less; neighbours share at least ``overlap``, at most half of it.
    """
    height, width = image.shape[-2:]
    tile_h, tile_w = map(min, (tile, tile) if isinstance(tile, int) else tile, (height, width))
    total = None
    for top, left in product(tile_starts(height, tile_h, overlap), tile_starts(width, tile_w, overlap)):
        part = restore(image[..., top : top + tile_h, left : left + tile_w]).float()
        scale = part.shape[-1] // tile_w
        if total is None:
            total = part.new_zeros(*part.shape[:-2], height * scale, width * scale)
            weight_sum = part.new_zeros(total.shape[-2:])
        vertical = _ramp(tile_h * scale, overlap * scale, top > 0, top + tile_h < height, part)
        horizontal = _ramp(tile_w * scale, overlap * scale, left > 0, left + tile_w < width, part)
        weights = vertical[:, None] * horizontal
        window = np.s_[..., top * scale : (top + tile_h) * scale, left * scale : (left + tile_w) * scale]
        total[window] += part * weights
        weight_sum[window] += weights
    return total / weight_sum
