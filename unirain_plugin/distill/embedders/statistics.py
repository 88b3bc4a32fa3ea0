"""The default embedder: a deterministic descriptor of light, colour, direction and frequency. No weights, offline."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unirain_plugin.distill.embedders.base import Embedder
from unirain_plugin.distill.rain_cues import rain_cues, shrink
from unirain_plugin.distill.registry import EMBEDDER

_SIDE = 64


@EMBEDDER.register()
class StatisticsEmbedder(Embedder):
    """Four blocks of figures, each about 0 on average and of about unit length, so that cosines spread over −1 … 1:

    * illumination: brightness, dark share, night, luma on a 4×4 grid;
    * colour: means and spreads of the opponent colours, colour noise;
    * direction: energy of thin bright lines for each direction, evidence of streaks, roundness;
    * frequency: contrast in five octave bands.
    """

    registry_name = "statistics"
    batch_size = 4  # nothing is gained by more, and few pictures stay in the processor's cache from part to part

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See the base class; d = 46."""
        return np.stack([_describe(image) for image in images]).astype(np.float32)


def _describe(image: np.ndarray) -> np.ndarray:
    cues = rain_cues(image)
    small = shrink(image, _SIDE).astype(np.float32) / 255
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)
    lines = np.log(cues.lines + 0.05)
    return np.concatenate([
        [1.5 * (2 * cues.night - 1), 2 * (cues.brightness - 0.4), cues.dark - 0.2],
        0.4 * (cv2.resize(luma, (4, 4), interpolation=cv2.INTER_AREA).ravel() - 0.4),
        _colour(small), [0.2 * (np.log(cues.calm + 0.02) + 1.2)],
        0.15 * (lines - lines.mean()),
        [1.5 * (2 * cues.streaks - 1), 2 * (cues.roundness - 0.35)],
        _octaves(luma),
    ])  # fmt: skip


def _colour(small: np.ndarray) -> np.ndarray:
    """Means and standard deviations of red − green and yellow − blue."""
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    first, second = red - green, (red + green) / 2 - blue
    return np.array([first.mean(), second.mean(), first.std() - 0.1, second.std() - 0.1])


def _octaves(luma: np.ndarray) -> np.ndarray:
    """Contrast in octave bands, as shares in log scale around their mean, and the overall contrast."""
    bands, level = [], luma
    for _ in range(4):
        lower = cv2.pyrDown(level)
        bands.append(float((level - cv2.pyrUp(lower, dstsize=level.shape[::-1])).std()))
        level = lower
    bands.append(float(level.std()))
    logs = np.log(np.array(bands) + 0.005)
    return np.concatenate([0.2 * (logs - logs.mean()), [0.2 * (logs.mean() + 3)]])
