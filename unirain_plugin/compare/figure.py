"""The figure of a comparison: which images it shows, and how whole images, magnified crops and error maps are drawn."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unirain_plugin.compare.options import GT, INPUT, FigureOptions
from unirain_plugin.compare.summary import Comparison, ImageResult
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.metrics.psnr_ssim import psnr
from unirain_plugin.rain_types import describe
from unirain_plugin.support.files import whole_file, write_errors

WIDTH = 1400  # pixels; a README shows it at 800 to 1000, where the smallest text is still 12 pixels high

_MARGIN, _GAP = 18, 10
_IN_A_ROW = 5  # crops beside one another at most; more are wrapped
_WHOLE = (1.3, 2.4)  # width of the whole image, in crops: from, to
_SHRUNK = 0.8  # how much smaller than its room's width a whole image may get, so that another fits below it

_INK, _PAPER, _GREY, _FRAME = (20, 20, 20), (255, 255, 255), (105, 105, 105), (255, 196, 0)
_BEST, _EMPTY = (0, 110, 60), (238, 238, 238)
_TITLE, _NAME, _TEXT = 26, 22, 20
_LINE = 27  # height of a line of text in pixels

_PLACE = re.compile(r"@(\d+),(\d+)$")
_Pixels = tuple[int, int]
_SHOWN = {INPUT: "input", GT: "ground truth"}


def _absolute_error(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of 8-bit images, mean over the channels, of a range of 1: (H, W) float32."""
    return np.abs(image.astype(np.float32) - target.astype(np.float32)).mean(axis=2) / 255


def _error_colours(error: np.ndarray, scale: float) -> np.ndarray:
    """Errors on a fixed colour scale from 0 (black) to ``scale`` and above (pale yellow): (H, W, 3) BGR."""
    return cv2.applyColorMap((error / scale * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)


def error_map(image: np.ndarray, target: np.ndarray, scale: float) -> np.ndarray:
    """Absolute error of 8-bit images (H, W, 3) on the fixed colour scale: (H, W, 3) BGR."""
    return _error_colours(_absolute_error(image, target), scale)


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def most_different_box(image: np.ndarray, target: np.ndarray, edge: int) -> Box:
    """The square of ``edge`` pixels at most in which two 8-bit images (H, W, 3) differ most, by mean absolute error."""
    height, width = min(edge, image.shape[0]), min(edge, image.shape[1])
    sums = cv2.integral(_absolute_error(image, target))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    # Rounded, so that among equal windows the first is taken whatever the rounding errors of the sums are.
    top, left = np.unravel_index(np.argmax(windows.round(6)), windows.shape)
    return Box(int(top), int(left), height, width)


class Chosen(NamedTuple):
    """An image of the figure, and the left and top of its box where they are given."""

    test_set: str
    image: str
    corner: tuple[int, int] | None = None

    def box(self, edge: int, shape: Sequence[int]) -> Box | None:
        """The given box in an image of this shape (H, W, …), None where it is to be found; else OptionError."""
        if self.corner is None:
            return None
        left, top = self.corner
        height, width = min(edge, shape[0]), min(edge, shape[1])
        if left + width > shape[1] or top + height > shape[0]:
            raise OptionError(
                f"figure: images: '{self.test_set}/{self.image}@{left},{top}': a box of {width}×{height} pixels there "
                f"goes beyond the image ({shape[1]}×{shape[0]})."
            )
        return Box(top, left, height, width)


def choose_images(comparison: Comparison, names: Sequence[str]) -> list[Chosen]:
    """The images of the figure; OptionError if there is none of a name.

    ``names``: ``test set/image``, with ``@left,top`` behind it where the box's corner is given; empty for one image of
    each rain type (of each test set without types): that at which the last scored model gains most PSNR over the input,
    the first one where there is no PSNR.
    """
    known = {f"{r.test_set}/{r.image}": (r.test_set, r.image) for r in comparison.results}
    if not names:
        return [Chosen(r.test_set, r.image) for r in _largest_gains(comparison)]
    return [find_image(entry, known) for entry in names]


def find_image(entry: str, known: Mapping[str, tuple[str, str]]) -> Chosen:
    """What a name names among the ``known``: ``test set/image`` → test set and image; else OptionError."""
    place = _PLACE.search(entry) if entry not in known else None
    name = entry[: place.start()] if place else entry
    if name not in known:
        raise OptionError(
            f"figure: images: there is no image '{name}' that can be shown; expected 'test set/image'."
            f"{did_you_mean(name, known)}"
        )
    return Chosen(*known[name], (int(place[1]), int(place[2])) if place else None)


def models_with_results(comparison: Comparison) -> list[str]:
    """The models that finished an image, in order; the others (cost only, failed at once) have nothing to show."""
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


class Sheet:
    """A white canvas and what is put onto it; the font is the one inside Pillow, alike on every machine."""

    def __init__(self, width: int, height: int) -> None:
        self.canvas = Image.new("RGB", (width, height), _PAPER)
        self._draw = ImageDraw.Draw(self.canvas)

    def text(self, place: _Pixels, text: str, colour: tuple = _GREY, size: int = _TEXT, **style: Any) -> None:
        self._draw.text(place, text, colour, ImageFont.load_default(size=size), **style)

    def name(self, place: _Pixels, name: str, width: int, colour: tuple = _INK) -> None:
        """A name in semi-bold, shortened to the width."""
        font, shown = ImageFont.load_default(size=_NAME), name
        while self._draw.textlength(shown, font) > width and len(shown) > 2:
            shown = shown[:-2] + "…"
        self.text(place, shown, colour, _NAME, stroke_width=0.4)

    def put(self, place: _Pixels, rgb: np.ndarray) -> None:
        self.canvas.paste(Image.fromarray(np.ascontiguousarray(rgb)), place)

    def frame(self, place: _Pixels, size: _Pixels) -> None:
        """The box: its colour with a dark line outside, so that it is seen on bright and dark images."""
        (x, y), (width, height) = place, size
        self._draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_INK, width=1)
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), outline=_FRAME, width=3)

    def empty(self, place: _Pixels, size: _Pixels, text: str) -> None:
        (x, y), (width, height) = place, size
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY)
        self.text((x + width / 2, y + height / 2), text, anchor="mm")


