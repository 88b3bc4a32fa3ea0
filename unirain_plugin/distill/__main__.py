"""``python -m unirain_plugin.distill -opt FILE``: RAG-based dataset distillation (paper §2)."""

from __future__ import annotations

import argparse
import sys

from unirain_plugin.__main__ import run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
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
    """Run the command.

    Raises:
        UniRainError: For whatever a user can mend.
    """
    arguments = build_parser().parse_args(argv)
    from unirain_plugin.distill.options import load_options
    from unirain_plugin.distill.pipeline import Pipeline
    from unirain_plugin.distill.plan import describe_plan

    options = load_options(arguments.opt)
    if arguments.dry_run:
        sys.stdout.write(describe_plan(options))
        return 0
    try:
        outcome = Pipeline(options, quiet=arguments.quiet).run(restart=arguments.restart)
    except KeyboardInterrupt:
        return 130
    counts = ", ".join(f"{number} {name}" for name, number in outcome.statistics["outcomes"].items())
    seconds = sum(outcome.seconds.values())
    sys.stdout.write(f"{outcome.statistics['candidates']} candidates: {counts} ({seconds:.0f} s) → {outcome.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run("distill", sys.argv[1:]))
