"""``python -m unirain_plugin reproduce -opt FILE``: the paper's claims in miniature, measured.

Makes the data, trains the grid through the project's runner, evaluates every run on the same held-out images and
writes runs.jsonl, results.json, table.md, table.csv, curves.png and an image for each question. Called again, it goes
on: finished runs are kept, interrupted ones resume from their checkpoints, failed ones are tried again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.options import check_options
from unirain_plugin.study.data import SUMMARY, DataFolder, check_images, distil_options, make_data, read_json, say
from unirain_plugin.study.grid import Grid, Outcome, start_fork_server
from unirain_plugin.study.options import (
    ReproduceOptions,
    base_training,
    differences,
    digest,
    load_options,
    plan_runs,
    run_options,
)
from unirain_plugin.study.report import Report, write_runs
from unirain_plugin.study.results import Costs, mean_of_types, measure_costs, worst_type
from unirain_plugin.support.files import sole_user, write_json
from unirain_plugin.support.interruptions import resumable
from unirain_plugin.support.provenance import provenance

RECORD = "options.json"  # what the output folder was made with


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__.split("\n\n", 1)[1], allow_abbrev=False)
    add = parser.add_argument
    add("-opt", "--opt", type=Path, required=True, metavar="FILE", help="option file: options/reproduce/NAME.yml")
    add("--output", type=Path, metavar="DIR", help="folder for everything (default: results/reproduce/NAME)")
    add("--photographs", nargs="+", metavar="DIR", help="folders of clean photographs instead of those that the file "
        "names: for training and, unless there are --test-sets, held out")  # fmt: skip
    add("--references", metavar="DIR", help="folder of photographs of real rain that distillation compares with")
    add("--test-sets", metavar="DIR", help="folder of public test sets, NAME/{input,target}, to measure on")
    add("--report-only", action="store_true", help="train nothing: write the tables from the runs that are finished")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    options = load_options(args.opt, _folders(args))
    root = (args.output or Path("results", "reproduce", options.name)).resolve()
    training = base_training(options)
    distil_options(root / "data", "reproduce", options.workers, options.data.distill or {})
    images = check_images(options, look=not (root / RECORD).is_file())
    say(f"{options.name}: {len(plan_runs(options))} runs, {', '.join(options.questions)}; output: {root}")
    if args.report_only and not (root / RECORD).is_file():
        raise DataError(f"--output {root}: holds no reproduction to report on.")
    if not args.report_only:
        _check_run_options(options, training, DataFolder(root / "data"), check_paths=False)
    costs = measure_costs(options, training)  # networks of unequal cost are refused before anything is made
    _claim(root, options, training, images)
    say(f"multiply-adds agree within {costs.largest:.1%} (allowed: {options.tolerance:.0%})")
    if args.report_only:
        grid = Grid(root, {}, options.threads)
        return _report(root, options, costs, [grid.outcome(run) for run in plan_runs(options)])
    with (
        resumable("the same command goes on from here"),
        sole_user(root, "another call of this command is at work there."),
    ):
        return _report(root, options, costs, _work(root, options, training))


def _folders(args: argparse.Namespace) -> dict[str, object]:
    given: dict[str, object] = {"references": args.references, "test_sets": args.test_sets}
    if args.photographs:
        if len(args.photographs) > 2:
            raise OptionError(f"--photographs: found {len(args.photographs)} folders; expected one or two.")
        given["photographs"] = dict(zip(("train", "val"), args.photographs, strict=False))
    return {key: value for key, value in given.items() if value}


def _work(root: Path, options: ReproduceOptions, training: dict[str, Any]) -> list[Outcome]:
    started = time.monotonic()
    start_fork_server(options.threads)
    data = DataFolder(root / "data")
    make_data(data, options)
    runs = plan_runs(options)
    _check_run_options(options, training, data, check_paths=True)
    grid = Grid(root, {run: run_options(options, training, run, data) for run in runs}, options.threads)
    outcomes = {run: grid.outcome(run) for run in runs}

    def report(outcome: Outcome) -> None:
        outcomes[outcome.run] = outcome
        write_runs(root, list(outcomes.values()))
        ended = sum(o.status != "missing" for o in outcomes.values())
        words = f"FAILED, {outcome.error}"
        if outcome.result is not None:
            (name, worst), mean = worst_type(outcome.result), mean_of_types(outcome.result)
            words = f"mean PSNR {mean:.2f} dB, worst {name} {worst:.2f} dB, {outcome.result['seconds']:.0f} s"
        say(f"[{ended}/{len(runs)}, {time.monotonic() - started:.0f} s] {outcome.run.name}: {words}")

    grid.work(runs, options.workers, report)
    return list(outcomes.values())


def _report(root: Path, options: ReproduceOptions, costs: Costs, outcomes: list[Outcome]) -> int:
    data, record = read_json(root / "data" / SUMMARY), read_json(root / RECORD)
    text = Report(root, options, costs, data, outcomes, record).write()
    sys.stdout.write(f"\n{text}\n")
    failed = [o.run.name for o in outcomes if o.status == "failed"]
    if failed:
        sys.stderr.write(f"warning: {len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def _check_run_options(
    options: ReproduceOptions, training: dict[str, Any], data: DataFolder, check_paths: bool
) -> None:
    """Check one run's options of each variant: before the data are made without their paths, then with them."""
    first = {}
    for run in plan_runs(options):
        first.setdefault(run.variant, run)
    for run in first.values():
        check_options(run_options(options, training, run, data), f"training of {run.name}", check_paths=check_paths)


def _claim(root: Path, options: ReproduceOptions, training: dict[str, Any], images: dict[str, list[str]]) -> None:
    """Note in the output what it is made with, or check that it is the same; the error names what is not."""
    fixed = options.fixed(training)
    now = {**fixed, "photographs": images}
    record = root / RECORD
    if not record.is_file():
        if root.is_dir() and any(root.iterdir()):
            raise DataError(f"--output {root}: is not empty and was not made by this command; name another folder.")
        write_json(record, {"hash": digest(fixed), "options": now, "begun_with": provenance()})
        return
    before = read_json(record)
    if changed := differences(before["options"], now):
        raise OptionError(
            f"--output {root}: was made with other options (hash {before['hash']}, now {digest(fixed)}): "
            f"{'; '.join(changed)}. Name another folder; only name, seeds, questions and workers may change."
        )
