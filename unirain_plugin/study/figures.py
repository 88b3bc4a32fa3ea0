"""What came out, to look at: curves of validation, and a picture restored by every variant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unirain_plugin.compare.summary import read_bgr, score
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.files import CURVE
from unirain_plugin.study.grid import Outcome
from unirain_plugin.study.options import ReproduceOptions
from unirain_plugin.study.plan import GridRun, variants_of
from unirain_plugin.study.report import TITLES
from unirain_plugin.study.statistics import mean_of_types, spread

_GAP, _HEAD, _FOOT = 4, 20, 18
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def read_curve(path: Path) -> dict[int, float]:
    """Iteration → mean PSNR over the types (dB). Of an iteration validated twice, after a resume, the last counts."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line["iteration"]: mean_of_types(line) for line in lines}


def draw_curves(options: ReproduceOptions, outcomes: Sequence[Outcome], root: Path, rainy: float, path: Path) -> None:
    """A panel for each question: PSNR on the held-out pictures against iterations, mean ± deviation over seeds.

    Args:
        options: The questions.
        outcomes: Finished runs are drawn.
        root: The output folder.
        rainy: Mean PSNR of the rainy input, a dashed line.
        path: The PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = {o.run for o in outcomes if o.status == "finished"}
    columns = min(2, len(options.questions))
    lines = -(-len(options.questions) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * lines), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for unused in panels[len(options.questions) :]:
        unused.set_visible(False)
    for axes, question in zip(panels, options.questions, strict=False):
        for name, variant in variants_of(options, question).items():
            runs = [run for run in (GridRun(variant, seed) for seed in options.seeds) if run in done]
            curves = [read_curve(root / "experiments" / run.name / CURVE) for run in runs]
            iterations = sorted(set.intersection(*map(set, curves))) if curves else []
            spreads = [spread([curve[i] for curve in curves]) for i in iterations]
            means = np.array([s.mean for s in spreads])
            deviations = np.array([s.deviation or 0.0 for s in spreads])
            (line,) = axes.plot(iterations, means, marker=".", label=name)
            axes.fill_between(iterations, means - deviations, means + deviations, color=line.get_color(), alpha=0.15)
        axes.axhline(rainy, color="grey", linestyle="--", linewidth=0.8)
        axes.set_title(TITLES[question], fontsize=9)
        axes.set_xlabel("iteration")
        axes.set_ylabel("mean PSNR on held-out pictures, dB")
        axes.legend(fontsize=7)
    figure.savefig(path)


def draw_pictures(
    options: ReproduceOptions, question: str, outcomes: Sequence[Outcome], root: Path
) -> np.ndarray | None:
    """A row for each rain type: rainy, restored by each variant (first finished seed), clean, with PSNR in dB.

    Returns:
        (H, W, 3) RGB; None if no run of the question is finished.
    """
    done = {o.run for o in outcomes if o.status == "finished"}
    folders: dict[str, Path] = {}
    for name, variant in variants_of(options, question).items():
        runs = [run for run in (GridRun(variant, seed) for seed in options.seeds) if run in done]
        if runs:
            folders[name] = root / "experiments" / runs[0].name / "pictures"
    if not folders:
        return None
    first = next(iter(folders.values()))
    types = [rain_type for rain_type in RAIN_TYPES if (first / f"{rain_type}_clean.png").is_file()]
    rows = []
    for rain_type in types:
        clean = read_bgr(first / f"{rain_type}_clean.png")
        images = {"rainy": read_bgr(first / f"{rain_type}_rainy.png")}
        images |= {name: read_bgr(folder / f"{rain_type}_restored.png") for name, folder in folders.items()}
        rows.append((rain_type, images, clean))
    return _draw_rows(rows)


def _draw_rows(rows: Sequence[tuple[str, Mapping[str, np.ndarray], np.ndarray]]) -> np.ndarray:
    height, width = rows[0][2].shape[:2]
    titles = [*rows[0][1], "clean"]
    canvas = Image.new("RGB", (_GAP + len(titles) * (width + _GAP), _HEAD + len(rows) * (height + _FOOT)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (width + _GAP), 4), title, _INK, font)
    for number, (rain_type, images, clean) in enumerate(rows):
        top = _HEAD + number * (height + _FOOT)
        for column, image in enumerate([*images.values(), clean]):
            left = _GAP + column * (width + _GAP)
            canvas.paste(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), (left, top))
            caption = rain_type if image is clean else f"{score(image, clean).psnr:.2f} dB"
            draw.text((left, top + height + 2), caption, _INK, font)
    return np.asarray(canvas)
