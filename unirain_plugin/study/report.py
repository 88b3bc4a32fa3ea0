"""What came out, in words: tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unirain_plugin.metrics.complexity import Complexity
from unirain_plugin.study.costs import Costs
from unirain_plugin.study.grid import Outcome
from unirain_plugin.study.options import ReproduceOptions
from unirain_plugin.study.plan import Variant, variants_of
from unirain_plugin.study.statistics import Summary, summarise, verdict
from unirain_plugin.study.usage import expert_lines, weight_lines

TITLES = {
    "experts": "Which experts: soft, hard or none, encoder-decoder",
    "loss": "How the rain types are weighted in the loss",
    "data": "Which pairs are trained on",
    "networks": "UniRain against networks of the toolbox",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in the table of a question. ``summary`` is None where no run of it is finished."""

    question: str
    name: str
    cost: Complexity
    summary: Summary | None
    verdict: str
    verdict_worst: str


def make_rows(options: ReproduceOptions, costs: Costs, outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of all questions; the first of a question is the baseline."""
    finished = results_by_variant(outcomes)
    rows = []
    for question in options.questions:
        baseline: Summary | None = None
        for place, (name, variant) in enumerate(variants_of(options, question).items()):
            summary = summarise(finished[variant]) if variant in finished else None
            verdicts = ("not run", "not run")
            if place == 0:
                baseline, verdicts = summary, ("baseline", "baseline")
            elif summary and baseline:
                verdicts = verdict(baseline.psnr, summary.psnr), verdict(baseline.worst, summary.worst)
            rows.append(Row(question, name, costs.networks[variant.name], summary, *verdicts))
    return rows


def markdown_tables(rows: Sequence[Row], rainy: Mapping[str, Mapping[str, float]]) -> str:
    """A table for each question: means over seeds ± standard deviation; PSNR in dB."""
    parts = []
    for question in dict.fromkeys(row.question for row in rows):
        lines = [f"### {TITLES[question]}", ""]
        lines += table_lines([_HEAD, *(_cells(row, rainy) for row in rows if row.question == question)])
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_HEAD = (
    "variant", "params k", "multiply-adds M", "seeds", "mean PSNR", "gain", "SSIM", "against baseline",
    "worst type's PSNR", "against baseline",
)  # fmt: skip


def _cells(row: Row, rainy: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    cost = f"{row.cost.parameters / 1e3:.1f}", f"{row.cost.multiply_adds / 1e6:.1f}"
    if row.summary is None:
        return (row.name, *cost, "0", "", "", "", row.verdict, "", row.verdict_worst)
    summary = row.summary
    gain = summary.psnr.mean - fmean(scores["psnr"] for scores in rainy.values())
    return (
        row.name, *cost, str(summary.psnr.count), summary.psnr.text(), f"{gain:+.2f}", summary.ssim.text(4),
        row.verdict, f"{summary.worst.text()} ({summary.worst_name})", row.verdict_worst,
    )  # fmt: skip


def type_table(rows: Sequence[Row], rainy: Mapping[str, Mapping[str, float]]) -> str:
    """Gain over the rainy input by rain type, dB, every variant once; the first line is the input itself."""
    types = list(rainy)
    lines = [("variant", *types), ("(PSNR of the rainy input)", *(f"{rainy[t]['psnr']:.2f}" for t in types))]
    seen = set()
    for row in rows:
        if row.summary is None or (row.verdict == "baseline" and "baseline" in seen):
            continue
        seen.add(row.verdict)
        gains = ((row.summary.by_type[t].mean - rainy[t]["psnr"], row.summary.by_type[t].deviation) for t in types)
        lines.append((row.name, *(f"{g:+.2f}" + ("" if d is None else f" ± {d:.2f}") for g, d in gains)))
    return "\n".join(table_lines(lines)) + "\n"


def data_table(pairs: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """What was planted and what distillation kept, by kind, over all rain types."""
    kinds: dict[str, list[int]] = {}
    for by_kind in pairs.values():
        for kind, counts in by_kind.items():
            entry = kinds.setdefault(kind, [0, 0])
            entry[0] += counts["given"]
            entry[1] += counts["kept"]
    order = sorted(kinds, key=lambda kind: -kinds[kind][0])
    return "\n".join(table_lines([("pairs", "given", "kept"), *((k, *map(str, kinds[k])) for k in order)])) + "\n"


def usage_tables(options: ReproduceOptions, outcomes: Sequence[Outcome]) -> str:
    """What the experts and the loss weights did, for the questions that are asked; empty if nothing is finished."""
    finished = results_by_variant(outcomes)
    parts = []
    for question, title, lines_of in (
        ("experts", "Share of the most used expert, mean over layers and seeds", expert_lines),
        ("loss", "Loss weights at the end, lowest to highest over the seeds", weight_lines),
    ):
        variants = variants_of(options, question) if question in options.questions else {}
        results = {name: finished[variant] for name, variant in variants.items() if variant in finished}
        if results:
            parts.append("\n".join([f"### {title}", "", *table_lines(lines_of(results))]))
    return "\n\n".join(parts) + "\n"


def results_by_variant(outcomes: Sequence[Outcome]) -> dict[Variant, list[Mapping[str, Any]]]:
    """The results of the finished runs, together for the seeds of a variant."""
    finished: dict[Variant, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        if outcome.result is not None:
            finished.setdefault(outcome.run.variant, []).append(outcome.result)
    return finished


def table_lines(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as a Markdown table; the first line is its head."""
    rule = ["---"] + ["---:"] * (len(lines[0]) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:])]


def csv_table(rows: Sequence[Row], rainy: Mapping[str, Mapping[str, float]]) -> str:
    """The same as CSV, figures in full and a column for each rain type."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["question", "variant", "parameters", "multiply_adds", "seeds", "psnr", "psnr_sd", "ssim", "ssim_sd",
            "worst_psnr", "worst_psnr_sd", "worst_type", "verdict", "verdict_worst"]  # fmt: skip
    writer.writerow([*head, *(f"psnr_{t}" for t in rainy), *(f"psnr_{t}_sd" for t in rainy)])
    for row in rows:
        start = [row.question, row.name, row.cost.parameters, row.cost.multiply_adds]
        s = row.summary
        if s is None:
            writer.writerow([*start, 0, *[""] * 7, row.verdict, row.verdict_worst, *[""] * (2 * len(rainy))])
            continue
        middle = [s.psnr.count]
        for item in (s.psnr, s.ssim, s.worst):
            middle += [item.mean, "" if item.deviation is None else item.deviation]
        types = [s.by_type[t].mean for t in rainy]
        deviations = ["" if s.by_type[t].deviation is None else s.by_type[t].deviation for t in rainy]
        writer.writerow([*start, *middle, s.worst_name, row.verdict, row.verdict_worst, *types, *deviations])
    return file.getvalue()
