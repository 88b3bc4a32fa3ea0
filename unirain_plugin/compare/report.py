"""The tables of a comparison in Markdown, LaTeX (as in the paper), CSV and JSON, and the writing of all files."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from unirain_plugin.compare.figure import write_zoom_grid
from unirain_plugin.compare.options import INPUT, BootstrapOptions, CompareOptions, CostOptions
from unirain_plugin.compare.page import Cell, write_page
from unirain_plugin.compare.summary import (
    MEAN,
    UNTRAINED,
    WORST,
    Directions,
    ImageResult,
    ModelRow,
    Outcome,
    SetSummary,
    rank,
)
from unirain_plugin.errors import UniRainError, reason
from unirain_plugin.metrics.complexity import CONVENTION
from unirain_plugin.metrics.protocols import PROTOCOLS, measure_of
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.files import is_full, write_whole
from unirain_plugin.support.provenance import provenance

_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "psnr_y": "PSNR-Y", "ssim_y": "SSIM-Y", "niqe": "NIQE", "lpips": "LPIPS"}
_DIGITS = {"psnr": 2, "psnr_y": 2, "niqe": 2}
GROUP_TITLES = {**{name: name.upper() for name in RAIN_TYPES}, MEAN: "average", WORST: "worst"}
"""Group of images → its column's title; others have their own name."""

_WIDTH = 3
_FEW = 10


def _title(metric: str) -> str:
    measure, at, protocol = metric.partition("@")
    return f"{_TITLES.get(measure, measure)}{at}{protocol}"


def metric_title(metric: str, higher_is_better: bool) -> str:
    """Such as ``PSNR ↑``."""
    return f"{_title(metric)} {'↑' if higher_is_better else '↓'}"


def _digits(metric: str) -> int:
    return _DIGITS.get(metric.partition("@")[0], 4)


def protocol_note(metrics: Iterable[str], protocol: str | None) -> str:
    """A sentence for each protocol of PSNR and SSIM: crop, colours, window, rounding; ``protocol``: of plain names."""
    titles: dict[str, list[str]] = {}
    for metric in metrics if protocol else ():
        found = measure_of(metric, protocol=protocol)
        if found is not None:
            titles.setdefault(found[1], []).append(_title(metric))
    return " ".join(f"{', '.join(names)}: protocol {name}, {PROTOCOLS[name]}." for name, names in titles.items())


def number(value: float | None, metric: str) -> str:
    """A value as it is printed; a dash where there is none."""
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{_digits(metric)}f}"


_Cells = dict[str, dict[str, list[str]]]


def _cells(summary: SetSummary, models: Sequence[str], metrics: Directions, best: str, second: str) -> _Cells:
    """Model → group → a cell for each metric, the leading two in formats such as ``**{}**``; the input is none."""
    table: _Cells = {model: {group: [] for group in summary.groups} for model in models}
    for metric, higher in metrics.items():
        for group in summary.groups:
            values = [summary.values[model][group].get(metric) for model in models]
            contest = [None if model == INPUT else value for model, value in zip(models, values, strict=True)]
            places = rank(contest, higher, _digits(metric))
            for index, (model, value) in enumerate(zip(models, values, strict=True)):
                mark = next((m for m, place in zip((best, second), places, strict=True) if index in place), "{}")
                table[model][group].append(mark.format(number(value, metric)))
    return table


def present(summaries: Sequence[SetSummary], metrics: Directions) -> dict[str, bool]:
    """The metrics that have a value somewhere: those against clean images have none in a set without them."""
    groups = [group for summary in summaries for table in summary.values.values() for group in table.values()]
    return {m: higher for m, higher in metrics.items() if any(group.get(m) is not None for group in groups)}


def left_out(summaries: Sequence[SetSummary], models: Sequence[str], metrics: Directions) -> str:
    parts = [
        f"{model}: {_title(metric)} of {count} of {summary.images[group]} images of "
        f"{f'{summary.test_set}, ' if len(summaries) > 1 else ''}{GROUP_TITLES.get(group, group)}"
        for summary in summaries
        for model in models
        for group, counts in summary.left_out.get(model, {}).items()
        for metric, count in counts.items()
        if metric in metrics
    ]
    rule = "Means leave out values that are infinite (PSNR of an image equal to the clean one) or missing: "
    return f"{rule}{'; '.join(parts)}." if parts else ""


def _caption(
    text: str, summaries: Sequence[SetSummary], models: Sequence[str], metrics: Directions, protocol: str | None
) -> str:
    """The text, and what has to be known of protocols and of images that are not in the means."""
    return " ".join(filter(None, (text, protocol_note(metrics, protocol), left_out(summaries, models, metrics))))


