"""Verifying LMDBs: every entry is decoded and compared with ``meta_info.txt``, its partner and its source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.data.lmdb import MetaEntry, environment, read_meta, read_value
from unirain_plugin.data.pair_files import read_file
from unirain_plugin.data.rainrag_folder import find_types
from unirain_plugin.data.strict_decode import decode_strictly, map_in_processes
from unirain_plugin.errors import DataError
from unirain_plugin.preparation.lmdb_writer import SOURCE_BYTES, read_sources

_READ_ALL = """
import os, sys, lmdb
with lmdb.open(os.fsencode(sys.argv[1]), readonly=True, lock=False).begin(buffers=True) as transaction:
    for key, value in transaction.cursor():
        value[:1], value[-1:]
"""
"""Touches both ends of every entry."""


def verify_lmdbs(
    output: str, types: Sequence[str] | None = None, convert: Collection[str] = (), workers: int = 1
) -> tuple[int, list[str]]:
    """Check ``{output}/{type}/{lq,gt}.lmdb``, and sources that are still where they were.

    Args:
        output: Folder of the rain types.
        types: The rain types to check; None checks all that are found.
        convert: Kinds of images that are accepted.
        workers: Number of decoding processes.

    Returns:
        The number of entries looked at and one line for every problem.

    Raises:
        DataError: If there are no LMDBs.
    """
    count, problems = 0, []
    for rain_type in find_types(output, types, ("lq.lmdb", "gt.lmdb")):
        folder = os.path.join(output, rain_type)
        sides = []
        for side in ("lq", "gt"):
            path = os.path.join(folder, f"{side}.lmdb")
            try:
                entries = {entry.key: entry for entry in read_meta(path)}
                _survive_reading(path)
                problems += _count_problems(path, len(entries))
            except DataError as error:
                problems.append(str(error))
                continue
            sides.append(entries)
            sources = read_sources(path)
            check = partial(_entry_problem, path, tuple(convert), sources is not None and sources.stored_as)
            items = ((e, sources.file(key) if sources and key in sources.paths else None) for key, e in entries.items())
            found = map_in_processes(check, items, workers)
            problems += [p for p in tqdm(found, total=len(entries), desc=f"{rain_type} {side}", unit="image") if p]
            count += len(entries)
        if len(sides) == 2:
            problems += _pair_problems(folder, *sides)
    return count, problems


def _count_problems(path: str, listed: int) -> list[str]:
    stored = environment(path).stat()["entries"]
    return [] if stored == listed else [f"{path}: {stored} entries are stored, but meta_info.txt lists {listed}."]


def _survive_reading(path: str) -> None:
    """Look at every entry in a process of its own: inside a damaged LMDB lmdb may end it without a word.

    Raises:
        DataError: If it does.
    """
    outcome = subprocess.run([sys.executable, "-c", _READ_ALL, path], stderr=subprocess.PIPE, text=True, check=False)
    if outcome.returncode:
        lines = outcome.stderr.strip().splitlines()
        reason = (
            signal.strsignal(-outcome.returncode) if outcome.returncode < 0 else lines[-1] if lines else "no reason"
        )
        raise DataError(f"{path}: the LMDB is damaged: reading its entries ends with '{reason}'.")


def _entry_problem(
    path: str, convert: tuple[str, ...], stored_as: str, item: tuple[MetaEntry, str | None]
) -> str | None:
    entry, source = item
    name = f"{path}: key '{entry.key}'"
    try:
        value = read_value(path, entry.key)
        image = decode_strictly(value, name, convert)
        if (image.height, image.width) != (entry.height, entry.width):
            return (f"{name} is {image.height}×{image.width} (height × width), but meta_info.txt says "
                    f"{entry.height}×{entry.width}.")  # fmt: skip
        if source is None or not os.path.isfile(source):
            return None
        data = read_file(source)
        same = data == value
        if not same and stored_as != SOURCE_BYTES:
            same = np.array_equal(EncodedImage(data, source, convert).decode(), image.decode())
    except DataError as error:
        return str(error)
    return None if same else f"{name}: its source {source} has been exchanged or changed since the LMDB was made."


def _pair_problems(folder: str, lq: dict[str, MetaEntry], gt: dict[str, MetaEntry]) -> Iterator[str]:
    for key in sorted(lq.keys() | gt.keys()):
        if key not in lq or key not in gt:
            yield f"{folder}: key '{key}' is in {'gt' if key in gt else 'lq'}.lmdb only."
        elif lq[key][1:3] != gt[key][1:3]:
            yield f"{folder}: key '{key}' has different sizes in lq.lmdb and gt.lmdb."
