"""``create-lmdb``: per-type LMDBs in the toolbox's format; resumable; optionally verified."""

from __future__ import annotations

import argparse
import os
import sys

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.pair_arguments import add_pair_arguments, chosen_records


def main(argv: list[str] | None = None) -> int:
    """Create and / or verify LMDBs. Returns the exit status."""
    args = _parser().parse_args(argv)
    from unirain_plugin.preparation.lmdb_creation import LmdbRecipe, create_lmdbs

    if args.manifest is None and args.dataroot is None:
        if not args.verify:
            raise OptionError("create-lmdb: give --manifest or --dataroot, or --verify alone to check LMDBs.")
    else:
        root, records = chosen_records(args)
        recipe = LmdbRecipe(
            root, tuple(args.convert), args.recompress == "png", args.level, args.workers, args.commit_every
        )
        counts = create_lmdbs(args.output, records, recipe)
        pairs = ", ".join(f"{rain_type} {count}" for rain_type, count in counts.items())
        sys.stdout.write(f"{args.output}: {sum(counts.values())} pairs ({pairs})\n")
    return _verify(args) if args.verify else 0


def _parser() -> argparse.ArgumentParser:
    description = (
        "Write {output}/{type}/lq.lmdb and gt.lmdb in BasicSR's format, keeping the sources' bytes, and a "
        "manifest.jsonl of their keys. If interrupted at any moment, run the same command again: it goes on where it "
        "stopped."
    )
    parser = argparse.ArgumentParser(prog="create-lmdb", description=description)
    add_pair_arguments(parser, required=False)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the LMDBs")
    parser.add_argument("--recompress", choices=["png"], help="store PNG instead of the sources' own bytes")
    parser.add_argument("--level", type=_level, default=1, help="PNG compression of --recompress, 0 to 9 (default 1)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="reading threads or processes")
    parser.add_argument("--commit-every", type=_positive, default=1000, metavar="N", help="pairs in a transaction")
    parser.add_argument("--verify", action="store_true", help="decode every entry afterwards (alone: only verify)")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


def _level(text: str) -> int:
    if not text.isdigit() or int(text) > 9:
        raise argparse.ArgumentTypeError(f"expected 0 to 9, found {text!r}")
    return int(text)


def _verify(args: argparse.Namespace) -> int:
    from unirain_plugin.preparation.lmdb_verification import verify_lmdbs

    count, problems = verify_lmdbs(args.output, args.rain_type, args.convert, args.workers)
    if problems:
        listed = "\n  ".join(problems[:20]) + (f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise DataError(f"{args.output}: verification found {len(problems)} problem(s) in {count} entries:\n  {listed}")
    sys.stdout.write(f"{args.output}: {count} entries verified, all decode and agree\n")
    return 0
