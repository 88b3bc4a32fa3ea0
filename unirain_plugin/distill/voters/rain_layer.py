"""The rain itself: what is left of lq − gt once tone is set aside, and in which of the two images it lies."""

from typing import NamedTuple

import cv2
import numpy as np

from unirain_plugin.distill.voters.frame import Frame, block_means, quantile

LEAST = 6.0  # smallest difference, levels, that counts as rain
_PEAK = np.ones((7, 7), np.uint8)
_RIM = np.ones((5, 5), np.uint8)


def rain_layer(frame: Frame, table: np.ndarray) -> dict[str, float]:
    """Measure the rain layer of a pair.

    Args:
        frame: The pair.
        table: The clean luma as it is in the rainy image where there is no rain (:func:`.tones.tones`).

    Returns:
        ``noise``: standard deviation, levels, of the difference in the calmer blocks; ``balance``: its weaker over its
        stronger sign in the median block, 0 where all brightens, 1 for noise and lost detail; ``cover``: share of
        pixels with rain; ``strength``: their mean difference; ``peak``: its 99th percentile over all pixels;
        ``brighter``: share of the difference that brightens; ``hard``: share of strong rain pixels that are nearly as
        strong as the strongest within 3 pixels, about 0.4 for soft profiles, towards 1 for lines drawn with one
        colour; ``even``: share of the crests of strong rain that are as strong as usual over the same tone, about
        0.25 for real rain, towards 1 where all drops are equally opaque; ``leftover`` of :func:`_left_over`,
        ``likeness_surety`` of :func:`_likeness_surety`, ``drops_in_gt`` of :func:`_drops_in_gt`, and what
        :func:`_owner` says.
    """
    lq, clean = frame.lq_luma[0], cv2.LUT(frame.gt_luma[0], table)
    more, less = cv2.subtract(lq, clean), cv2.subtract(clean, lq)
    size = cv2.max(more, less)
    # Noise and lost detail have both signs alike; rain that covers a block brightens it and is not taken for either.
    means = [block_means(plane, 8) for plane in (more, less)]
    weaker, stronger = np.minimum(*means), np.maximum(*means)
    differs = stronger > 0.3
    noise = quantile(weaker, 0.3) / 0.4  # a normal deviate's positive part has mean 0.4 σ
    limit = max(LEAST, 4 * noise)
    rain, brighter = (cv2.threshold(plane, limit, 0, cv2.THRESH_TOZERO)[1] for plane in (size, more))
    count, total = cv2.countNonZero(rain), cv2.sumElems(rain)[0]
    peaks = cv2.dilate(size, _PEAK)
    strong = cv2.bitwise_and(cv2.compare(size, limit, cv2.CMP_GT), cv2.compare(peaks, max(2.5 * limit, 20), cv2.CMP_GT))
    strong_count = cv2.countNonZero(strong)
    nearly = cv2.convertScaleAbs(peaks, alpha=0.65, beta=-0.49)  # rounded down: 0.65 is a multiple of 0.05
    hard = cv2.bitwise_and(strong, cv2.compare(size, nearly, cv2.CMP_GT))
    crests = cv2.bitwise_and(cv2.bitwise_and(strong, cv2.compare(size, peaks, cv2.CMP_EQ)), 1)
    where = np.flatnonzero(crests.view(bool))
    toned = [_structure(frame.lq_luma[i], cv2.LUT(frame.gt_luma[i], table)) for i in range(3)]
    return {
        "noise": noise,
        "cover": count / size.size,
        "strength": total / count if count else 0.0,
        "peak": float(np.searchsorted(np.cumsum(cv2.calcHist([size], [0], None, [256], [0, 256])), 0.99 * size.size)),
        "brighter": cv2.sumElems(brighter)[0] / total if count else 0.5,
        "balance": quantile(weaker[differs] / stronger[differs], 0.5) if np.any(differs) else 0.0,
        "even": _evenness(lq.ravel()[where], clean.ravel()[where]),
        "hard": cv2.countNonZero(hard) / strong_count if strong_count > 50 else 0.0,
        "leftover": _left_over(toned[1]),
        "likeness_surety": _likeness_surety(_structure(frame.lq_luma[0], frame.gt_luma[0])),
        **_owner(_structure(frame.lq_luma[1], frame.gt_luma[1]), limit),
        "drops_in_gt": _drops_in_gt(*toned),
    }


