"""Verifying LMDBs: every entry is decoded and compared with ``meta_info.txt`` and with its partner."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from tqdm import tqdm

from unirain_plugin.data.lmdb import MetaEntry, environment, read_meta, read_value
from unirain_plugin.data.rainrag_folder import find_types
from unirain_plugin.data.strict_decode import decode_strictly, map_in_processes
from unirain_plugin.errors import DataError


def verify_lmdbs(
    output: str, types: Sequence[str] | None = None, convert: Collection[str] = (), workers: int = 1
) -> tuple[int, list[str]]:
    """Check ``{output}/{type}/{lq,gt}.lmdb``.

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
                problems += _count_problems(path, len(entries))
            except DataError as error:
                problems.append(str(error))
                continue
            sides.append(entries)
            check = partial(_entry_problem, path, tuple(convert))
            found = map_in_processes(check, entries.values(), workers)
            problems += [p for p in tqdm(found, total=len(entries), desc=f"{rain_type} {side}", unit="image") if p]
            count += len(entries)
        if len(sides) == 2:
            problems += _pair_problems(folder, *sides)
    return count, problems


def _count_problems(path: str, listed: int) -> list[str]:
    stored = environment(path).stat()["entries"]
    return [] if stored == listed else [f"{path}: {stored} entries are stored, but meta_info.txt lists {listed}."]


def _entry_problem(path: str, convert: tuple[str, ...], entry: MetaEntry) -> str | None:
    try:
        image = decode_strictly(read_value(path, entry.key), f"{path}: key '{entry.key}'", convert)
    except DataError as error:
        return str(error)
    if (image.height, image.width) != (entry.height, entry.width):
        return (f"{path}: key '{entry.key}' is {image.height}×{image.width} (height × width), but meta_info.txt says "
                f"{entry.height}×{entry.width}.")  # fmt: skip
    return None


def _pair_problems(folder: str, lq: dict[str, MetaEntry], gt: dict[str, MetaEntry]) -> Iterator[str]:
    for key in sorted(lq.keys() | gt.keys()):
        if key not in lq or key not in gt:
            yield f"{folder}: key '{key}' is in {'gt' if key in gt else 'lq'}.lmdb only."
        elif lq[key][1:3] != gt[key][1:3]:
            yield f"{folder}: key '{key}' has different sizes in lq.lmdb and gt.lmdb."
