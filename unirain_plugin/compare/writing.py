"""Writes what a comparison found: tables, CSV, JSON, figure and page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from unirain_plugin.compare import tables
from unirain_plugin.compare.network_process import reason
from unirain_plugin.compare.options import CompareOptions
from unirain_plugin.compare.run import UNTRAINED, Outcome
from unirain_plugin.distill.workspace import write_text
from unirain_plugin.errors import UniRainError
from unirain_plugin.inference.loading import choose_device
from unirain_plugin.support.provenance import provenance


def markdown(outcome: Outcome, options: CompareOptions) -> str:
    """All tables in Markdown."""
    metrics = outcome.directions
    scored = [m.name for m in outcome.comparison.models if m.status != UNTRAINED]
    parts = [f"## {outcome.comparison.name}\n"]
    for summary in outcome.summaries:
        parts.append(tables.markdown_set(summary, scored, metrics))
        parts.append(tables.markdown_intervals(summary, outcome.reference, metrics, options.bootstrap))
    if len(outcome.summaries) > 1:
        parts.append(tables.markdown_overview(outcome.summaries, scored, metrics))
    parts.append("### Models\n")
    parts.append(tables.markdown_costs(outcome.comparison.models, options.cost, outcome.device))
    for title, lines in (("Went wrong", outcome.failures), ("Remarks", outcome.remarks)):
        if lines:
            parts.append(f"### {title}\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    return "\n".join(part for part in parts if part)


def latex(outcome: Outcome, options: CompareOptions) -> str:
    """All tables in LaTeX."""
    metrics = outcome.directions
    scored = list(dict.fromkeys(r.model for r in outcome.comparison.results))
    parts = ["% Needs \\usepackage{booktabs,graphicx}.\n"]
    parts += [tables.latex_set(summary, scored, metrics) for summary in outcome.summaries]
    return "\n".join([*parts, tables.latex_costs(outcome.comparison.models, options.cost)])


def summary_json(outcome: Outcome, options: CompareOptions) -> str:
    """Everything in JSON: provenance, options, means, intervals, costs, what went wrong. Infinite values: "inf"."""
    content = {
        "name": outcome.comparison.name,
        "provenance": {**provenance(), "device": str(choose_device(options.device))},
        "options": options,
        "metrics": outcome.directions,
        "reference": outcome.reference,
        "models": outcome.comparison.models,
        "test_sets": outcome.summaries,
        "failures": outcome.failures,
        "remarks": outcome.remarks,
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(outcome: Outcome, options: CompareOptions) -> list[Path]:
    """Write every file; a figure or page that fails is noted among the failures, and the rest is written.

    Returns:
        The files, in the order of their use.

    Raises:
        DistillError: If the disk is full or read-only.
    """
    folder, written = options.output_folder, []
    if options.figure.enabled and outcome.comparison.results:
        written = [path for path in (_figure(outcome, options), _page(outcome, options)) if path is not None]
    texts = {
        "tables.md": markdown(outcome, options),
        "tables.tex": latex(outcome, options),
        "per_image.csv": tables.results_csv(outcome.comparison.results, outcome.comparison.metrics),
        "summary.json": summary_json(outcome, options),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *written]


def _figure(outcome: Outcome, options: CompareOptions) -> Path | None:
    from unirain_plugin.compare.zoom_grid import write_zoom_grid

    path = options.output_folder / "figure.png"
    scored = {result.model for result in outcome.comparison.results}
    shown = replace(outcome.comparison, models=[m for m in outcome.comparison.models if m.name in scored])
    return _attempt(outcome, path, lambda: write_zoom_grid(shown, path, options.figure))


def _page(outcome: Outcome, options: CompareOptions) -> Path | None:
    from unirain_plugin.compare.page import write_page

    path = options.output_folder / "page.html"
    rows = tables.page_rows(outcome.comparison.models, outcome.summaries, outcome.directions)
    return _attempt(outcome, path, lambda: write_page(outcome.comparison, rows, path))


def _attempt(outcome: Outcome, path: Path, write: Any) -> Path | None:
    try:
        write()
    except (UniRainError, ImportError, OSError) as error:
        outcome.failures.append(f"{path.name} was not written: {reason(error)}")
        return None
    return path


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