def _evenness(rainy: np.ndarray, clean: np.ndarray) -> float:
    """Share of the crests, uint8 (n,) each, whose difference is within 5 % (or 2 levels) of the median at their tone.

    Tones are 16 levels wide. All medians are read off one table of counts, tone by difference.
    """
    if len(rainy) <= 50:
        return 0.0
    place = (clean >> 4).astype(np.int64) * 511 + 255 + rainy - clean
    counts = np.bincount(place, minlength=16 * 511).reshape(16, 511)
    summed = counts.cumsum(axis=1)
    number = summed[:, -1:]
    middles = [(summed > which).argmax(axis=1) - 255 for which in ((number - 1) // 2, number // 2)]
    usual = (sum(middles) / 2)[:, None]
    near = np.abs(np.arange(-255, 256) - usual) <= np.maximum(2, 0.05 * np.abs(usual))
    return int(counts[near].sum()) / len(rainy)


class _Structure(NamedTuple):
    """Gradients of a pair's difference and of its clean image, (H - 1, W - 1) float32 planes."""

    difference: np.ndarray  # r = lq − gt itself, (H, W) float32, levels
    energy: np.ndarray  # |∇r|²
    shared: np.ndarray  # ∇r · ∇gt
    scene: np.ndarray  # |∇gt|²


def _structure(lq: np.ndarray, gt: np.ndarray) -> _Structure:
    scene = gt.astype(np.float32)
    difference = lq - scene
    (dx, dy), (gx, gy) = ((p[:-1, 1:] - p[:-1, :-1], p[1:, :-1] - p[:-1, :-1]) for p in (difference, scene))
    return _Structure(difference, dx * dx + dy * dy, dx * gx + dy * gy, gx * gx + gy * gy)


def _owner(part: _Structure, limit: float) -> dict[str, float]:
    """In which image does the structure of the difference lie?

    Returns:
        ``darker_structure``: share in places where lq is the darker one. Rain streaks brighten: it is near 0 for them;
        drops have dark rims and hide bright parts, up to 0.45. ``only_in_gt``: share in those places where lq has
        hardly any structure, so that it is gt's alone. Noise and motion in lq, or contrast lost in mist, as real rain
        has them, are not.
    """
    total = float(part.energy.sum()) + 50
    dark = cv2.blur(part.difference, (3, 3))[:-1, :-1] < -max(3.0, limit / 2)
    return {
        "darker_structure": float(part.energy[dark].sum()) / total,
        "only_in_gt": float(part.energy[dark & _alone(part, True)].sum()) / total,
    }


def _left_over(part: _Structure) -> float:
    """How much more of the rain's edges than by chance is in gt too, 0 none, towards 1 all.

    At an edge of rain of which gt bears the share α, ∇gt = α / (1 − α) · ∇r: parallel to ∇r and neither 0, as where gt
    is calm under the rain, nor opposite, as where rain hides the scene. A scene whose own gradients have nothing to do
    with the rain is parallel to it (to 26°) in 2 of 7 of the pixels with a positive product.
    """
    strength = np.sqrt(part.energy)
    edges = strength > max(2.0, 3 * quantile(strength, 0.5))
    if np.count_nonzero(edges) < 50:
        return 0.0
    strength, energy, shared = strength[edges], part.energy[edges], part.shared[edges]
    bears = shared > 0.25 * energy
    parallel = bears & (shared > 0.9 * strength * np.sqrt(part.scene[edges]))
    calm = np.abs(shared) <= 0.25 * energy
    calm, bears, parallel = (float(strength[which].sum()) for which in (calm, bears, parallel))
    return (parallel - 0.4 * (bears - parallel)) / (calm + bears + 1e-6)


def _likeness_surety(part: _Structure) -> float:
    """Mean correlation of the gradients of lq − gt and of gt in blocks with rain, over its standard error.

    Where even faint rain is in gt, too, it adds the same sign in every block, the scene's texture does not. 0 where
    four blocks or fewer have rain; the deviation counts 0.03 more, so that few equal blocks are not sure.
    """
    rain, both, scene = (block_means(plane, 16) for plane in part[1:])
    rainy = rain > max(1.0, 0.1 * float(rain.mean()))
    alike = (both[rainy] / np.sqrt((rain[rainy] + 1) * (scene[rainy] + 1))).astype(np.float64)
    return float(alike.mean() / (alike.std() + 0.03) * np.sqrt(len(alike))) if len(alike) > 4 else 0.0


def _drops_in_gt(full: _Structure, half: _Structure, quarter: _Structure) -> float:
    """How much speaks for drops in gt, mostly below 0 without and above 0.1 with them.

    A drop in gt is structure that gt alone has where lq is darker. Scene that a drop in lq hides is gt's alone, too,
    but the rims of what differs are lq's then. So both must speak for gt, and the more of all detail is hidden, the
    less they say (its weight was chosen on rendered drops).
    """
    only_gt, only_lq = (_alone(full, scene) for scene in (True, False))
    hidden = float(full.energy[only_gt].sum())
    hidden /= hidden + float(full.energy[only_lq].sum()) + 50
    smooth = cv2.blur(half.difference, (3, 3))[:-1, :-1]
    differs = cv2.morphologyEx(cv2.compare(np.abs(smooth), 4, cv2.CMP_GT), cv2.MORPH_CLOSE, _RIM)
    rim = cv2.morphologyEx(differs, cv2.MORPH_GRADIENT, _RIM) > 0
    rim &= half.energy > max(9.0, 4 * quantile(half.energy, 0.5))
    of_gt, of_lq = (np.count_nonzero(rim & _alone(half, scene)) for scene in (True, False))
    darker = cv2.blur(quarter.difference, (3, 3))[:-1, :-1] < -3
    share = float(quarter.energy[darker & _alone(quarter, True)].sum()) / (float(quarter.energy.sum()) + 50)
    return (share * of_gt / (of_gt + of_lq + 20)) ** 0.5 - 0.2 * hidden


def _alone(part: _Structure, scene: bool) -> np.ndarray:
    """Where the difference's structure is gt's alone (``scene``) or lq's alone: the other has hardly any there."""
    other = part.energy + 2 * part.shared + part.scene if scene else part.scene  # |∇lq|² or |∇gt|²
    return other < 0.3 * part.energy
