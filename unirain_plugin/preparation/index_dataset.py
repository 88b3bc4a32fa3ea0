"""``index-dataset``: a manifest of a public data set, or of one's own by a layout in YAML."""

from __future__ import annotations

import argparse
import os
import sys

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.layouts import RULES, STATUSES, Layout, load_layout
from unirain_plugin.preparation.pair_arguments import add_convert_argument
from unirain_plugin.preparation.pairing import Pairing, PairingOptions, find_pairs
from unirain_plugin.preparation.public_layouts import public_layout, public_layouts
from unirain_plugin.rain_types import rain_type_ids


def main(argv: list[str] | None = None) -> int:
    """Index a data set, list the layouts, or check a manifest. Returns the exit status."""
    args = _parser().parse_args(argv)
    if args.list:
        sys.stdout.write(_table())
        return 0
    if args.check_manifest:
        return _check_manifest(args)
    for name in ("layout", "root", "output"):
        if getattr(args, name) is None:
            raise OptionError(f"index-dataset: --{name} is missing (or use --list, --check-manifest).")
    own = args.layout.endswith((".yml", ".yaml"))
    layout = load_layout(args.layout) if own else public_layout(args.layout)
    sys.stdout.write(f"layout {layout.name} ({layout.title}): {STATUSES[layout.status]}. {layout.note}\n")
    return _index(args, layout)


def _index(args: argparse.Namespace, layout: Layout) -> int:
    from unirain_plugin.preparation.indexing import IndexReport, write_index
    from unirain_plugin.support.writing import write_whole

    if os.path.exists(args.output) and not args.overwrite:
        raise OptionError(f"--output {args.output}: this file exists; name another, or give --overwrite.")
    pairing = find_pairs(args.root, layout, _options(args))
    root, problems = _with_halves(args, pairing)
    report = IndexReport({"layout": layout.name, "status": layout.status, "root": args.root, "split": args.split})
    report.problems, report.warnings = problems, list(pairing.warnings)
    if layout.status != "read" and layout.status != "custom":
        report.warnings.insert(0, f"the layout {layout.name} is {STATUSES[layout.status]}.")
    report_path = args.report or f"{args.output}.report.json"
    os.makedirs(os.path.dirname(os.path.abspath(report_path)), exist_ok=True)
    try:
        write_index(
            args.output, root, pairing.pairs, report, total=len(pairing.pairs), check=args.check, convert=args.convert,
            workers=args.workers, skip=args.on_error == "skip", drop_duplicates=args.drop_duplicates,
            allow_dry=args.allow_dry,
        )  # fmt: skip
    finally:
        write_whole(report_path, report.to_json())
        sys.stdout.write(f"{report.summary()}\nreport: {report_path}\n")
    sys.stdout.write(f"manifest: {args.output}\n")
    return 0


def _options(args: argparse.Namespace) -> PairingOptions:
    types = dict(item.partition("=")[::2] for item in args.map)
    for name in [*types.values(), *([args.rain_type] if args.rain_type else [])]:
        rain_type_ids([name])
    return PairingOptions(args.split, args.rain_type, types, args.source)


def _with_halves(args: argparse.Namespace, pairing: Pairing) -> tuple[str, list[tuple[str, str]]]:
    """Write the halves of joint images, if any; returns the root of the pairs and the problems so far."""
    problems = list(pairing.problems)
    if not pairing.joint:
        return args.root, problems
    if args.halves is None:
        raise OptionError("index-dataset: both images are in one file: give --halves DIR for the halves.")
    from tqdm import tqdm

    from unirain_plugin.data.halves import prepare_halves, split_halves

    prepare_halves(args.root, args.halves, args.rainy_half)
    for joint in tqdm(pairing.joint, desc="split", unit="image"):
        try:
            pairing.pairs.append(split_halves(args.root, joint, args.halves, args.rainy_half, args.convert))
        except DataError as error:
            problems.append(("unreadable", str(error)))
    return args.halves, problems


def _check_manifest(args: argparse.Namespace) -> int:
    from unirain_plugin.data.manifest import read_manifest
    from unirain_plugin.preparation.indexing import check_manifest

    records = read_manifest(args.check_manifest)
    found = check_manifest(
        args.check_manifest, records, args.check, args.convert, args.workers, allow_dry=args.allow_dry
    )
    problems = list(found)
    if problems:
        shown = "\n".join(f"  {kind}: {message}" for kind, message in problems[:20])
        raise DataError(f"{args.check_manifest}: {len(problems)} problem(s), the first of them:\n{shown}")
    sys.stdout.write(f"{args.check_manifest}: every line keeps what it promises\n")
    return 0


def _table() -> str:
    lines = []
    for layout in public_layouts().values():
        rules = ", ".join(dict.fromkeys(part.rule for part in layout.parts))
        types = ", ".join(dict.fromkeys(t for part in layout.parts for t in _types(part.rain_type, part.types)))
        lines += [
            f"{layout.name}: {layout.title} [{STATUSES[layout.status]}]",
            f"    {types}; {rules}",
            f"    {layout.note}",
        ]
    lines += ["", "Pairing rules:", *(f"  {name}: {text}" for name, text in RULES.items())]
    return "\n".join(lines) + "\n"


def _types(rain_type: str | None, types: object) -> list[str]:
    if rain_type is None:
        return ["told by --rain-type"]
    if "{" not in rain_type:
        return [rain_type]
    return list(types.values()) if isinstance(types, dict) else ["told by the folder"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="index-dataset", description="Write a manifest of a data set's pairs.")
    add = parser.add_argument
    add("--list", action="store_true", help="show the layouts and the pairing rules")
    add("--layout", metavar="NAME", help="a public layout's name, or a .yml file with your own")
    add("--root", metavar="DIR", help="the data set's folder")
    add("--output", metavar="FILE", help="the manifest (.jsonl); its paths are relative to its folder")
    add("--split", help="train, test, val, or a folder's name: only images below such folders")
    add("--rain-type", metavar="TYPE", help="the type of all pairs, whatever the layout says")
    add(
        "--map", nargs="+", default=[], metavar="KIND=TYPE", type=_mapping, help="types for kinds that the layout tells"
    )
    add("--source", metavar="NAME", help="the source's name (default: the layout's)")
    add("--on-error", choices=["stop", "skip"], default="stop",
        help="stop: a problem prevents the manifest; skip: such pairs are left out and reported")  # fmt: skip
    add("--check", choices=["decode", "header"], default="decode", help="how closely to look at the images")
    add("--overwrite", action="store_true", help="replace the manifest if it exists")
    add("--drop-duplicates", action="store_true", help="leave out pairs whose bytes are an earlier pair's")
    add("--allow-dry", action="store_true", help="accept pairs without rain (both files have the same bytes)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--report", metavar="FILE", help="the report (default: OUTPUT.report.json)")
    add("--halves", metavar="DIR", help="where to write the halves of side-by-side images")
    add("--rainy-half", choices=["left", "right"], default="right", help="of side-by-side images (default: right)")
    add("--check-manifest", metavar="FILE", help="look at the files of a manifest instead of making one")
    add_convert_argument(parser)
    return parser


def _mapping(text: str) -> str:
    if not all(text.partition("=")):
        raise argparse.ArgumentTypeError(f"expected KIND=TYPE, found {text!r}")
    return text
