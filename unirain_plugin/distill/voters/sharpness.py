"""The clean picture as a picture: detail, noise, compression blocks, contrast; with the rainy one as a witness."""

from __future__ import annotations

import cv2
import numpy as np

from unirain_plugin.distill.voters.frame import Frame, block_means, quantile

_LAPLACIAN_OF_NOISE = 3.57
"""Mean absolute Laplacian (4-neighbour) of noise with σ = 1: √20 · √(2/π)."""


def sharpness(frame: Frame) -> dict[str, float]:
    """Measure the clean picture.

    Returns:
        ``gt_noise`` and ``lq_noise``: σ in levels in the calmest blocks; ``gt_blocks`` and ``lq_blocks``: how far the
        steps between the columns and rows of one of the eight phases of a JPEG grid exceed the others;
        ``lost_detail``: log₂ of the rainy picture's fine detail over the clean one's in the half of the blocks
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
