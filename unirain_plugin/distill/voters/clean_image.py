"""The clean image as an image, with the rainy one as a witness: detail, noise, compression blocks, contrast, lines.

Straight lines give away a border, and lines of two moments as interlaced video has them.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from unirain_plugin.distill.records import shared_luminance
from unirain_plugin.distill.voters.frame import Frame, block_means, quantile, window

_LAPLACIAN_OF_NOISE = 3.57  # mean absolute Laplacian (4-neighbour) of noise with σ = 1: √20 · √(2/π)


def sharpness(frame: Frame) -> dict[str, float]:
    """Measure the clean image.

    Returns:
        ``gt_noise`` and ``lq_noise``: σ in levels in the calmest blocks; ``gt_blocks`` and ``lq_blocks``: how far the
        steps between the columns and rows of one of the eight phases of a JPEG grid exceed the others;
        ``lost_detail``: log₂ of the rainy image's fine detail over the clean one's in the half of the blocks
        where they differ least at quarter size; ``gt_contrast``: standard deviation in levels.
    """
    lq, gt = frame.lq_luma[0], frame.gt_luma[0]
    rainy, clean = frame.lq_detail, frame.gt_detail
    differ = block_means(cv2.absdiff(frame.lq_luma[2], frame.gt_luma[2]), 2)  # coarse: lost detail is no difference
    rows, columns = (min(p.shape[axis] for p in (clean, differ)) for axis in (0, 1))
    rainy, clean, differ = (p[:rows, :columns] for p in (rainy, clean, differ))
    quiet = differ <= quantile(differ, 0.5)
    calm = quiet & (np.maximum(rainy, clean) > 4)
    lost = np.log2((rainy + 1) / (clean + 1))
    return {
        "gt_noise": quantile(clean, 0.1) / _LAPLACIAN_OF_NOISE,
        "lq_noise": quantile(rainy, 0.1) / _LAPLACIAN_OF_NOISE,
        "gt_blocks": _blockiness(gt),
        "lq_blocks": _blockiness(lq),
        "lost_detail": quantile(lost[calm], 0.5) if np.count_nonzero(calm) > 8 else 0.0,
        "gt_contrast": float(cv2.meanStdDev(np.ascontiguousarray(gt[::2, ::2]))[1][0, 0]),
    }


def _blockiness(plane: np.ndarray) -> float:
    """Excess of the steps at one phase of an 8-pixel grid over the largest of the other phases, relative to them."""
    excess = 0.0
    for axis in (0, 1):
        a, b = (plane[1:], plane[:-1]) if axis == 0 else (plane[:, 1:], plane[:, :-1])
        steps = cv2.reduce(cv2.absdiff(a, b), 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
        phases = np.sort(steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(axis=0))
        excess += (phases[-1] - phases[-2]) / (phases[:-1].mean() + 0.3) / 2
    return float(excess)


_SAMPLES = 256  # pixels of a line that are looked at: enough for a median
PLAIN = 6  # levels by which a border's colour may vary along a line, as coding does
_REACH = 12  # pixels by which lines of two moments are looked for apart


def lines(lq: np.ndarray, gt: np.ndarray) -> dict[str, float]:
    """Measure a pair of whole uint8 RGB images at full resolution: reduced, lines are lost.

    Returns:
        ``border``: levels of the largest straight step along a whole side that only the clean image has;
        ``line_parity``: log₂ of the amounts of difference in odd and even lines, without sign and beyond chance;
        ``weave``: share of the difference between the clean image's odd and even lines that moving them sideways
        removes, beyond the rainy image's (fine textures fit better when moved, too).
    """
    planes = [shared_luminance(image) for image in (lq, gt)]
    rainy, clean = (window(plane) for plane in planes)
    difference = cv2.subtract(rainy, clean, dtype=cv2.CV_32F)
    relief = cv2.absdiff(difference, cv2.blur(difference, (9, 1)))
    rows = cv2.reduce(relief, 1, cv2.REDUCE_AVG).ravel()
    even, odd = rows[: len(rows) // 2 * 2].reshape(-1, 2).T + 0.3
    error = 2 * float((even - odd).std()) / len(even) ** 0.5  # two standard errors: few drops lie on either by chance
    more, less = sorted((float(even.mean()), float(odd.mean())), reverse=True)
    return {
        "border": max(_step(one, other) for one, other in zip(*map(_sides, planes), strict=True)),
        "line_parity": float(np.log2(max(more - error, less) / less)),
        "weave": _weave(clean) - max(0.0, _weave(rainy)),
    }


def _weave(plane: np.ndarray) -> float:
    height = (len(plane) - 1) // 2 * 2
    odd = np.ascontiguousarray(plane[1 : height + 1 : 2, _REACH:-_REACH])
    even = cv2.addWeighted(plane[0:height:2], 0.5, plane[2 : height + 1 : 2], 0.5, 0)
    width = odd.shape[1]
    apart = [cv2.norm(odd, even[:, first : first + width], cv2.NORM_L1) / odd.size for first in range(2 * _REACH + 1)]
    return 1 - min(apart) / (apart[_REACH] + 0.1)


def _sides(plane: np.ndarray) -> Iterator[np.ndarray]:
    """The lines along each side, the outermost first, float32 (lines, pixels)."""
    for turned in (plane, plane[::-1], plane.T, plane.T[::-1]):
        yield turned[: len(turned) // 5 + 1, :: max(1, turned.shape[1] // _SAMPLES)].astype(np.float32)


def _step(rainy: np.ndarray, clean: np.ndarray) -> float:
    """The largest step between neighbouring lines, in the median pixel, beyond the rainy image's and the usual.

    Only where all lines outside it are of one colour: other straight edges of a scene may be hidden by drops.
    """
    spread = np.subtract(*np.quantile(clean, (0.9, 0.1), axis=1))
    plain = np.maximum.accumulate(spread)[:-1] <= PLAIN
    rainy, clean = (np.median(np.abs(np.diff(lines, axis=0)), axis=1) for lines in (rainy, clean))
    return max(0.0, float(np.max((clean - 1.5 * rainy - np.median(clean)) * plain)))
