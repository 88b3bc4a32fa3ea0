"""Where there is no rain, are the two images equally bright and of equal colour?

For each tone of the clean image the most frequent difference lq − gt (the mode) is that of the pixels without rain,
as long as rain does not hide every pixel. A curve of modes over the tones tells exposure from mist: mist adds
t · (A − tone), lifting the dark and leaving what is as bright as the air, whereas exposure scales and a camera's curve
bends.
"""

import cv2
import numpy as np

from unirain_plugin.distill.voters.frame import Frame

BINS = 6  # tones, of equally many pixels
STRIDE = 4
"""Every fourth pixel in both directions is enough for histograms and, unlike averaging, keeps rain-free pixels pure."""
SMALLEST_BIN = 30
MAX_MIST = 0.35  # opacity up to which an even mist is believed; beyond it the pair is one of fog rather than rain
AIRLIGHT = (90.0, 330.0)  # tones that the light of the air can have; above 255 because a fit over dark tones overshoots
_TRIANGLE = np.array([[1, 2, 3, 2, 1]], np.float32)


def tones(frame: Frame) -> tuple[dict[str, float], np.ndarray]:
    """Measure tone and colour outside the rain.

    Returns:
        Figures: ``tone_shift`` (second largest difference that mist does not explain, in units of 4 levels + 5 % of the
        tone), ``tone_levels`` (the same in levels, with sign), ``mist`` (opacity), ``colour_shift`` (difference
        between the channels, in the same units) and those of :func:`_chroma`. And a table (256,) uint8 that maps the
        clean image's luma to what it is in the rainy one where there is no rain.
    """
    clean, rainy = (np.ascontiguousarray(image[::STRIDE, ::STRIDE]).reshape(-1, 3) for image in (frame.gt, frame.lq))
    luma = frame.gt_luma[0][::STRIDE, ::STRIDE].ravel()
    levels = np.bincount(luma, minlength=256)
    bin_of = np.searchsorted(np.quantile(luma, np.arange(1, BINS) / BINS), np.arange(256), side="right")
    modes, floors = _modes(clean, rainy, bin_of[luma])
    counts = np.bincount(bin_of, weights=levels, minlength=BINS)
    used = counts > SMALLEST_BIN
    levels = np.bincount(bin_of, weights=levels * np.arange(256), minlength=BINS)[used] / counts[used]
    modes = modes[:, used]
    curve = np.sort(modes, axis=0)[1]  # the middle one of the three channels
    mist, explained = _mist(levels, curve)
    unit = 4 + 0.05 * levels
    # Rain so dense that it shows nearly everywhere moves the mode, but leaves many pixels darker than that.
    floor = np.clip(np.sort(floors[:, used], axis=0)[1], 0, np.maximum(curve, 0))
    shift = np.where(curve > 0, np.minimum(curve - explained, floor), curve - explained)
    rest = shift / unit
    worst = int(np.abs(rest).argsort()[-2:][0])  # the second: one tone may be hidden by rain wherever it is
    colour = np.median((np.abs(modes - curve) / unit).max(axis=0))  # of dense rain one tone's mode may be wrong
    figures = {
        "tone_shift": float(abs(rest[worst])),
        "tone_levels": float(shift[worst]),
        "mist": mist,
        "colour_shift": float(colour),
        **_chroma(frame),
    }
    table = np.arange(256) + np.interp(np.arange(256), levels, curve)
    return figures, np.clip(np.round(table), 0, 255).astype(np.uint8)


def _modes(clean: np.ndarray, rainy: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each channel and tone the most frequent difference, and the one that a fifth of the pixels stay below."""
    first = (np.arange(3) * BINS * 511 + 255) + (bins * 511)[:, None]
    index = first + (rainy.astype(np.int16) - clean)
    histogram = np.bincount(index.ravel(), minlength=3 * BINS * 511).reshape(3 * BINS, 511).astype(np.float32)
    smooth = cv2.filter2D(histogram, -1, _TRIANGLE, borderType=cv2.BORDER_CONSTANT)
    below = np.cumsum(histogram, axis=1) >= 0.2 * histogram.sum(axis=1, keepdims=True)
    return tuple((which.argmax(axis=1) - 255).reshape(3, BINS).astype(float) for which in (smooth, below))


def _mist(levels: np.ndarray, curve: np.ndarray) -> tuple[float, np.ndarray]:
    """The opacity of an even mist that explains the curve, and the curve that it makes; 0 if none does."""
    nothing = 0.0, np.zeros_like(curve)
    if len(levels) < 2 or np.ptp(levels) < 8:
        return nothing
    centred = levels - levels.mean()
    slope = float((centred * curve).sum() / (centred * centred).sum())  # the straight line of least squares
    offset = float(curve.mean() - slope * levels.mean())
    if not -MAX_MIST < slope < -0.02 or offset <= 0 or not AIRLIGHT[0] < -offset / slope < AIRLIGHT[1]:
        return nothing
    return -slope, slope * levels + offset


def _chroma(frame: Frame) -> dict[str, float]:
    """Compare the colours at quarter size, where a sensor's colour noise has averaged out.

    Rain has no colour: it fades what is behind it but does not turn its hue.

    Returns:
        ``hue_turn``: degrees by which the hue is turned between the images, 0 where colours are too few or do not
        belong together; ``lq_chroma``, ``gt_chroma``: mean distance from grey, levels.
    """
    planes = [cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for image in (frame.lq, frame.gt)]
    # Red lies at 0, green at 120, blue at 240 degrees.
    rainy, clean = (plane @ np.exp(2j / 3 * np.pi * np.arange(3)).astype(np.complex64) for plane in planes)
    turned, sizes = rainy * clean.conj(), (np.abs(rainy), np.abs(clean))
    weight = np.minimum(*sizes)
    phasor = complex((weight * turned / (np.abs(turned) + 1e-3)).sum()) / (float(weight.sum()) + 1e-3)
    sure = weight.mean() > 1.5 and abs(phasor) > 0.7
    return {
        "hue_turn": float(abs(np.degrees(np.angle(phasor)))) if sure else 0.0,
        "lq_chroma": float(sizes[0].mean()),
        "gt_chroma": float(sizes[1].mean()),
    }
