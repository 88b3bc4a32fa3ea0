"""Writes what came out: runs.jsonl, results.json, tables, curves, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from unirain_plugin.study.costs import Costs
from unirain_plugin.study.figures import draw_curves, draw_pictures
from unirain_plugin.study.files import write_json
from unirain_plugin.study.grid import Outcome
from unirain_plugin.study.options import ReproduceOptions
from unirain_plugin.study.report import (
    Row,
    csv_table,
    data_table,
    make_rows,
    markdown_tables,
    type_table,
    usage_tables,
)
from unirain_plugin.support.files import write_png, write_whole
from unirain_plugin.support.provenance import provenance


def write_runs(root: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``runs.jsonl``: a line a run that ended, with its variant, seed, status, figures and seconds."""
    lines = [json.dumps(_run(outcome), ensure_ascii=False) for outcome in outcomes if outcome.status != "missing"]
    write_whole(root / "runs.jsonl", "".join(line + "\n" for line in lines))


def _run(outcome: Outcome) -> dict[str, Any]:
    run = outcome.run
    entry = {"name": run.name, **asdict(run.variant), "seed": run.seed, "status": outcome.status}
    if outcome.error:
        entry["error"] = outcome.error
    return entry | {key: value for key, value in (outcome.result or {}).items() if key != "routing"}


def write_results(
    root: Path,
    options: ReproduceOptions,
    costs: Costs,
    data: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    record: Mapping[str, Any],
) -> str:
    """Write everything that is told about the runs.

    Args:
        root: The output folder.
        options: The option file.
        costs: Of the networks.
        data: Summary of the data.
        outcomes: Of all runs.
        record: What the folder was begun with: ``hash`` and ``options``, and ``begun_with``: code, versions, machine.

    Returns:
        The text of ``table.md``.
    """
    write_runs(root, outcomes)
    rows = make_rows(options, costs, outcomes)
    text = _text(options, costs, data, outcomes, rows, record)
    write_whole(root / "table.md", text)
    write_whole(root / "table.csv", csv_table(rows, data["rainy"]))
    write_json(
        root / "results.json",
        {
            "name": options.name,
            "option_hash": record["hash"],
            "options": record["options"],
            "seeds": list(options.seeds),
            "workers": options.workers,
            "seconds_of_runs": sum(o.result["seconds"] for o in outcomes if o.result),
            "begun_with": record["begun_with"],
            "written_with": provenance(),
            "multiply_adds": {name: asdict(cost) for name, cost in costs.networks.items()},
            "data": data,
            "rows": [asdict(row) for row in rows],
            "runs": [_run(outcome) for outcome in outcomes],
        },
    )
    if any(outcome.status == "finished" for outcome in outcomes):
        rainy = fmean(scores["psnr"] for scores in data["rainy"].values())
        draw_curves(options, outcomes, root, rainy, root / "curves.png")
        for question in options.questions:
            picture = draw_pictures(options, question, outcomes, root)
            if picture is not None:
                write_png(root / f"pictures_{question}.png", picture[..., ::-1])
    return text


def _text(
    options: ReproduceOptions,
    costs: Costs,
    data: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    record: Mapping[str, Any],
) -> str:
    rainy = data["rainy"]
    failed = [f"- {o.run.name}: {o.error}" for o in outcomes if o.status == "failed"]
    lines = [
        f"## Reproduction in miniature: {options.name}",
        "",
        *_setting(options, costs, rainy, outcomes),
        "",
        markdown_tables(rows, rainy),
        "### Gain over the rainy input by rain type, dB",
        "",
        type_table(rows, rainy),
        usage_tables(options, outcomes),
        "### What was planted and what distillation kept",
        "",
        data_table(data["pairs"]),
    ]
    if failed:
        lines += ["### Runs that failed", "", *failed, ""]
    return "\n".join([*lines, _origin(record)]) + "\n"


def _setting(
    options: ReproduceOptions, costs: Costs, rainy: Mapping[str, Mapping[str, float]], outcomes: Sequence[Outcome]
) -> list[str]:
    """What was done, and how to read the tables."""
    done = [o.result for o in outcomes if o.result]
    mean = fmean(scores["psnr"] for scores in rainy.values())
    size = options.data.val_size
    return [
        f"{len(done)} of {len(outcomes)} runs, seeds {', '.join(map(str, options.seeds))}"
        + (f", {done[0]['iterations']} iterations each. " if done else ". ")
        + f"Held-out pictures: {size}², never seen in training; mean PSNR of the rainy input {mean:.2f} dB. "
        f"Multiply-adds at {size}², equal within {costs.largest:.1%} (allowed: {costs.tolerance:.0%}).",
        "",
        "Mean ± standard deviation over the seeds, PSNR in dB. `tie`: the difference to the baseline (the first line) "
        "is smaller than the spread of a difference, √(s₁² + s₂²). Over a few seeds the spread itself is known roughly "
        "at best, so `better` and `worse` are hints, not proofs.",
    ]


def _origin(record: Mapping[str, Any]) -> str:
    origin = record["begun_with"]
    versions = origin["versions"]
    return (
        f"Begun with commit {origin['commit'] or 'unknown'}"
        f"{' and changes not committed' if origin['changed_since_commit'] else ''}, options {record['hash']}, "
        f"unirain_plugin {versions['unirain_plugin']}, torch {versions['torch']}, basicsr {versions['basicsr']}, "
        f"Python {versions['python']}, on {origin['gpu'] or origin['cpu']}; {origin['written']}."
    )
