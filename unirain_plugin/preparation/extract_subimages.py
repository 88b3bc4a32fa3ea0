"""``extract-subimages``: cut pairs into sub-images in RainRAG's layout, with a manifest."""

from __future__ import annotations

import argparse
import os
import sys

from tqdm import tqdm

from unirain_plugin.data.manifest import ManifestWriter
from unirain_plugin.errors import OptionError
from unirain_plugin.preparation.pair_arguments import add_pair_arguments, chosen_records
from unirain_plugin.preparation.subimages import CutPlan, cut_pairs
from unirain_plugin.support.writing import claim_folder


def main(argv: list[str] | None = None) -> int:
    """Cut. Returns the exit status."""
    args = _parser().parse_args(argv)
    for name, least in (("crop_size", 1), ("step", 1), ("thresh_size", 0), ("workers", 1)):
        if getattr(args, name) < least:
            raise OptionError(f"--{name.replace('_', '-')}: expected {least} or more, found {getattr(args, name)}.")
    root, records = chosen_records(args)
    records = list(records)
    plan = CutPlan(args.crop_size, args.step, args.thresh_size, args.compression_level, tuple(args.convert))
    refusal = "holds sub-images of other data or with other sizes; choose another folder."
    claim_folder(args.output, plan.fingerprint(records), refusal)
    with ManifestWriter(os.path.join(args.output, "manifest.jsonl")) as writer:
        parts = cut_pairs(records, root, args.output, plan, args.workers)
        for found in tqdm(parts, total=len(records), desc="cut", unit="pair"):
            for part in found:
                writer.write(part)
    sys.stdout.write(f"{args.output}: {writer.count} pairs of sub-images from {len(records)} pairs\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    description = (
        "Cut pairs into sub-images, {output}/{type}/{input,target}/NAME_sNNN.png, with a manifest.jsonl. If "
        "interrupted, run the same command again: what is cut is not cut again."
    )
    parser = argparse.ArgumentParser(prog="extract-subimages", description=description)
    add_pair_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="an empty folder, or an interrupted run's")
    parser.add_argument("--crop-size", type=int, default=320, metavar="N", help="side of a sub-image (default 320)")
    parser.add_argument("--step", type=int, default=256, metavar="N", help="distance of neighbours (default 256)")
    parser.add_argument("--thresh-size", type=int, default=0, metavar="N", help="rests up to N pixels are dropped")
    parser.add_argument("--compression-level", type=int, choices=range(10), default=3, help="PNG, 0 to 9 (default 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    return parser
