"""The arguments by which the data commands take their pairs: a manifest, or a folder in RainRAG's layout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from unirain_plugin.data.image_io import CONVERSIONS
from unirain_plugin.data.image_limit import add_limit_argument
from unirain_plugin.data.manifest import ManifestRecord, read_manifest
from unirain_plugin.data.rainrag_folder import find_types, scan_rainrag
from unirain_plugin.errors import DataError, OptionError, did_you_mean
from unirain_plugin.rain_types import rain_type_ids


def add_pair_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--manifest`` / ``--dataroot``, ``--rain-type``, ``--keep-only``, ``--convert``, ``--max-megapixels``."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--manifest", metavar="FILE", help="pairs from a manifest; paths are relative to its folder")
    source.add_argument("--dataroot", metavar="DIR", help="pairs from a folder {type}/{input,target}")
    parser.add_argument("--rain-type", nargs="+", metavar="TYPE", help="take these rain types only")
    parser.add_argument("--keep-only", action="store_true", help="take only pairs that distillation kept (keep: true)")
    add_image_arguments(parser)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--convert`` and ``--max-megapixels``."""
    add_limit_argument(parser)
    text = f"accept these kinds of images as OpenCV converts them: {', '.join(CONVERSIONS)}"
    parser.add_argument("--convert", nargs="+", default=[], metavar="KIND", choices=CONVERSIONS, help=text)


def chosen_records(args: argparse.Namespace) -> tuple[str, Iterator[ManifestRecord]]:
    """Return the folder that the paths are relative to, and the chosen records.

    Raises:
        OptionError: If ``--keep-only`` is given with ``--dataroot``.
        DataError: If a rain type has no pair (raised at the end of the iteration).
    """
    if args.dataroot is not None:
        if args.keep_only:
            raise OptionError("--keep-only needs --manifest: a folder does not tell which pairs were kept.")
        return args.dataroot, _folder_records(args.dataroot, args.rain_type)
    return os.path.dirname(os.path.abspath(args.manifest)), _manifest_records(args)


def _folder_records(root: str, types: list[str] | None) -> Iterator[ManifestRecord]:
    names = find_types(root, types)
    try:
        rain_type_ids(names)
    except OptionError as error:
        raise DataError(f"{root}: {error} Rename the folder, or choose others by --rain-type.") from None
    table = scan_rainrag(root, names)
    for number in range(len(table)):
        pair = table[number]
        yield ManifestRecord(pair.lq, pair.gt, pair.rain_type)


def _manifest_records(args: argparse.Namespace) -> Iterator[ManifestRecord]:
    seen, found = set(), set()
    for record in read_manifest(args.manifest):
        seen.add(record.rain_type)
        wanted = args.rain_type is None or record.rain_type in args.rain_type
        if wanted and (record.keep or not args.keep_only):
            found.add(record.rain_type)
            yield record
    for name in args.rain_type or ():
        if name not in seen:
            hint = did_you_mean(name, seen)
            raise DataError(f"{args.manifest}: no pair of rain type '{name}'; found {sorted(seen)}.{hint}")
    if not found:
        raise DataError(f"{args.manifest}: no pair is left: none has keep: true.")
