"""From the data set's options to its table of pairs and the storage that holds their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from unirain_plugin.data.dataset_options import DatasetOptions
from unirain_plugin.data.lmdb import LmdbStorage, scan_lmdb
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.data.mmengine_storage import MmengineStorage
from unirain_plugin.data.pair_table import Pair, PairTable
from unirain_plugin.data.rainrag_folder import find_types, scan_rainrag
from unirain_plugin.data.storage import DiskStorage, Storage
from unirain_plugin.errors import DataError, did_you_mean
from unirain_plugin.rain_types import RAIN_TYPES


def open_source(options: DatasetOptions) -> tuple[PairTable, Storage, tuple[str, ...]]:
    """List the pairs that the options name.

    Returns:
        The pairs, their storage, and the rain types in the order of their labels.

    Raises:
        DataError: If folders, files or pairs are missing.
    """
    if options.manifest is not None:
        return _from_manifest(options)
    root = os.path.expanduser(options.dataroot)
    if options.io_backend["type"] != "lmdb":
        types = find_types(root, options.rain_types)
        return scan_rainrag(root, types), _storage(options, root), tuple(types)
    types = find_types(root, options.rain_types, ("lq.lmdb", "gt.lmdb"))
    table = PairTable()
    for rain_type in types:
        for pair, size in scan_lmdb(root, rain_type):
            table.append(pair._replace(size=size))
    return table, LmdbStorage(root), tuple(types)


def _from_manifest(options: DatasetOptions) -> tuple[PairTable, Storage, tuple[str, ...]]:
    manifest = os.path.expanduser(options.manifest)
    table, seen = PairTable(), {}
    for pair in _manifest_pairs(manifest):
        seen[pair.rain_type] = None
        wanted = options.rain_types is None or pair.rain_type in options.rain_types
        if wanted and (pair.kept or options.pyramid is not None):
            table.append(pair)
    for name in options.rain_types or ():
        if name not in seen:
            raise DataError(
                f"{manifest}: no pair of rain type '{name}'; found {sorted(seen)}.{did_you_mean(name, seen)}"
            )
    if not len(table):
        raise DataError(f"{manifest}: distillation has rejected every pair of these rain types (keep: false), and no "
                        "pyramid gives the rest a share.")  # fmt: skip
    root = options.dataroot if options.dataroot is not None else os.path.dirname(os.path.abspath(manifest))
    return table, _storage(options, os.path.expanduser(root)), tuple(options.rain_types or types_in_order(seen))


def types_in_order(seen: Iterable[str]) -> tuple[str, ...]:
    """Rain types that a manifest holds, in the order of their labels: the paper's first, then by name."""
    names = set(seen)
    return (*(name for name in RAIN_TYPES if name in names), *sorted(names - set(RAIN_TYPES)))


def _manifest_pairs(path: str) -> Iterator[Pair]:
    for record in read_manifest(path):
        yield Pair(record.lq, record.gt, record.rain_type, record.source, record.keep is not False, record.size)


def _storage(options: DatasetOptions, root: str) -> Storage:
    kind = options.io_backend["type"]
    if kind == "lmdb":
        return LmdbStorage(root)
    return MmengineStorage(root, options.io_backend) if kind == "mmengine" else DiskStorage(root)
