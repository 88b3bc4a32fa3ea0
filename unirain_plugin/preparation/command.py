"""The commands that researchers prepare data with: index-dataset, create-lmdb, extract-subimages, generate-meta-info.

All but the first take their pairs from a manifest, or from a folder in RainRAG's layout.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from unirain_plugin.data.folders import find_types, scan_rainrag
from unirain_plugin.data.image_header import add_limit_argument, limited
from unirain_plugin.data.images import CONVERSIONS
from unirain_plugin.data.manifest import ManifestRecord, ManifestWriter, read_manifests, typed_records, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.indexing import IndexReport, check_manifest, write_index
from unirain_plugin.preparation.layouts import RULES, STATUSES, Part, load_layout, public_layout, public_layouts
from unirain_plugin.preparation.lmdbs import LmdbRecipe, create_lmdbs, verify_lmdbs
from unirain_plugin.preparation.meta_info import from_meta_info, to_meta_info
from unirain_plugin.preparation.pairing import Pairing, PairingOptions, find_pairs, prepare_halves, split_halves
from unirain_plugin.preparation.subimages import CutPlan, cut_pairs
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.files import claim_folder, is_full, write_whole


def index_dataset(argv: list[str] | None = None) -> int:
    """``index-dataset``: a manifest of a public data set, or of one's own by a layout in YAML. Returns the status."""
    args = _index_parser().parse_args(argv)
    if args.list:
        lines = []
        for layout in public_layouts().values():
            rules = ", ".join(dict.fromkeys(part.rule for part in layout.parts))
            types = ", ".join(dict.fromkeys(t for part in layout.parts for t in _told_types(part)))
            lines.append(f"{layout.name}: {layout.title} [{STATUSES[layout.status]}]")
            lines += [f"    {types}; {rules}", f"    {layout.note}"]
        lines += ["", "Pairing rules:", *(f"  {name}: {text}" for name, text in RULES.items())]
        sys.stdout.write("\n".join(lines) + "\n")
        return 0
    with limited(args.max_megapixels):
        return _check_manifest(args) if args.check_manifest else _make_manifest(args)


def _make_manifest(args: argparse.Namespace) -> int:
    for name in ("layout", "root", "output"):
        if getattr(args, name) is None:
            raise OptionError(f"index-dataset: --{name} is missing (or use --list, --check-manifest).")
    own = args.layout.endswith((".yml", ".yaml"))
    layout = load_layout(args.layout) if own else public_layout(args.layout)
    sys.stdout.write(f"layout {layout.name} ({layout.title}): {STATUSES[layout.status]}. {layout.note}\n")
    if not (args.overwrite or args.append):
        _check_new(args.output, "--overwrite or --append")
    types = dict(item.partition("=")[::2] for item in args.map)
    for name in [*types.values(), *([args.rain_type] if args.rain_type else [])]:
        rain_type_ids([name])
    pairing = find_pairs(args.root, layout, PairingOptions(args.split, args.rain_type, types, args.source))
    root, problems = _with_halves(args, pairing)
    report = IndexReport({"layout": layout.name, "status": layout.status, "root": args.root, "split": args.split})
    report.problems, report.warnings = problems, list(pairing.warnings)
    if layout.status not in ("read", "custom"):
        report.warnings.insert(0, f"the layout {layout.name} is {STATUSES[layout.status]}.")
    report_path = args.report or f"{args.output}.report.json"
    try:
        write_index(
            args.output, root, pairing.pairs, report, check=args.check, convert=args.convert,
            workers=args.workers, skip=args.on_error == "skip", drop_duplicates=args.drop_duplicates,
            allow_dry=args.allow_dry, append=args.append,
        )  # fmt: skip
    finally:
        write_whole(report_path, report.to_json())
        sys.stdout.write(f"{report.summary()}\nreport: {report_path}\n")
    sys.stdout.write(f"manifest: {args.output}\n")
    return 0


def _check_new(output: str, options: str = "--overwrite") -> None:
    if os.path.exists(output):
        raise OptionError(f"--output {output}: this file exists; name another, or give {options}.")


def _with_halves(args: argparse.Namespace, pairing: Pairing) -> tuple[str, list[tuple[str, str]]]:
    """Write the halves of joint images, if any; returns the root of the pairs and the problems so far."""
    problems = list(pairing.problems)
    if not pairing.joint:
        return args.root, problems
    if args.halves is None:
        raise OptionError("index-dataset: both images are in one file: give --halves DIR for the halves.")
    prepare_halves(args.root, args.halves, args.rainy_half)
    for joint in tqdm(pairing.joint, desc="split", unit="image"):
        try:
            pairing.pairs.append(split_halves(args.root, joint, args.halves, args.rainy_half, args.convert))
        except DataError as error:
            if is_full(error):
                raise
            problems.append(("unreadable", str(error)))
    return args.halves, problems


