"""Do the two images lie on each other? Shifts of the whole and of its quarters, and agreement of structure.

The rainy and the clean image are compared by their high-passed luma, so that neither exposure nor mist counts, with
the mean absolute difference, which rain raises by the same amount at every shift (it is not part of the clean
image) while the scene's own edges fall into place at one only.
"""

from itertools import product

import cv2
import numpy as np

from unirain_plugin.distill.voters.frame import Frame, block_means, high_pass, quantile

COARSE_REACH = 4  # shifts searched at the coarsest level, pixels of that level: ±32 pixels of the image
SMALLEST_TILE = 16  # side of a tile at its coarsest level, pixels; below it too little is left to match


def registration(frame: Frame) -> dict[str, float]:
    """Measure how the images lie on each other.

    Returns:
        ``shift``: length of the best shift of the whole, pixels of the file, sub-pixel; ``shift_gain``: share of the
        difference that this shift removes; ``tile_gain``: the same for the second best of the four quarters, each
        with a shift of its own (0 where a quarter lies best as it is); ``agreement``: how much of the clean
        structure is seen in the rainy image, 1 all, 0 none.
    """
    lq = [_relief(plane) for plane in frame.lq_luma]
    gt = [_relief(plane) for plane in frame.gt_luma]
    height, width = lq[0].shape
    dx, dy, gain = _best_shift(lq, gt, (0, height, 0, width))
    shift = frame.factor * _sub_pixel(lq[0], gt[0], dx, dy) if (dx, dy) != (0, 0) else 0.0
    gains = []
    for top, left in product((0, height // 2), (0, width // 2)):
        box = (top // 8 * 8, (top + height // 2) // 8 * 8, left // 8 * 8, (left + width // 2) // 8 * 8)
        gains.append(_best_shift(lq, gt, box)[2])
    return {"shift": shift, "shift_gain": gain, "tile_gain": sorted(gains)[-2], "agreement": _agreement(frame)}


def _relief(plane: np.ndarray) -> np.ndarray:
    """A plane without its local mean, as uint8 around 128: quick to compare."""
    return cv2.addWeighted(plane, 1, cv2.blur(plane, (9, 9)), -1, 128)


def _differences(a: np.ndarray, b: np.ndarray, shifts: list[tuple[int, int]], margin: int) -> list[float]:
    """Mean absolute differences of ``a`` and of ``b`` moved by each (dx, dy), a margin left out on all sides."""
    height, width = (side - 2 * margin for side in a.shape)
    inner = a[margin : margin + height, margin : margin + width]
    corners = [(margin + dx, margin + dy) for dx, dy in shifts]
    return [cv2.norm(inner, b[y : y + height, x : x + width], cv2.NORM_L1) / inner.size for x, y in corners]


def _best_shift(lq: list[np.ndarray], gt: list[np.ndarray], box: tuple[int, int, int, int]) -> tuple[int, int, float]:
    """Coarse-to-fine search inside a box (top, bottom, left, right); returns the shift and the share it removes.

    The coarsest level looks at all shifts of up to :data:`COARSE_REACH` pixels at once, by squared differences.
    """
    dx = dy = 0
    side = min(box[1] - box[0], box[3] - box[2])
    top_level = max(level for level in range(len(lq)) if level == 0 or side >> level >= SMALLEST_TILE)
    for level in range(top_level, -1, -1):
        a, b = (p[level][box[0] >> level : box[1] >> level, box[2] >> level : box[3] >> level] for p in (lq, gt))
        if level == top_level:
            reach = min(COARSE_REACH, min(a.shape) // 4)
            inner = a[reach : a.shape[0] - reach, reach : a.shape[1] - reach]
            _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(b, inner, cv2.TM_SQDIFF))
            dx, dy = x - reach, y - reach
            continue
        dx, dy = still = 2 * dx, 2 * dy
        margin = _margin(a, dx, dy)
        near = ((dx + x, dy + y) for y in (-1, 0, 1) for x in (-1, 0, 1))
        shifts = [(x, y) for x, y in near if max(abs(x), abs(y)) <= margin]
        found = _differences(a, b, shifts, margin)  # the middle comes first, so that it wins where nothing is gained
        _, _, (dx, dy) = min((found[i], shift != still, shift) for i, shift in enumerate(shifts))
    margin = _margin(a, dx, dy)
    if _likeness(a, b, dx, dy, margin) <= _likeness(a, b, 0, 0, margin):
        return 0, 0, 0.0
    before, after = _differences(a, b, [(0, 0), (dx, dy)], margin)
    return dx, dy, 1 - after / (before + 0.1)  # 0.1: in a plane without structure nothing can be gained


def _likeness(a: np.ndarray, b: np.ndarray, dx: int, dy: int, margin: int) -> float:
    """How well ``b`` moved by (dx, dy) explains ``a``. (Structure that leaves the plane takes its difference along.)"""
    height, width = (side - 2 * margin for side in a.shape)
    moved = b[margin + dy : margin + dy + height, margin + dx : margin + dx + width].astype(np.float32) - 128
    inner = a[margin : margin + height, margin : margin + width].astype(np.float32) - 128
    return float((inner * moved).sum()) / np.sqrt(float((moved * moved).sum()) + 1)


def _margin(plane: np.ndarray, dx: int, dy: int) -> int:
    return min(max(abs(dx), abs(dy)) + 1, min(plane.shape) // 3)


def _sub_pixel(a: np.ndarray, b: np.ndarray, dx: int, dy: int) -> float:
    """Length of the shift, refined by parabolas through the squared differences around (dx, dy)."""
    margin = _margin(a, dx, dy)

    def squared(x: int, y: int) -> float:
        return _differences(a, b, [(x, y)], margin)[0] ** 2

    def offset(low: float, middle: float, high: float) -> float:
        curvature = low - 2 * middle + high
        return float(np.clip((low - high) / (2 * curvature), -0.5, 0.5)) if curvature > 0 else 0.0

    if max(abs(dx), abs(dy)) >= margin:
        return float(np.hypot(dx, dy))
    middle = squared(dx, dy)
    fine_x = dx + offset(squared(dx - 1, dy), middle, squared(dx + 1, dy))
    fine_y = dy + offset(squared(dx, dy - 1), middle, squared(dx, dy + 1))
    return float(np.hypot(fine_x, fine_y))


def _agreement(frame: Frame) -> float:
    """The larger of two views at quarter size, where rain has mostly averaged out and 4 pixels of shift still agree.

    The regression of the rainy on the clean structure, which added rain leaves at 1; and the correlation in the best
    of the textured blocks, which rain that covers much leaves high where it is not. Another scene has neither.
    """
    lq, gt = high_pass(frame.lq_luma[2]), high_pass(frame.gt_luma[2])
    both, rainy, clean = (block_means(plane, 12) for plane in (lq * gt, lq * lq, gt * gt))
    slope = float(both.sum() / (clean.sum() + 1))
    textured = clean >= quantile(clean, 0.5)
    correlation = (both / np.sqrt((rainy + 4) * (clean + 4)))[textured]
    return max(min(slope, 1.0), quantile(correlation, 0.85))