def write_zoom_grid(comparison: Comparison, path: Path, options: FigureOptions) -> None:
    """Write the figure as a PNG of ``WIDTH`` pixels; DataError if it cannot be written.

    For each of :func:`choose_images` (and its errors): the whole input with the box; then, for the input, every model
    and the clean image, what is in the box, with the PSNR of the whole image and of the box; below each its error map
    on the fixed scale from 0 to ``options.error_scale``. Without a clean image there are neither PSNR nor error maps.
    """
    blocks = []
    names = [name for name in models_with_results(comparison) if name != INPUT]
    for chosen in choose_images(comparison, options.images):
        arrays = comparison.arrays(chosen.test_set, chosen.image)
        crop = chosen.box(options.crop, arrays[INPUT].shape) or options.crop
        types = {r.rain_type for r in comparison.results if (r.test_set, r.image) == chosen[:2]} - {None}
        title = " · ".join([*map(describe, sorted(types)[:1]), f"{chosen.test_set} / {chosen.image}"])
        blocks.append(draw_block(title, arrays, names, crop, options.error_scale))
    blocks.append(_footer(options.error_scale, automatic=not options.images))
    sheet = Sheet(WIDTH, sum(b.height for b in blocks) + _MARGIN * (len(blocks) + 1))
    top = _MARGIN
    for block in blocks:
        sheet.canvas.paste(block, (0, top))
        top += block.height + _MARGIN
    with write_errors(path), whole_file(path) as file:
        sheet.canvas.save(file, format="PNG")


def draw_block(
    title: str, arrays: Mapping[str, np.ndarray], models: Sequence[str], crop: int | Box, error_scale: float
) -> Image.Image:
    """Draw one image's part of the figure; a model that is not in ``arrays`` (of :class:`Comparison`) gets an empty
    cell.

    ``crop``: the box, or its edge in pixels: it is put where input and clean image (else the first model's) differ
    most.
    """
    gt = arrays.get(GT)
    restored = [name for name in arrays if name not in (INPUT, GT)]
    target = arrays[next(name for name in (GT, *restored, INPUT) if name in arrays)]
    box = crop if isinstance(crop, Box) else most_different_box(arrays[INPUT], target, crop)
    names = [INPUT, *models] + [GT] * (gt is not None)
    bands = math.ceil(len(names) / _IN_A_ROW)
    columns = math.ceil(len(names) / bands)
    height, width = arrays[INPUT].shape[:2]
    stacked = bands * (1 if gt is None else 2) * box.height / box.width
    cell = int((WIDTH - 2 * _MARGIN - (columns + 1) * _GAP) / (columns + _whole_width(stacked * width / height)))
    size = cell, round(cell * box.height / box.width)
    text = _LINE * (1 if gt is None else 3) + 8
    band = size[1] + text + 2 * _GAP + (0 if gt is None else size[1])
    head = _LINE + 12
    left = WIDTH - _MARGIN - columns * (cell + _GAP) + _GAP
    wholes = _whole_images(arrays, box, left - _MARGIN - 2 * _GAP, bands * band - _GAP)
    sheet = Sheet(WIDTH, head + max(bands * band, wholes.height))
    sheet.text((_MARGIN, 0), title, _INK, _TITLE, stroke_width=0.5)
    facts = f"{width} x {height}, box {box.width} x {box.height} at ({box.left}, {box.top})"  # the font has no ×
    sheet.text((WIDTH - _MARGIN, 4), facts, anchor="ra")
    sheet.canvas.paste(wholes, (_MARGIN, head))
    scores = {name: psnr(arrays[name], gt) for name in (INPUT, *models) if gt is not None and name in arrays}
    # Compared as printed: two models with the same two decimals are both best.
    best = max((round(scores[name], 2) for name in models if name in scores), default=None)
    cuts = {name: box.cut(pixels) for name, pixels in arrays.items()}
    for number, name in enumerate(names):
        place = left + number % columns * (cell + _GAP), head + number // columns * band
        colour = _BEST if name != INPUT and name in scores and round(scores[name], 2) == best else _INK
        _draw_column(sheet, place, size, name, cuts, scores.get(name), colour)
        below = place[0], place[1] + size[1] + text
        if name == GT:
            _draw_scale(sheet, below, size[0], error_scale)
        elif gt is not None and name in cuts:
            errors = error_map(cuts[name], cuts[GT], error_scale)
            sheet.put(below, cv2.resize(errors, size, interpolation=cv2.INTER_NEAREST)[..., ::-1])
        elif gt is not None:
            sheet.empty(below, size, "")
    return sheet.canvas