def _check_manifest(args: argparse.Namespace) -> int:
    names = ", ".join(args.check_manifest)
    for _ in read_manifests(args.check_manifest):  # a fault of a line, or two that disagree, is told before any image
        pass
    looks = (args.check, args.convert, args.workers, args.allow_dry)
    problems = [problem for path in args.check_manifest for problem in check_manifest(path, *looks)]
    if problems:
        shown = "\n".join(f"  {kind}: {message}" for kind, message in problems[:20])
        raise DataError(f"{names}: {len(problems)} problem(s), the first of them:\n{shown}")
    sys.stdout.write(f"{names}: every line keeps what it promises\n")
    return 0


def _told_types(part: Part) -> list[str]:
    if part.rain_type is None:
        return ["told by --rain-type"]
    return list((part.types or {}).values()) or ["told by the folder"] if "{" in part.rain_type else [part.rain_type]


def _index_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="index-dataset", description="Write a manifest of a data set's pairs.")
    add = parser.add_argument
    add("--list", action="store_true", help="show the layouts and the pairing rules")
    add("--layout", metavar="NAME", help="a public layout's name, or a .yml file with your own")
    add("--root", metavar="DIR", help="the data set's folder")
    add("--output", metavar="FILE", help="the manifest (.jsonl); its paths are relative to its folder")
    add("--split", help="train, test, val, or a folder's name: only images below such folders")
    add("--rain-type", metavar="TYPE", help="the type of all pairs, whatever the layout says")
    text = "types for kinds that the layout tells"
    add("--map", nargs="+", default=[], metavar="KIND=TYPE", type=_mapping, help=text)
    add("--source", metavar="NAME", help="the source's name (default: the layout's)")
    add("--on-error", choices=["stop", "skip"], default="stop",
        help="stop: a problem prevents the manifest; skip: such pairs are left out and reported")  # fmt: skip
    add("--check", choices=["decode", "header"], default="decode", help="how closely to look at the images")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace the manifest if it exists")
    existing.add_argument("--append", action="store_true", help="add the pairs to the manifest if it exists")
    add("--drop-duplicates", action="store_true", help="leave out pairs whose bytes are an earlier pair's")
    add("--allow-dry", action="store_true", help="accept pairs without rain (both files have the same bytes)")
    _add_workers(parser, "processes")
    add("--report", metavar="FILE", help="the report (default: OUTPUT.report.json)")
    add("--halves", metavar="DIR", help="where to write the halves of side-by-side images")
    add("--rainy-half", choices=["left", "right"], default="right", help="of side-by-side images (default: right)")
    text = "look at the files of manifests, and whether these agree, instead of making one"
    add("--check-manifest", nargs="+", metavar="FILE", help=text)
    _add_image_arguments(parser)
    return parser


def _mapping(text: str) -> str:
    if not all(text.partition("=")):
        raise argparse.ArgumentTypeError(f"expected KIND=TYPE, found {text!r}")
    return text


def create_lmdb(argv: list[str] | None = None) -> int:
    """``create-lmdb``: per-type LMDBs in the toolbox's format; resumable; optionally verified. Returns the status."""
    args = _lmdb_parser().parse_args(argv)
    with limited(args.max_megapixels):
        if args.manifest is not None or args.dataroot is not None:
            root, records = _chosen_records(args)
            png, seekable, done = args.recompress == "png", args.seekable, Counter()
            recipe = LmdbRecipe(root, tuple(args.convert), png, seekable, args.level, args.workers, args.commit_every)
            counts = create_lmdbs(args.output, records, recipe, done)
            pairs = ", ".join(f"{rain_type} {count}" for rain_type, count in counts.items())
            sys.stdout.write(f"{args.output}: {sum(counts.values())} pairs ({pairs})\n")
            if seekable and done:
                lines = "".join(f"  {count} {how}\n" for how, count in sorted(done.items()))
                sys.stdout.write(f"of {done.total()} images that were added, made seekable or kept:\n{lines}")
        elif not args.verify:
            raise OptionError("create-lmdb: give --manifest or --dataroot, or --verify alone to check LMDBs.")
        if args.verify:
            count, problems = verify_lmdbs(args.output, args.rain_type, args.convert, args.workers)
            if problems:
                more = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
                what = f"verification found {len(problems)} problem(s) in {count} entries"
                raise DataError("\n  ".join([f"{args.output}: {what}:", *problems[:20], *more]))
            sys.stdout.write(f"{args.output}: {count} entries verified, all decode and agree\n")
    return 0


