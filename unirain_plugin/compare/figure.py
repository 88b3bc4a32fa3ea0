"""The figure of a comparison: which images it shows, and how whole images, magnified crops and error maps are drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unirain_plugin.compare.summary import GT, INPUT, Comparison, ImageResult
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.metrics.psnr_ssim import psnr
from unirain_plugin.rain_types import describe
from unirain_plugin.support.files import whole_file, write_errors

INK, PAPER = (20, 20, 20), (255, 255, 255)
"""Colours of text and background (RGB)."""


def text_font(size: float) -> ImageFont.FreeTypeFont:
    """The font of all figures: the one inside Pillow, so that a figure looks alike on every machine."""
    return ImageFont.load_default(size=size)


def absolute_error(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Absolute error of 8-bit images, mean over the channels, of a range of 1: (H, W) float32."""
    return np.abs(image.astype(np.float32) - target.astype(np.float32)).mean(axis=2) / 255


def error_colours(error: np.ndarray, scale: float) -> np.ndarray:
    """Errors on a fixed colour scale from 0 (black) to ``scale`` and above (pale yellow): (H, W, 3) BGR."""
    return cv2.applyColorMap((error / scale * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)


def error_map(image: np.ndarray, target: np.ndarray, scale: float) -> np.ndarray:
    """Absolute error of 8-bit images (H, W, 3) on the fixed colour scale: (H, W, 3) BGR."""
    return error_colours(absolute_error(image, target), scale)


_PLACE = re.compile(r"@(\d+),(\d+)$")


@dataclass(frozen=True)
class Box:
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The part of ``image`` (H, W, C)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def most_different_box(image: np.ndarray, target: np.ndarray, edge: int) -> Box:
    """The square in which two images differ most (mean absolute error): where there was most to restore.

    Args:
        image: 8-bit image (H, W, 3).
        target: Another of the same shape.
        edge: Edge of the square in pixels; an image smaller than that gives a smaller box.
    """
    height, width = min(edge, image.shape[0]), min(edge, image.shape[1])
    sums = cv2.integral(absolute_error(image, target))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    # Rounded, so that among equal windows the first is taken whatever the rounding errors of the sums are.
    top, left = np.unravel_index(np.argmax(windows.round(6)), windows.shape)
    return Box(int(top), int(left), height, width)


@dataclass(frozen=True)
class Chosen:
    """An image of the figure, and the left and top of its box where they are given."""

    test_set: str
    image: str
    corner: tuple[int, int] | None = None

    def box(self, edge: int, shape: Sequence[int]) -> Box | None:
        """The given box in an image of this shape (H, W, …), None where it is to be found.

        Raises:
            OptionError: If the corner lies outside of the image.
        """
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
    """The images of the figure.

    Args:
        comparison: Where they are looked for.
        names: ``test set/image``, with ``@left,top`` behind it where the box's corner is given; empty for one image
            of each rain type (of each test set without types): that at which the last scored model gains most PSNR
            over the input, the first one where there is no PSNR.

    Raises:
        OptionError: If there is no such image.
    """
    known = {f"{r.test_set}/{r.image}": (r.test_set, r.image) for r in comparison.results}
    if not names:
        return [Chosen(r.test_set, r.image) for r in _largest_gains(comparison)]
    return [find_image(entry, known) for entry in names]


def find_image(entry: str, known: Mapping[str, tuple[str, str]]) -> Chosen:
    """What ``test set/image`` or ``test set/image@left,top`` names.

    Args:
        entry: The name.
        known: ``test set/image`` → test set and image.

    Raises:
        OptionError: If there is no such image.
    """
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


if TYPE_CHECKING:
    from unirain_plugin.compare.options import FigureOptions

WIDTH = 1400
"""Pixels; a README shows it at 800 to 1000, where the smallest text is still 12 pixels high."""

_MARGIN, _GAP = 18, 10
_IN_A_ROW = 5
"""Crops beside one another at most; more are wrapped."""

_WHOLE = (1.3, 2.4)
"""Width of the whole image, in crops: from, to."""

_SHRUNK = 0.8
"""How much smaller than its room's width a whole image may get, so that another fits below it."""

_GREY, _FRAME, _BEST, _EMPTY = (105, 105, 105), (255, 196, 0), (0, 110, 60), (238, 238, 238)
_TITLE, _NAME, _TEXT = 26, 22, 20
_LINE = 27
"""Height of a line of text in pixels."""


@dataclass(frozen=True)
class _Cell:
    """One crop of the figure; ``pixels`` is None where a model has no result for it."""

    name: str
    pixels: np.ndarray | None
    whole: float | None
    part: float | None
    is_best: bool


def write_zoom_grid(comparison: Comparison, path: Path, options: FigureOptions) -> None:
    """Write the figure as a PNG of ``WIDTH`` pixels.

    For each image that :func:`~unirain_plugin.compare.figure.choose_images` returns: the whole input with the box;
    then, for the input, every model and the clean image, what is in the box, with the PSNR of the whole image and
    of the box; below each its error map on the fixed scale from 0 to ``options.error_scale``. Without a clean image
    there are neither PSNR nor error maps.

    Raises:
        OptionError: If a chosen image is not among the results, or its box goes beyond it.
        DataError: If the file cannot be written.
    """
    blocks = []
    names = [name for name in models_with_results(comparison) if name != INPUT]
    for chosen in choose_images(comparison, options.images):
        arrays = comparison.arrays(chosen.test_set, chosen.image)
        crop = chosen.box(options.crop, arrays[INPUT].shape) or options.crop
        title = _title(comparison, chosen.test_set, chosen.image)
        blocks.append(draw_block(title, arrays, names, crop, options.error_scale))
    footer = _footer(options.error_scale, automatic=not options.images)
    height = sum(b.height for b in blocks) + footer.height + _MARGIN * (len(blocks) + 2)
    canvas = Image.new("RGB", (WIDTH, height), PAPER)
    top = _MARGIN
    for block in (*blocks, footer):
        canvas.paste(block, (0, top))
        top += block.height + _MARGIN
    with write_errors(path), whole_file(path) as file:
        canvas.save(file, format="PNG")


def draw_block(
    title: str, arrays: Mapping[str, np.ndarray], models: Sequence[str], crop: int | Box, error_scale: float
) -> Image.Image:
    """Draw one image's part of the figure.

    Args:
        title: Its heading.
        arrays: As :attr:`Comparison.arrays` returns them.
        models: The models' names in order; one that is not in ``arrays`` gets an empty cell.
        crop: Edge of the box in pixels, put where input and clean image differ most (without a clean image:
            input and the first model); or the box itself.
        error_scale: Absolute error that gets the brightest colour, of a range of 1.
    """
    gt = arrays.get(GT)
    box = crop if isinstance(crop, Box) else _choose_box(arrays, crop)
    cells = _cells(arrays, models, box)
    bands = math.ceil(len(cells) / _IN_A_ROW)
    columns = math.ceil(len(cells) / bands)
    height, width = arrays[INPUT].shape[:2]
    stacked = bands * (1 if gt is None else 2) * box.height / box.width
    cell = int((WIDTH - 2 * _MARGIN - (columns + 1) * _GAP) / (columns + _whole_width(stacked * width / height)))
    cell_height = round(cell * box.height / box.width)
    text = _LINE * (1 if gt is None else 3) + 8
    band = cell_height + text + 2 * _GAP + (0 if gt is None else cell_height)
    head = _LINE + 12
    left = WIDTH - _MARGIN - columns * (cell + _GAP) + _GAP
    wholes = _whole_images(arrays, box, left - _MARGIN - 2 * _GAP, bands * band - _GAP)
    canvas = Image.new("RGB", (WIDTH, head + max(bands * band, wholes.height)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, 0), title, INK, text_font(_TITLE), stroke_width=0.5)
    facts = f"{width} x {height}, box {box.width} x {box.height} at ({box.left}, {box.top})"  # the font has no ×
    draw.text((WIDTH - _MARGIN, 4), facts, _GREY, text_font(_TEXT), anchor="ra")
    canvas.paste(wholes, (_MARGIN, head))
    for number, entry in enumerate(cells):
        x, y = left + number % columns * (cell + _GAP), head + number // columns * band
        _draw_cell(canvas, (x, y), (cell, cell_height), entry, box)
        if gt is not None:
            place = (x, y + cell_height + text)
            _draw_error(canvas, place, (cell, cell_height), entry, box.cut(gt), error_scale)
    return canvas


def _whole_width(fitting: float) -> float:
    """Width in crops at which three, two or one whole image are as high as the crops; ``fitting`` is that of one."""
    low, high = _WHOLE
    return next((fitting / n for n in (3, 2, 1) if low <= fitting / n <= high), min(max(fitting, low), high))


def _choose_box(arrays: Mapping[str, np.ndarray], edge: int) -> Box:
    others = [pixels for name, pixels in arrays.items() if name not in (INPUT, GT)]
    target = arrays.get(GT, others[0] if others else arrays[INPUT])
    return most_different_box(arrays[INPUT], target, edge)


def _cells(arrays: Mapping[str, np.ndarray], models: Sequence[str], box: Box) -> list[_Cell]:
    gt = arrays.get(GT)
    scores = {name: psnr(arrays[name], gt) for name in (INPUT, *models) if gt is not None and name in arrays}
    # Compared as printed: two models with the same two decimals are both best.
    best = max((round(scores[name], 2) for name in models if name in scores), default=None)
    cells = []
    for name in (INPUT, *models):
        part = psnr(box.cut(arrays[name]), box.cut(gt)) if name in scores else None
        is_best = name != INPUT and name in scores and round(scores[name], 2) == best
        pixels = box.cut(arrays[name]) if name in arrays else None
        cells.append(_Cell(name, pixels, scores.get(name), part, is_best))
    return cells if gt is None else [*cells, _Cell(GT, box.cut(gt), None, None, False)]


def _whole_images(arrays: Mapping[str, np.ndarray], box: Box, width: int, height: int) -> Image.Image:
    """The whole input with the box and, as far as there is room below it, the clean and the first model's image."""
    source = arrays[INPUT]
    models = [name for name in arrays if name not in (INPUT, GT)]
    order = [name for name in (INPUT, GT, *models[:1]) if name in arrays]
    below = _LINE + 8 + _GAP
    widest = min(width, max(height, width) * source.shape[1] / source.shape[0])
    for count in range(len(order), 0, -1):
        fitting = (max(height, width if count == 1 else 0) / count - below) * source.shape[1] / source.shape[0]
        if fitting > _SHRUNK * widest or count == 1:
            break
    order = order[:count]
    scale = min(widest, fitting) / source.shape[1]
    size = (round(source.shape[1] * scale), round(source.shape[0] * scale))
    step = size[1] + below
    canvas = Image.new("RGB", (width, step * len(order)), PAPER)
    draw = ImageDraw.Draw(canvas)
    names = [name for name in arrays if name in order]
    for number, name in enumerate(names):
        top = number * step
        canvas.paste(Image.fromarray(_resized(arrays[name], size)), (0, top))
        _draw_name(draw, (0, top + size[1] + 5), f"{_shown(name)}, whole", size[0])
        corner = (round(box.left * scale), top + round(box.top * scale))
        _frame(draw, corner, (round(box.width * scale), round(box.height * scale)))
    return canvas


def _draw_cell(canvas: Image.Image, place: tuple[int, int], size: tuple[int, int], cell: _Cell, box: Box) -> None:
    draw = ImageDraw.Draw(canvas)
    (x, y), (width, height) = place, size
    if cell.pixels is None:
        _draw_empty(draw, place, size, "no result")
    else:
        canvas.paste(Image.fromarray(_resized(cell.pixels, size)), place)
        _frame(draw, place, size)
    y += height + 5
    _draw_name(draw, (x, y), _shown(cell.name), width, _BEST if cell.is_best else INK)
    if cell.whole is not None:
        draw.text((x, y + _LINE), f"{cell.whole:.2f} dB", _BEST if cell.is_best else INK, text_font(_TEXT))
        draw.text((x, y + 2 * _LINE), f"box {cell.part:.2f} dB", _GREY, text_font(_TEXT))


def _draw_error(
    canvas: Image.Image, place: tuple[int, int], size: tuple[int, int], cell: _Cell, gt: np.ndarray, scale: float
) -> None:
    draw = ImageDraw.Draw(canvas)
    if cell.name == GT:
        _draw_scale(canvas, place, size, scale)
    elif cell.pixels is None:
        _draw_empty(draw, place, size, "")
    else:
        errors = cv2.resize(error_map(cell.pixels, gt, scale), size, interpolation=cv2.INTER_NEAREST)
        canvas.paste(Image.fromarray(np.ascontiguousarray(errors[..., ::-1])), place)


def _draw_scale(canvas: Image.Image, place: tuple[int, int], size: tuple[int, int], scale: float) -> None:
    """The colour bar, in the place below the clean image, which has no error map of its own."""
    (x, y), (width, _) = place, size
    bar = error_colours(np.linspace(0, scale, width, dtype=np.float32)[None].repeat(24, axis=0), scale)
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar[..., ::-1])), place)
    draw = ImageDraw.Draw(canvas)
    draw.text((x, y + 28), "0", INK, text_font(_TEXT))
    draw.text((x + width, y + 28), f"{scale:g} or more", INK, text_font(_TEXT), anchor="ra")
    draw.text((x, y + 28 + _LINE), "absolute error", _GREY, text_font(_TEXT))


