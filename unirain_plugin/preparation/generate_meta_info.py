"""``generate-meta-info``: BasicSR's meta_info_file of our pairs, or a manifest of a meta_info_file."""

from __future__ import annotations

import argparse
import os
import sys

from unirain_plugin.data.manifest import write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.meta_info import from_meta_info, to_meta_info
from unirain_plugin.preparation.pair_arguments import add_pair_arguments, chosen_records
from unirain_plugin.support.writing import write_whole


def main(argv: list[str] | None = None) -> int:
    """Convert one way or the other. Returns the exit status."""
    args = _parser().parse_args(argv)
    if args.from_meta_info is not None:
        return _to_manifest(args)
    if args.manifest is None and args.dataroot is None:
        raise OptionError("generate-meta-info: give --manifest or --dataroot (or --from-meta-info).")
    root, records = chosen_records(args)
    records = list(records)
    kept = [record for record in records if record.keep is not False]  # the format cannot say: rejected
    if not kept:
        raise DataError(f"{args.manifest}: distillation has rejected all {len(records)} pairs (keep: false).")
    files = to_meta_info(kept, root)
    os.makedirs(args.output, exist_ok=True)
    types = [file.rain_type for file in files]
    for number, file in enumerate(files):
        name = file.rain_type if types.count(file.rain_type) == 1 else f"{file.rain_type}_{number}"
        path = os.path.join(os.path.abspath(args.output), f"meta_info_{name}.txt")
        _write(path, "\n".join(file.lines) + "\n", args.overwrite)
        sys.stdout.write(f"{path}: {len(file.lines)} pairs. In the option file:\n"
                         f"  dataroot_lq: {file.lq_folder}\n  dataroot_gt: {file.gt_folder}\n"
                         f"  meta_info_file: {path}\n  filename_tmpl: '{file.filename_tmpl}'\n")  # fmt: skip
    if len(kept) < len(records):
        sys.stdout.write(f"left out: {len(records) - len(kept)} of {len(records)} pairs, which distillation rejected\n")
    return 0


def _write(path: str, text: str, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read() != text:
                raise OptionError(f"{path}: this file exists and differs; name another --output, or give --overwrite.")
    write_whole(path, text)


def _to_manifest(args: argparse.Namespace) -> int:
    for name in ("lq_folder", "gt_folder", "rain_type"):
        if not getattr(args, name):
            raise OptionError(f"generate-meta-info: --from-meta-info needs --{name.replace('_', '-')}.")
    if len(args.rain_type) != 1:
        raise OptionError("generate-meta-info: --from-meta-info needs exactly one --rain-type.")
    folder = os.path.dirname(os.path.abspath(args.output))
    records = from_meta_info(
        args.from_meta_info, args.lq_folder, args.gt_folder, folder, args.rain_type[0], args.source, args.filename_tmpl
    )
    count = write_manifest(args.output, records)
    sys.stdout.write(f"{args.output}: {count} pairs\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    description = (
        "Write BasicSR's meta_info_file for every rain type, into the folder --output; or, with --from-meta-info, "
        "the manifest --output of an existing one."
    )
    parser = argparse.ArgumentParser(prog="generate-meta-info", description=description)
    add_pair_arguments(parser, required=False)
    parser.add_argument("--output", required=True, help="folder of the meta info files, or the manifest")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist and differ")
    parser.add_argument("--from-meta-info", metavar="FILE", help="make a manifest of this meta_info_file")
    parser.add_argument("--lq-folder", metavar="DIR", help="dataroot_lq that the meta_info_file belongs to")
    parser.add_argument("--gt-folder", metavar="DIR", help="dataroot_gt that the meta_info_file belongs to")
    parser.add_argument("--filename-tmpl", default="{}", help="filename_tmpl that it is used with (default: {})")
    parser.add_argument("--source", default="", help="the source's name in the manifest")
    return parser