def _lmdb_parser() -> argparse.ArgumentParser:
    description = (
        "Write {output}/{type}/lq.lmdb and gt.lmdb in BasicSR's format, keeping the sources' bytes, and a "
        "manifest.jsonl of their keys. If interrupted at any moment, run the same command again: it goes on where it "
        "stopped."
    )
    parser = argparse.ArgumentParser(prog="create-lmdb", description=description)
    _add_pair_arguments(parser, required=False)
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder of the LMDBs")
    add("--recompress", choices=["png"], help="store PNG instead of the sources' own bytes")
    text = "write JPEG and PNG anew, without loss, so that crops are read several times as fast"
    add("--seekable", action="store_true", help=text)
    add("--level", type=int, choices=range(10), default=1, help="of --recompress, 0 to 9 (default 1)")
    _add_workers(parser, "reading threads or processes")
    add("--commit-every", type=_number, default=1000, metavar="N", help="pairs in a transaction")
    add("--verify", action="store_true", help="decode every entry afterwards (alone: only verify)")
    return parser


def extract_subimages(argv: list[str] | None = None) -> int:
    """``extract-subimages``: cut pairs into sub-images in RainRAG's layout, with a manifest. Returns the status."""
    args = _subimages_parser().parse_args(argv)
    root, records = _chosen_records(args)
    records = list(records)
    plan = CutPlan(args.crop_size, args.step, args.thresh_size, args.compression_level, tuple(args.convert))
    refusal = "holds sub-images of other data or with other sizes; choose another folder."
    claim_folder(args.output, plan.fingerprint(records, root), refusal, added=["sha256_of_ends"])
    with limited(args.max_megapixels), ManifestWriter(os.path.join(args.output, "manifest.jsonl")) as writer:
        parts = cut_pairs(records, root, args.output, plan, args.workers)
        for found in tqdm(parts, total=len(records), desc="cut", unit="pair"):
            for part in found:
                writer.write(part)
    sys.stdout.write(f"{args.output}: {writer.count} pairs of sub-images from {len(records)} pairs\n")
    return 0


def _subimages_parser() -> argparse.ArgumentParser:
    description = (
        "Cut pairs into sub-images, {output}/{type}/{input,target}/NAME_sNNN.png, with a manifest.jsonl. If "
        "interrupted, run the same command again: what is cut is not cut again."
    )
    parser = argparse.ArgumentParser(prog="extract-subimages", description=description)
    _add_pair_arguments(parser)
    add, rest = parser.add_argument, partial(_number, least=0)
    add("--output", required=True, metavar="DIR", help="an empty folder, or an interrupted run's")
    add("--crop-size", type=_number, default=320, metavar="N", help="side of a sub-image (default 320)")
    add("--step", type=_number, default=256, metavar="N", help="distance of neighbours (default 256)")
    add("--thresh-size", type=rest, default=0, metavar="N", help="rests up to N pixels are dropped")
    add("--compression-level", type=int, choices=range(10), default=3, help="PNG, 0 to 9 (default 3)")
    _add_workers(parser, "processes")
    return parser


def generate_meta_info(argv: list[str] | None = None) -> int:
    """``generate-meta-info``: BasicSR's meta_info_file of our pairs, or a manifest of one. Returns the status."""
    args = _meta_info_parser().parse_args(argv)
    if args.from_meta_info is not None:
        return _manifest_of_meta_info(args)
    if args.manifest is None and args.dataroot is None:
        raise OptionError("generate-meta-info: give --manifest or --dataroot (or --from-meta-info).")
    root, records = _chosen_records(args)
    records = list(records)
    kept = [record for record in records if record.keep is not False]  # the format cannot say: rejected
    if not kept:
        names = ", ".join(args.manifest)
        raise DataError(f"{names}: distillation has rejected all {len(records)} pairs (keep: false).")
    with limited(args.max_megapixels):
        files = to_meta_info(kept, root, args.convert)
    types = [file.rain_type for file in files]
    for number, file in enumerate(files):
        name = file.rain_type if types.count(file.rain_type) == 1 else f"{file.rain_type}_{number}"
        path = os.path.join(os.path.abspath(args.output), f"meta_info_{name}.txt")
        text = "\n".join(file.lines) + "\n"
        if os.path.exists(path) and not args.overwrite and Path(path).read_text("utf-8", "replace") != text:
            raise OptionError(f"{path}: this file exists and differs; name another --output, or give --overwrite.")
        write_whole(path, text)
        sys.stdout.write(f"{path}: {len(file.lines)} pairs. In the option file:\n"
                         f"  dataroot_lq: {file.lq_folder}\n  dataroot_gt: {file.gt_folder}\n"
                         f"  meta_info_file: {path}\n  filename_tmpl: '{file.filename_tmpl}'\n")  # fmt: skip
    if len(kept) < len(records):
        sys.stdout.write(f"left out: {len(records) - len(kept)} of {len(records)} pairs, which distillation rejected\n")
    return 0


