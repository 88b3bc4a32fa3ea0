"""The page of a comparison: one HTML file with its images inside, a before/after slider and sortable tables."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.compare.figure import models_with_results
from unirain_plugin.compare.options import GT, INPUT
from unirain_plugin.compare.summary import OK, Comparison, ImageResult
from unirain_plugin.data.folders import types_in_order
from unirain_plugin.metrics.complexity import CONVENTION
from unirain_plugin.rain_types import describe
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.packages import require

_METRIC = re.compile(r"(\S+) [↑↓]$")
_WIDE = 12  # columns of a summary that is narrowed to its first metric when the page is opened

Cell = str | int | float | None  # what a table's cell may hold; numbers are sorted by value and None is shown as a dash


@dataclass(frozen=True)
class PageOptions:
    """Bounds of the page's size: 0.1 to 0.2 MB an image and side at the defaults."""

    images: int = 24  # at most, taken evenly from test sets and rain types
    longest_edge: int = 1024  # of an embedded image in pixels; larger ones are made smaller
    quality: int = 88  # of WebP, 1 to 100


def write_page(
    comparison: Comparison,
    summary_rows: Sequence[Mapping[str, Cell]],
    path: Path,
    options: PageOptions = PageOptions(),
    note: str = "",
) -> None:
    """Write the page; the same comparison gives the same bytes. OptionError if jinja2 is not installed.

    ``summary_rows``: for each row column title → value, the model's name first. A title that ends in ``NAME ↑`` or
    ``NAME ↓`` is one of metric NAME, to which a wide table can be narrowed. A ``status`` that is not ``ok`` stands
    below the table, as does ``note``.
    """
    jinja2 = require("jinja2", "jinja2", "report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the models' order is the option file's
    source = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    every = _images(comparison)
    chosen = choose_evenly(every, options.images)
    scores = {(r.test_set, r.image, r.model): r.metrics for r in comparison.results}
    text = environment.from_string(source).render(
        name=comparison.name,
        summary=_table(summary_rows),
        notes=[note, CONVENTION if any(row.multiply_adds for row in comparison.models) else ""],
        failures=[(row.name, row.status) for row in comparison.models if row.status != OK],
        types=[(name, describe(name)) for name in types_in_order(r.rain_type for r in chosen if r.rain_type)],
        test_sets=[(name, name) for name in comparison.test_sets if any(r.test_set == name for r in chosen)],
        total=len(every),
        options=options,
        data={
            "metrics": comparison.metrics,
            "models": list(dict.fromkeys([INPUT, *models_with_results(comparison)])),
            "images": [_image(comparison, r, scores, options) for r in chosen],
        },
    )
    write_whole(path, text.encode("utf-8", "backslashreplace"))  # names of files need not be UTF-8


def choose_evenly(images: Sequence[ImageResult], limit: int) -> list[ImageResult]:
    """At most ``limit`` images, taken in turn from each test set and rain type; in their order."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    for index, result in enumerate(images):
        groups.setdefault((result.test_set, result.rain_type), []).append(index)
    turns = max(map(len, groups.values()), default=0)
    in_turn = [group[turn] for turn in range(turns) for group in groups.values() if turn < len(group)]
    return [images[index] for index in sorted(in_turn[:limit])]


def shown(values: Sequence[Cell]) -> list[str]:
    """A column's values as text: four decimals where all are small (SSIM), two otherwise; None and NaN as a dash."""
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    digits = 4 if all(abs(number) < 2 for number in numbers) else 2

    def text(value: Cell) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else "∞" if value == math.inf else f"{value:.{digits}f}"
        return "–" if value is None else f"{value:,}" if isinstance(value, int) else value

    return list(map(text, values))


def _table(rows: Sequence[Mapping[str, Cell]]) -> dict[str, object]:
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "status"))
    texts = {column: shown([row.get(column) for row in rows]) for column in columns}
    numeric = [any(isinstance(row.get(column), (int, float)) for row in rows) for column in columns]
    lines = [[(texts[c][number], _finite(row.get(c))) for c in columns] for number, row in enumerate(rows)]
    metrics = [found[1] if (found := _METRIC.search(column)) else "" for column in columns]
    titles = [_METRIC.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), column) for column in columns]
    distinct = [metric for metric in dict.fromkeys(metrics) if metric]
    return {
        "columns": list(zip(titles, numeric, metrics, strict=True)),
        "rows": lines,
        "metrics": distinct if len(distinct) > 1 else [],
        "chosen": distinct[0] if len(distinct) > 1 and len(columns) > _WIDE else "",
    }


def _images(comparison: Comparison) -> list[ImageResult]:
    """One result of each image, in the order of the test sets and of appearance."""
    found = {(r.test_set, r.image): r for r in reversed(comparison.results)}
    return sorted(reversed(found.values()), key=lambda r: comparison.test_sets.index(r.test_set))


def _image(
    comparison: Comparison,
    result: ImageResult,
    scores: Mapping[tuple[str, str, str], Mapping[str, float]],
    options: PageOptions,
) -> dict[str, object]:
    arrays = comparison.arrays(result.test_set, result.image)
    height, width = arrays[INPUT].shape[:2]
    rows = {name: scores.get((result.test_set, result.image, name), {}) for name in arrays if name != GT}
    columns = {metric: shown([row.get(metric) for row in rows.values()]) for metric in comparison.metrics}
    return {
        "set": result.test_set,
        "name": result.image,
        "type": result.rain_type or "",
        "words": describe(result.rain_type) if result.rain_type else "",
        "width": width,
        "height": height,
        "thumbnail": embedded(arrays[INPUT], 112, 70),
        "sides": {name: embedded(pixels, options.longest_edge, options.quality) for name, pixels in arrays.items()},
        "scores": {
            name: {m: [columns[m][number], _finite(row.get(m))] for m in comparison.metrics}
            for number, (name, row) in enumerate(rows.items())
        },
    }


def _finite(value: Cell) -> float | int | None:
    """The number to sort by; None for text and NaN. JSON has no infinity: a value beyond all others stands for it."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return math.copysign(1e300, value) if math.isinf(value) else value


def embedded(pixels: np.ndarray, longest_edge: int, quality: int) -> str:
    """An RGB image (H, W, 3), made smaller if need be, as the data URI of a WebP."""
    scale = min(1.0, longest_edge / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    data = cv2.imencode(".webp", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
