"""The tables of a comparison in Markdown and LaTeX, in the form of the paper's Table 1, and the results as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence

from unirain_plugin.compare.cost import CONVENTION
from unirain_plugin.compare.options import BootstrapOptions, CostOptions
from unirain_plugin.compare.results import INPUT, ImageResult, ModelRow
from unirain_plugin.compare.summary import MEAN, WORST, SetSummary, rank
from unirain_plugin.rain_types import RAIN_TYPES

_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "psnr_y": "PSNR-Y", "ssim_y": "SSIM-Y", "niqe": "NIQE", "lpips": "LPIPS"}
_DIGITS = {"psnr": 2, "psnr_y": 2, "niqe": 2}
_GROUPS = {**{name: name.upper() for name in RAIN_TYPES}, MEAN: "average", WORST: "worst"}

Mark = Callable[[str], str]


def metric_title(metric: str, higher_is_better: bool) -> str:
    """Such as ``PSNR ↑``."""
    return f"{_TITLES.get(metric, metric)} {'↑' if higher_is_better else '↓'}"


def number(value: float | None, metric: str) -> str:
    """A value as it is printed; a dash where there is none."""
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{_DIGITS.get(metric, 4)}f}"


def marked_cells(
    columns: Sequence[Mapping[str, float | None]], metric: str, higher: bool, bold: Mark, underline: Mark
) -> list[dict[str, str]]:
    """Columns (model → value) as text, the best value of each bold and the second underlined.

    The untouched input is no contestant.
    """
    printed = []
    for column in columns:
        contestants = [name for name in column if name != INPUT]
        best, second = rank([column[name] for name in contestants], higher, _DIGITS.get(metric, 4))
        cells = {name: number(value, metric) for name, value in column.items()}
        for places, mark in ((best, bold), (second, underline)):
            for index in places:
                cells[contestants[index]] = mark(cells[contestants[index]])
        printed.append(cells)
    return printed


def _printed(
    summary: SetSummary, models: Sequence[str], metrics: Mapping[str, bool], bold: Mark, underline: Mark
) -> dict[str, dict[str, dict[str, str]]]:
    """Group → metric → model → printed cell."""
    table: dict[str, dict[str, dict[str, str]]] = {group: {} for group in summary.groups}
    for metric, higher in metrics.items():
        columns = [{m: summary.values[m][group].get(metric) for m in models} for group in summary.groups]
        for group, cells in zip(summary.groups, marked_cells(columns, metric, higher, bold, underline), strict=True):
            table[group][metric] = cells
    return table


def markdown_set(summary: SetSummary, models: Sequence[str], metrics: Mapping[str, bool]) -> str:
    """One test set: a row a model, a column a rain type, all metrics in a cell."""
    cells = _printed(summary, models, metrics, "**{}**".format, "<u>{}</u>".format)
    heads = [f"{_GROUPS.get(group, group)} ({summary.images[group]})" for group in summary.groups]
    lines = [
        f"### {summary.test_set}",
        "",
        f"{' / '.join(metric_title(m, higher) for m, higher in metrics.items())}; pictures in brackets.",
        "",
        f"| model | {' | '.join(heads)} |",
        f"| --- |{' --- |' * len(heads)}",
    ]
    for model in models:
        row = [" / ".join(cells[group][metric][model] for metric in metrics) for group in summary.groups]
        lines.append(f"| {_escape_bar(model)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def markdown_intervals(
    summary: SetSummary, reference: str, metrics: Mapping[str, bool], options: BootstrapOptions
) -> str:
    """Differences to the reference with their confidence intervals."""
    if not any(summary.intervals.values()):
        return ""
    lines = [
        f"Difference to {reference}, mean over the rain types, with its {options.confidence:.0%} interval (paired "
        f"bootstrap within each type, {options.samples} samples, seed {options.seed}; bold: zero lies outside).",
        "",
        f"| model | {' | '.join(metric_title(m, higher) for m, higher in metrics.items())} |",
        f"| --- |{' --- |' * len(metrics)}",
    ]
    for model, intervals in summary.intervals.items():
        row = []
        for metric in metrics:
            found, digits = intervals.get(metric), _DIGITS.get(metric, 4)
            text = found and f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
            row.append("–" if text is None else f"**{text}**" if found.is_clear else text)
        if intervals:
            lines.append(f"| {_escape_bar(model)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def markdown_costs(models: Sequence[ModelRow], options: CostOptions, device: str) -> str:
    """Cost and status of every model."""
    size, counted = options.size, options.multiply_adds_size
    lines = [
        f"| model | parameters, M | multiply-adds at {counted}², G | latency at {size}², ms | peak memory at {size}², "
        "MiB | status |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in models:
        cells = [
            _scaled(row.parameters, 1e6, 2), _scaled(row.multiply_adds, 1e9, 1), _scaled(row.latency_ms, 1, 1),
            _scaled(row.peak_memory_mb, 1, 1),
        ]  # fmt: skip
        lines.append(f"| {_escape_bar(row.name)} | {' | '.join(cells)} | {_escape_bar(row.status)} |")
    note = (
        f"{CONVENTION} Latency: median of {options.rounds} rounds in which the networks take turns, on {device}; peak "
        "memory: rise during one restoration in a process of its own, without weights."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def latex_set(summary: SetSummary, models: Sequence[str], metrics: Mapping[str, bool]) -> str:
    """One test set as a ``table`` (packages booktabs, graphicx): groups of columns as in the paper's Table 1."""
    cells = _printed(summary, models, metrics, r"\textbf{{{}}}".format, r"\underline{{{}}}".format)
    count = len(metrics)
    heads = [rf"\multicolumn{{{count}}}{{c}}{{{_latex(_GROUPS.get(group, group))}}}" for group in summary.groups]
    rules = [rf"\cmidrule(lr){{{2 + i * count}-{1 + (i + 1) * count}}}" for i in range(len(heads))]
    arrow = {True: r"$\uparrow$", False: r"$\downarrow$"}
    arrows = [f"{_latex(_TITLES.get(metric, metric))} {arrow[higher]}" for metric, higher in metrics.items()]
    lines = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_latex(summary.test_set)}. Best in bold, second best underlined.}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * (count * len(heads))}}}",
        r"\toprule",
        f"Method & {' & '.join(heads)} \\\\",
        " ".join(rules),
        f" & {' & '.join(arrows * len(heads))} \\\\",
        r"\midrule",
    ]
    for model in models:
        row = [cells[group][metric][model] for group in summary.groups for metric in metrics]
        lines.append(f"{_latex(model)} & {' & '.join(row)} \\\\".replace("–", "--").replace("∞", r"$\infty$"))
    lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def latex_costs(models: Sequence[ModelRow], options: CostOptions) -> str:
    """Cost of the networks as a ``table``."""
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_latex(CONVENTION)}}}",
        r"\begin{tabular}{lcccc}",
        r"\toprule",
        rf"Method & Params (M) & MACs (G, ${options.multiply_adds_size}^2$) & Latency (ms, ${options.size}^2$) & "
        rf"Memory (MiB, ${options.size}^2$) \\",
        r"\midrule",
    ]
    for row in models:
        if row.parameters is not None:
            cells = [_scaled(row.parameters, 1e6, 2), _scaled(row.multiply_adds, 1e9, 1)]
            cells += [_scaled(row.latency_ms, 1, 1), _scaled(row.peak_memory_mb, 1, 1)]
            lines.append(f"{_latex(row.name)} & {' & '.join(cells)} \\\\".replace("–", "--"))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def results_csv(results: Sequence[ImageResult], metrics: Sequence[str]) -> str:
    """Every picture's scores: a line for each model and picture, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test_set", "rain_type", "image", "model", *metrics])
    for r in results:
        writer.writerow([r.test_set, r.rain_type or "", r.image, r.model, *(r.metrics.get(m, "") for m in metrics)])
    return text.getvalue()


def page_rows(
    models: Sequence[ModelRow], summaries: Sequence[SetSummary], metrics: Mapping[str, bool]
) -> list[dict[str, str | int | float | None]]:
    """The summary table of the page: a row a model; column title → value."""
    rows = []
    for model in models:
        row: dict[str, str | int | float | None] = {"model": model.name}
        for summary in summaries:
            prefix = f"{summary.test_set}: " if len(summaries) > 1 else ""
            for group in reversed(summary.groups) if MEAN in summary.groups else summary.groups:
                for metric, higher in metrics.items():
                    title = f"{prefix}{_GROUPS.get(group, group)} {metric_title(metric, higher)}"
                    row[title] = summary.values[model.name][group].get(metric)
        row["parameters, M"] = model.parameters and model.parameters / 1e6
        row["multiply-adds, G"] = model.multiply_adds and model.multiply_adds / 1e9
        row["latency, ms"] = model.latency_ms
        row["peak memory, MiB"] = model.peak_memory_mb
        row["status"] = model.status
        rows.append(row)
    return rows


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value / unit:.{digits}f}"


def _escape_bar(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    return re.sub(r"([#$%&_{}])", r"\\\1", text).replace("–", "--").replace("~", r"\textasciitilde{}")