def _draw_empty(draw: ImageDraw.ImageDraw, place: tuple[int, int], size: tuple[int, int], text: str) -> None:
    (x, y), (width, height) = place, size
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_EMPTY)
    draw.text((x + width / 2, y + height / 2), text, _GREY, text_font(_TEXT), anchor="mm")


def _draw_name(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], name: str, width: int, colour: tuple[int, int, int] = INK
) -> None:
    """A name in semi-bold, shortened to the width."""
    font = text_font(_NAME)
    shown = name
    while draw.textlength(shown, font) > width and len(shown) > 2:
        shown = shown[:-2] + "…"
    draw.text(place, shown, colour, font, stroke_width=0.4)


def _frame(draw: ImageDraw.ImageDraw, place: tuple[int, int], size: tuple[int, int]) -> None:
    """The box: its colour with a dark line outside, so that it is seen on bright and dark images."""
    (x, y), (width, height) = place, size
    draw.rectangle((x - 1, y - 1, x + width, y + height), outline=INK, width=1)
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=_FRAME, width=3)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Averaged when made smaller, bicubic when magnified."""
    smaller = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _shown(name: str) -> str:
    return {INPUT: "input", GT: "ground truth"}.get(name, name)


def _title(comparison: Comparison, test_set: str, image: str) -> str:
    types = {r.rain_type for r in comparison.results if (r.test_set, r.image) == (test_set, image)}
    rain_type = next(iter(types - {None}), None)
    return " · ".join([*([describe(rain_type)] if rain_type else []), f"{test_set} / {image}"])


def _footer(scale: float, automatic: bool) -> Image.Image:
    lines = [
        "dB: PSNR in RGB against the ground truth, of the whole image, and of the box alone; best in green.",
        f"Lower rows: absolute error, mean of R, G and B, on the fixed scale 0 to {scale:g} of the full range.",
    ]
    if automatic:
        lines.append("Images: of each rain type the one at which the last model gains most PSNR over the input.")
    canvas = Image.new("RGB", (WIDTH, _LINE * len(lines)), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((_MARGIN, number * _LINE), line, _GREY, text_font(_TEXT))
    return canvas