def _draw_column(
    sheet: Sheet, place: _Pixels, size: _Pixels, name: str, cuts: Mapping, score: float | None, colour: tuple
) -> None:
    """What is in the box, the name, and the PSNR of the whole image and of the box."""
    if name in cuts:
        sheet.put(place, _resized(cuts[name], size))
        sheet.frame(place, size)
    else:
        sheet.empty(place, size, "no result")
    x, y = place[0], place[1] + size[1] + 5
    sheet.name((x, y), _SHOWN.get(name, name), size[0], colour)
    if score is not None:
        sheet.text((x, y + _LINE), f"{score:.2f} dB", colour)
        sheet.text((x, y + 2 * _LINE), f"box {psnr(cuts[name], cuts[GT]):.2f} dB")


def _whole_width(fitting: float) -> float:
    """Width in crops at which three, two or one whole image are as high as the crops; ``fitting`` is that of one."""
    low, high = _WHOLE
    return next((fitting / n for n in (3, 2, 1) if low <= fitting / n <= high), min(max(fitting, low), high))


def _whole_images(arrays: Mapping[str, np.ndarray], box: Box, width: int, height: int) -> Image.Image:
    """The whole input with the box; as far as there is room below it, the clean and the first model's image."""
    source = arrays[INPUT]
    first = next((name for name in arrays if name not in (INPUT, GT)), INPUT)
    order = [name for name in dict.fromkeys((INPUT, GT, first)) if name in arrays]
    below = _LINE + 8 + _GAP
    widest = min(width, max(height, width) * source.shape[1] / source.shape[0])
    for count in range(len(order), 0, -1):
        fitting = (max(height, width if count == 1 else 0) / count - below) * source.shape[1] / source.shape[0]
        if fitting > _SHRUNK * widest or count == 1:
            break
    scale = min(widest, fitting) / source.shape[1]
    size = (round(source.shape[1] * scale), round(source.shape[0] * scale))
    step = size[1] + below
    sheet = Sheet(width, step * count)
    for number, name in enumerate(name for name in arrays if name in order[:count]):
        top = number * step
        sheet.put((0, top), _resized(arrays[name], size))
        sheet.name((0, top + size[1] + 5), f"{_SHOWN.get(name, name)}, whole", size[0])
        corner = (round(box.left * scale), top + round(box.top * scale))
        sheet.frame(corner, (round(box.width * scale), round(box.height * scale)))
    return sheet.canvas


def _draw_scale(sheet: Sheet, place: _Pixels, width: int, scale: float) -> None:
    """The colour bar, in the place below the clean image, which has no error map of its own."""
    x, y = place
    bar = _error_colours(np.linspace(0, scale, width, dtype=np.float32)[None].repeat(24, axis=0), scale)
    sheet.put(place, bar[..., ::-1])
    sheet.text((x, y + 28), "0", _INK)
    sheet.text((x + width, y + 28), f"{scale:g} or more", _INK, anchor="ra")
    sheet.text((x, y + 28 + _LINE), "absolute error")


def _resized(image: np.ndarray, size: _Pixels) -> np.ndarray:
    """Averaged when made smaller, bicubic when magnified."""
    smaller = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _footer(scale: float, automatic: bool) -> Image.Image:
    lines = [
        "dB: PSNR in RGB against the ground truth, of the whole image, and of the box alone; best in green.",
        f"Lower rows: absolute error, mean of R, G and B, on the fixed scale 0 to {scale:g} of the full range.",
    ]
    if automatic:
        lines.append("Images: of each rain type the one at which the last model gains most PSNR over the input.")
    sheet = Sheet(WIDTH, _LINE * len(lines))
    for number, line in enumerate(lines):
        sheet.text((_MARGIN, number * _LINE), line)
    return sheet.canvas
