"""Which pictures a figure shows, and which part of them it zooms into."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unirain_plugin.compare.figures import absolute_error
from unirain_plugin.compare.results import INPUT, Comparison, ImageResult
from unirain_plugin.errors import OptionError, did_you_mean

_PLACE = re.compile(r"@(\d+),(\d+)$")


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The part of ``image`` (H, W, C)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def most_different_box(image: np.ndarray, target: np.ndarray, edge: int) -> Box:
    """The square in which two pictures differ most (mean absolute error): where there was most to restore.

    Args:
        image: 8-bit picture (H, W, 3).
        target: Another of the same shape.
        edge: Edge of the square in pixels; a picture smaller than that gives a smaller box.
    """
    height, width = min(edge, image.shape[0]), min(edge, image.shape[1])
    sums = cv2.integral(absolute_error(image, target))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    # Rounded, so that among equal windows the first is taken whatever the rounding errors of the sums are.
    top, left = np.unravel_index(np.argmax(windows.round(6)), windows.shape)
    return Box(int(top), int(left), height, width)


@dataclass(frozen=True)
class Chosen:
    """A picture of the figure, and the left and top of its box where they are given."""

    test_set: str
    image: str
    corner: tuple[int, int] | None = None

    def box(self, edge: int, shape: Sequence[int]) -> Box | None:
        """The given box in a picture of this shape (H, W, …), None where it is to be found.

        Raises:
            OptionError: If the corner lies outside of the picture.
        """
        if self.corner is None:
            return None
        left, top = self.corner
        height, width = min(edge, shape[0]), min(edge, shape[1])
        if left + width > shape[1] or top + height > shape[0]:
            raise OptionError(
                f"figure: images: '{self.test_set}/{self.image}@{left},{top}': a box of {width}×{height} pixels there "
                f"goes beyond the picture ({shape[1]}×{shape[0]})."
            )
        return Box(top, left, height, width)


def choose_images(comparison: Comparison, names: Sequence[str]) -> list[Chosen]:
    """The pictures of the figure.

    Args:
        comparison: Where they are looked for.
        names: ``test set/image``, with ``@left,top`` behind it where the box's corner is given; empty for one picture
            of each rain type (of each test set without types): that at which the last scored model gains most PSNR
            over the input, the first one where there is no PSNR.

    Raises:
        OptionError: If there is no such picture.
    """
    known = {f"{r.test_set}/{r.image}": (r.test_set, r.image) for r in comparison.results}
    if not names:
        return [Chosen(r.test_set, r.image) for r in _largest_gains(comparison)]
    return [find_picture(entry, known) for entry in names]


def find_picture(entry: str, known: Mapping[str, tuple[str, str]]) -> Chosen:
    """What ``test set/image`` or ``test set/image@left,top`` names.

    Args:
        entry: The name.
        known: ``test set/image`` → test set and image.

    Raises:
        OptionError: If there is no such picture.
    """
    place = _PLACE.search(entry) if entry not in known else None
    name = entry[: place.start()] if place else entry
    if name not in known:
        raise OptionError(
            f"figure: images: there is no picture '{name}' that can be shown; expected 'test set/image'."
            f"{did_you_mean(name, known)}"
        )
    return Chosen(*known[name], (int(place[1]), int(place[2])) if place else None)


def models_with_results(comparison: Comparison) -> list[str]:
    """The models that finished a picture, in order; the others (cost only, failed at once) have nothing to show."""
    finished = {result.model for result in comparison.results}
    return [row.name for row in comparison.models if row.name in finished]


def _largest_gains(comparison: Comparison) -> list[ImageResult]:
    """One result of each group (rain type, or test set where there is none), in order of appearance."""
    psnr = {(r.model, r.test_set, r.image): r.metrics["psnr"] for r in comparison.results if "psnr" in r.metrics}
    scored = [row.name for row in comparison.models if row.name != INPUT and any(row.name == key[0] for key in psnr)]
    best: dict[str, tuple[float, ImageResult]] = {}
    for result in comparison.results:
        key = (result.test_set, result.image)
        after, before = psnr.get((scored[-1], *key)) if scored else None, psnr.get((INPUT, *key))
        gain = after - before if after is not None and before not in (None, float("inf")) else float("-inf")
        group = result.rain_type or f"{result.test_set}/"
        if group not in best or gain > best[group][0]:
            best[group] = (gain, result)
    return [result for _, result in best.values()]