def split_metrics(metrics: Directions) -> list[dict[str, bool]]:
    """At most ``_WIDTH`` metrics a table, in order and evenly: wider ones cannot be read."""
    count = -(-len(metrics) // _WIDTH)
    items = list(metrics.items())
    ends = [len(items) * i // max(count, 1) for i in range(count + 1)]
    return [dict(items[start:end]) for start, end in pairwise(ends)]


def markdown_set(summary: SetSummary, models: Sequence[str], metrics: Directions, protocol: str | None = None) -> str:
    """One test set: a row a model, a column a rain type, the metrics in a cell."""
    counts = {group: "" if group == WORST else f" ({summary.images[group]})" for group in summary.groups}
    heads = [f"{GROUP_TITLES.get(group, group)}{count}" for group, count in counts.items()]
    parts = [f"### {summary.test_set}\n"]
    for some in split_metrics(present([summary], metrics)):
        rows = _rows(summary, models, some)
        dash = "; – where a model lacks an image or a metric a value" if "–" in str(rows) else ""
        text = f"{_titles(some)}; number of images in brackets{dash}."
        text = _caption(text, [summary], models, some, protocol)
        parts.append(f"{text}\n\n{markdown_table(['model', *heads], rows)}")
    return "\n".join(parts)


def markdown_overview(
    summaries: Sequence[SetSummary], models: Sequence[str], metrics: Directions, protocol: str | None = None
) -> str:
    """Several test sets: a column each, with the mean over its rain types, and their average."""
    parts = ["### All test sets\n"]
    columns = {f"{number} {s.test_set}": s for number, s in enumerate(summaries)}
    heads = ["model", *(summary.test_set for summary in summaries), "average"]
    for some in split_metrics(present(summaries, metrics)):
        values = {
            model: {n: s.values[model][MEAN if MEAN in s.groups else s.groups[0]] for n, s in columns.items()}
            | {MEAN: {}}
            for model in models
        }
        for metric in some:
            # an average over those test sets in which the metric has a value at all
            sets = [name for name in columns if any(row[name].get(metric) is not None for row in values.values())]
            for row in values.values():
                known = [row[name].get(metric) for name in sets]
                row[MEAN][metric] = finite_mean(known) if known and None not in known else None
        rows = _rows(SetSummary("", [*columns, MEAN], {}, values, {}), models, some)
        text = f"{_titles(some)}; means over the rain types of each test set."
        parts.append(f"{_caption(text, summaries, models, some, protocol)}\n\n{markdown_table(heads, rows)}")
    return "\n".join(parts)


def _rows(summary: SetSummary, models: Sequence[str], metrics: Directions) -> list[list[str]]:
    """Of each model its name and a cell for each group, with all metrics in it, in Markdown."""
    cells = _cells(summary, models, metrics, "**{}**", "<u>{}</u>")
    return [[model, *(" / ".join(group) for group in groups.values())] for model, groups in cells.items()]


def _titles(metrics: Directions) -> str:
    return " / ".join(metric_title(metric, higher) for metric, higher in metrics.items())


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: bool = False) -> str:
    """A table: titles, then for each row its name and cells; ``right``: all but the first column are set right."""
    rules = ["---"] + ["---:" if right else "---"] * (len(heads) - 1)
    lines = [map(_escape_bar, heads), rules, *((_escape_bar(name), *cells) for name, *cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_intervals(summary: SetSummary, reference: str, metrics: Directions, options: BootstrapOptions) -> str:
    metrics = present([summary], metrics)
    if not any(summary.intervals.values()):
        return ""
    rows = [[model] for model, intervals in summary.intervals.items() if intervals]
    for row in rows:
        for metric in metrics:
            found, digits = summary.intervals[row[0]].get(metric), _digits(metric)
            text = found and f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
            row.append("–" if text is None else f"**{text}**" if found.is_clear else text)
    text = (
        f"Difference to {reference}, mean over the rain types, with its {options.confidence:.0%} interval (paired "
        f"bootstrap within each type, {options.samples} samples, seed {options.seed}; bold: zero lies outside)."
    )
    if min(count for group, count in summary.images.items() if group not in (MEAN, WORST)) < _FEW:
        text += f" With fewer than {_FEW} images of a type such intervals are too narrow."
    if left_out([summary], [reference, *(row[0] for row in rows)], metrics):
        text += " Over the images that have a finite value of both."
    heads = ["model", *(metric_title(metric, higher) for metric, higher in metrics.items())]
    return f"{text}\n\n{markdown_table(heads, rows)}"


def markdown_costs(models: Sequence[ModelRow], options: CostOptions, device: str) -> str:
    """Cost and status of every model; the status alone where no cost was measured."""
    if all(row.parameters is None for row in models):
        return markdown_table(["model", "status"], [(row.name, _escape_bar(row.status)) for row in models])
    size, counted = options.size, options.multiply_adds_size
    heads = ["model", "parameters, M", f"multiply-adds at {counted}², G", f"latency at {size}², ms",
             f"peak memory at {size}², MiB", "status"]  # fmt: skip
    rows = [(row.name, *_cost_cells(row), _escape_bar(row.status)) for row in models]
    note = (
        f"{CONVENTION} Latency: median of {options.rounds} rounds in which the networks take turns, on {device}; peak "
        "memory: rise during one restoration in a process of its own, without weights."
    )
    return f"{markdown_table(heads, rows)}\n{note}\n"


def latex_set(summary: SetSummary, models: Sequence[str], metrics: Directions, protocol: str | None = None) -> str:
    """One test set as a ``table*``, or several (packages booktabs, graphicx): columns as in the paper's Table 1."""
    groups, tables = [_latex(GROUP_TITLES.get(group, group)) for group in summary.groups], []
    for some in split_metrics(present([summary], metrics)):
        count = len(some)
        rules = [rf"\cmidrule(lr){{{2 + i * count}-{1 + (i + 1) * count}}}" for i in range(len(groups))]
        arrow = {True: r"$\uparrow$", False: r"$\downarrow$"}
        arrows = [f"{_latex(_title(metric))} {arrow[higher]}" for metric, higher in some.items()]
        heads = [
            " & ".join(["Method", *(rf"\multicolumn{{{count}}}{{c}}{{{title}}}" for title in groups)]) + r" \\",
            " ".join(rules),
            " & ".join(["", *arrows * len(groups)]) + r" \\",
        ]
        cells = _cells(summary, models, some, r"\textbf{{{}}}", r"\underline{{{}}}")
        rows = [[model, *(cell for group in row.values() for cell in group)] for model, row in cells.items()]
        caption = f"{summary.test_set}. Best in bold, second best underlined."
        caption = _caption(caption, [summary], models, some, protocol)
        tables.append(_latex_float("table*", caption, "l" + "c" * (count * len(groups)), heads, rows))
    return "\n".join(tables)


def latex_costs(models: Sequence[ModelRow], options: CostOptions) -> str:
    """Cost of the networks as a ``table``."""
    heads = rf"Method & Params (M) & MACs (G, ${options.multiply_adds_size}^2$) & Latency (ms, ${options.size}^2$) & "
    heads += rf"Memory (MiB, ${options.size}^2$) \\"
    rows = [(row.name, *_cost_cells(row)) for row in models if row.parameters is not None]
    return _latex_float("table", CONVENTION, "lcccc", [heads], rows)


def _latex_float(kind: str, caption: str, columns: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A ``table``, or a ``table*`` that is made as wide as the page; ``heads`` are whole lines."""
    wide = kind == "table*"
    lines = [rf"\begin{{{kind}}}[t]", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    lines += [r"\resizebox{\linewidth}{!}{%"] * wide
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *heads, r"\midrule"]
    for name, *cells in rows:
        lines.append(f"{_latex(name)} & {' & '.join(cells)} \\\\".replace("–", "--").replace("∞", r"$\infty$"))
    lines += [r"\bottomrule", r"\end{tabular}" + "}" * wide, rf"\end{{{kind}}}"]
    return "\n".join(lines) + "\n"


def results_csv(results: Sequence[ImageResult], metrics: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test_set", "rain_type", "image", "model", *metrics])
    for r in results:
        writer.writerow([r.test_set, r.rain_type or "", r.image, r.model, *(r.metrics.get(m, "") for m in metrics)])
    return text.getvalue()


def page_rows(
    models: Sequence[ModelRow], summaries: Sequence[SetSummary], metrics: Directions
) -> list[dict[str, Cell]]:
    rows = []
    for model in models:
        row: dict[str, Cell] = {"model": model.name}
        for summary in summaries:
            prefix = f"{summary.test_set}: " if len(summaries) > 1 else ""
            for group in sorted(summary.groups, key=lambda group: group not in (MEAN, WORST)):
                for metric, higher in metrics.items():
                    title = f"{prefix}{GROUP_TITLES.get(group, group)} {metric_title(metric, higher)}"
                    row[title] = summary.values[model.name][group].get(metric)
        cost = {"parameters, M": model.parameters and model.parameters / 1e6,
                "multiply-adds, G": model.multiply_adds and model.multiply_adds / 1e9,
                "latency, ms": model.latency_ms, "peak memory, MiB": model.peak_memory_mb}  # fmt: skip
        rows.append({**row, **cost, "status": model.status})
    return rows


def _cost_cells(row: ModelRow) -> list[str]:
    known = (row.parameters, 1e6, 2), (row.multiply_adds, 1e9, 1), (row.latency_ms, 1, 1), (row.peak_memory_mb, 1, 1)
    return ["–" if value is None else f"{value / unit:.{digits}f}" for value, unit, digits in known]


def _escape_bar(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", text.replace("\\", "\0")).replace("\0", r"\textbackslash{}")
    for character, command in {"–": "--", "~": r"\textasciitilde{}", "×": r"$\times$", "σ": r"$\sigma$"}.items():
        escaped = escaped.replace(character, command)
    return escaped


def markdown(outcome: Outcome, options: CompareOptions) -> str:
    metrics = outcome.directions
    scored = [m.name for m in outcome.comparison.models if m.status != UNTRAINED]
    parts = [f"## {outcome.comparison.name}\n"]
    for summary in outcome.summaries:
        parts.append(markdown_set(summary, scored, metrics, options.protocols[0]))
        parts.append(markdown_intervals(summary, outcome.reference, metrics, options.bootstrap))
    if len(outcome.summaries) > 1:
        parts.append(markdown_overview(outcome.summaries, scored, metrics, options.protocols[0]))
    parts.append("### Models\n")
    parts.append(markdown_costs(outcome.comparison.models, options.cost, outcome.device))
    for title, lines in (("Went wrong", outcome.failures), ("Remarks", outcome.remarks)):
        if lines:
            parts.append(f"### {title}\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    return "\n".join(part for part in parts if part)


def latex(outcome: Outcome, options: CompareOptions) -> str:
    metrics = outcome.directions
    scored = list(dict.fromkeys(r.model for r in outcome.comparison.results))
    parts = ["% Needs \\usepackage{booktabs,graphicx}.\n"]
    parts += [latex_set(summary, scored, metrics, options.protocols[0]) for summary in outcome.summaries]
    return "\n".join([*parts, latex_costs(outcome.comparison.models, options.cost)])


def summary_json(outcome: Outcome, options: CompareOptions) -> str:
    """Everything in JSON: provenance, options, means, intervals, costs, what went wrong. Infinite values: "inf"."""
    content = {
        "name": outcome.comparison.name,
        "provenance": {**provenance(), "device": outcome.device},
        "options": options,
        "metrics": outcome.directions,
        "protocols": {m.name: f"{m.protocol}: {PROTOCOLS[m.protocol]}" for m in outcome.metrics if m.protocol},
        "reference": outcome.reference,
        "models": outcome.comparison.models,
        "test_sets": outcome.summaries,
        "failures": outcome.failures,
        "remarks": outcome.remarks,
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(outcome: Outcome, options: CompareOptions) -> list[Path]:
    r"""Write every file; a figure or page that fails is noted among the failures, and the rest is written.

    Every file is UTF-8: bytes of file names that are not are written as ``\udcXX``, as Python and JSON escape them.
    Returns the files in the order of their use. A DataError if one cannot be written; for figure and page only if the
    disk is full.
    """
    folder, comparison = options.output_folder, outcome.comparison
    written, models, metrics = [], comparison.models, outcome.directions
    if options.figure.enabled and comparison.results:
        note = _caption("", outcome.summaries, [model.name for model in models], metrics, options.protocols[0])
        rows = page_rows(models, outcome.summaries, metrics)
        for path, write in (
            (folder / "figure.png", lambda path: write_zoom_grid(comparison, path, options.figure)),
            (folder / "page.html", lambda path: write_page(comparison, rows, path, note=note)),
        ):
            try:
                write(path)
                written.append(path)
            except (UniRainError, ImportError) as error:
                if is_full(error):
                    raise
                outcome.failures.append(f"{path.name} was not written: {reason(error)}")
    texts = {
        "tables.md": markdown(outcome, options),
        "tables.tex": latex(outcome, options),
        "per_image.csv": results_csv(comparison.results, comparison.metrics),
        "summary.json": summary_json(outcome, options),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode("utf-8", "backslashreplace"))
    return [*(folder / name for name in texts), *written]


def _plain(content: object) -> Any:
    """The same in JSON's types: dataclasses as objects, paths, infinite values and NaN as texts."""
    text = json.dumps(content, default=lambda value: vars(value) if is_dataclass(value) else str(value))
    return json.loads(text, parse_constant=lambda name: str(float(name)))
