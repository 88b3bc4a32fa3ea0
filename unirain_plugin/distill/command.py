"""``python -m unirain_plugin distill -opt FILE``: RAG-based dataset distillation (paper §2); the plan of a dry run."""

import argparse
import sys

from unirain_plugin.distill.job import Context
from unirain_plugin.distill.options import DistillOptions, load_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.stages import STAGES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m unirain_plugin distill",
        description="Retrieve real rain for each candidate pair, let voters judge, keep the best. A run that was "
        "stopped or killed goes on where it was.",
    )
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, options/distill/NAME.yml")
    parser.add_argument("--dry-run", action="store_true", help="print the plan (counts, VLM calls) and do nothing")
    parser.add_argument(
        "--restart", action="store_true", help="discard shards made with other options or inputs (all, if none changed)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    options = load_options(arguments.opt)
    if arguments.dry_run:
        sys.stdout.write(describe_plan(options, arguments.restart))
        return 0
    outcome = Pipeline(options, quiet=arguments.quiet).run(restart=arguments.restart)
    counts = ", ".join(f"{number} {name}" for name, number in outcome.statistics["outcomes"].items())
    seconds = sum(outcome.seconds.values())
    sys.stdout.write(f"{outcome.statistics['candidates']} candidates: {counts} ({seconds:.0f} s) → {outcome.folder}\n")
    return 0


def describe_plan(options: DistillOptions, restart: bool = False) -> str:
    """Check options, inputs and finished shards, as the run would, and describe it in a few lines; writes nothing."""
    job, missing = Pipeline(options, quiet=True).plan(restart)
    context = Context(job)
    lines = [
        f"run        {options.name}: {job.references} references, {job.candidates} candidates",
        f"parts      captioner {options.captioner['type']}, embedder {options.embedder['type']}, "
        f"text encoder {options.text_encoder['type']}",
        f"retrieval  K1 {options.retrieval.k1} → K2 {options.retrieval.k2} → K3 {options.retrieval.k3}, "
        f"index {options.retrieval.index}, SSIM at {options.retrieval.working_size}²",
        f"voters     {', '.join(voter.name for voter in context.voters)}; {len(context.voters) // 2 + 1} of "
        f"{len(context.voters)} must agree",
        f"engine     {options.engine.type}, {options.engine.workers} workers",
        f"work       {options.work_folder} → {options.output_folder}",
    ]
    for name, stage in STAGES.items():
        shards = f"{missing[name]} of {stage.shards(job)} shards to make"
        lines.append(f"stage      {stage.title}: {stage.items(job)} images, {shards}")
    return "\n".join([*lines, *_costs(context)]) + "\n"


def _costs(context: Context) -> list[str]:
    job = context.job
    captions = context.captioner.calls(job.references + job.candidates)
    lines = [f"calls      captioner: {captions}"] if captions else []
    total = captions
    for voter in context.voters:
        cost = voter.cost(job.candidates, min(context.options.retrieval.k3, job.references))
        total += cost.calls
        if cost.calls:
            lines.append(f"calls      voter {voter.name}: at most {cost.calls} requests with {cost.images} images")
    early = " (early exit, rejected duplicates and the cache can only lessen them)" if total else ""
    return [*lines, f"cost       at most {total} VLM calls{early}"]