def _manifest_of_meta_info(args: argparse.Namespace) -> int:
    for name in ("lq_folder", "gt_folder", "rain_type"):
        if not getattr(args, name):
            raise OptionError(f"generate-meta-info: --from-meta-info needs --{name.replace('_', '-')}.")
    if len(args.rain_type) != 1:
        raise OptionError("generate-meta-info: --from-meta-info needs exactly one --rain-type.")
    if not args.overwrite:
        _check_new(args.output)
    folder = os.path.dirname(os.path.abspath(args.output))
    pairs = args.lq_folder, args.gt_folder, folder, args.rain_type[0], args.source, args.filename_tmpl
    count = write_manifest(args.output, from_meta_info(args.from_meta_info, *pairs))
    sys.stdout.write(f"{args.output}: {count} pairs\n")
    return 0


def _meta_info_parser() -> argparse.ArgumentParser:
    description = (
        "Write BasicSR's meta_info_file for every rain type, into the folder --output; or, with --from-meta-info, "
        "the manifest --output of an existing one."
    )
    parser = argparse.ArgumentParser(prog="generate-meta-info", description=description)
    _add_pair_arguments(parser, required=False)
    add = parser.add_argument
    add("--output", required=True, help="folder of the meta info files, or the manifest")
    add("--overwrite", action="store_true", help="replace files that exist (meta info files: and differ)")
    add("--from-meta-info", metavar="FILE", help="make a manifest of this meta_info_file")
    add("--lq-folder", metavar="DIR", help="dataroot_lq that the meta_info_file belongs to")
    add("--gt-folder", metavar="DIR", help="dataroot_gt that the meta_info_file belongs to")
    add("--filename-tmpl", default="{}", help="filename_tmpl that it is used with (default: {})")
    add("--source", default="", help="the source's name in the manifest")
    return parser


def _add_pair_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    source = parser.add_mutually_exclusive_group(required=required)
    text = "pairs from manifests; paths are relative to the folder of each"
    source.add_argument("--manifest", nargs="+", metavar="FILE", help=text)
    source.add_argument("--dataroot", metavar="DIR", help="pairs from a folder {type}/{input,target}")
    parser.add_argument("--rain-type", nargs="+", metavar="TYPE", help="take these rain types only")
    parser.add_argument("--keep-only", action="store_true", help="take only pairs that distillation kept (keep: true)")
    _add_image_arguments(parser)


def _add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--workers", type=_number, default=os.cpu_count() or 1, metavar="N", help=what)


def _number(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected {least} or more, found {text}")
    return int(text)


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    add_limit_argument(parser)
    text = f"accept these kinds of images as OpenCV converts them: {', '.join(CONVERSIONS)}"
    parser.add_argument("--convert", nargs="+", default=[], metavar="KIND", choices=CONVERSIONS, help=text)


def _chosen_records(args: argparse.Namespace) -> tuple[str, Iterator[ManifestRecord]]:
    """The folder that the paths are relative to, and the chosen records; a type without a pair is a DataError."""
    if args.dataroot is not None:
        if args.keep_only:
            raise OptionError("--keep-only needs --manifest: a folder does not tell which pairs were kept.")
        return args.dataroot, _folder_records(args.dataroot, args.rain_type)
    return os.path.dirname(os.path.abspath(args.manifest[0])), _manifest_records(args)


def _folder_records(root: str, types: list[str] | None) -> Iterator[ManifestRecord]:
    names = find_types(root, types)
    try:
        rain_type_ids(names)
    except OptionError as error:
        raise DataError(f"{root}: {error} Rename the folder, or choose others by --rain-type.") from None
    for pair in scan_rainrag(root, names):
        yield ManifestRecord(pair.lq, pair.gt, pair.rain_type)


def _manifest_records(args: argparse.Namespace) -> Iterator[ManifestRecord]:
    empty = True
    for record in typed_records(args.manifest, args.rain_type):
        if record.keep or not args.keep_only:
            empty = False
            yield record
    if empty:
        raise DataError(f"{', '.join(args.manifest)}: no pair is left: none has keep: true.")
