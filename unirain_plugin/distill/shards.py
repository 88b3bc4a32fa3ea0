"""The contents of shards: rows in ``.npy`` files, read through memory maps, and JSON lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.workspace import Workspace


def save_rows(folder: Path, name: str, rows: np.ndarray) -> None:
    """Write an array of rows as ``<name>.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows), allow_pickle=False)  # into a file, a full disk has no error number
    (folder / f"{name}.npy").write_bytes(buffer.getbuffer())


def load_rows(folder: Path, name: str) -> np.ndarray:
    """Open ``<name>.npy`` as a read-only memory map.

    Raises:
        DistillError: If the file is missing or broken.
    """
    path = folder / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        try:
            return np.load(path, allow_pickle=False)  # an array without rows cannot be mapped
        except (OSError, ValueError) as error:
            raise _broken(path, error) from error
    except OSError as error:
        raise _broken(path, error) from error


def save_lines(folder: Path, name: str, rows: Iterable[Any]) -> None:
    """Write JSON-able rows as ``<name>.jsonl``."""
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, allow_nan=False, sort_keys=True) + "\n")


def load_lines(folder: Path, name: str) -> list[Any]:
    """Read ``<name>.jsonl``.

    Raises:
        DistillError: If the file is missing or broken.
    """
    path = folder / f"{name}.jsonl"
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> DistillError:
    return DistillError(f"{path}: the shard is damaged ({error}); delete the folder {path.parent} and run again.")


def row_blocks(workspace: Workspace, stage: str, name: str, shards: int) -> Iterator[np.ndarray]:
    """The rows of one array of a stage, one memory-mapped shard after the other."""
    for index in range(shards):
        yield load_rows(workspace.shard(stage, index), name)


def concatenate_rows(blocks: Iterable[np.ndarray], total: int, folder: Path, name: str) -> None:
    """Join blocks of rows into one ``<name>.npy`` of ``total`` rows; memory holds one block at a time.

    Written as a plain file: on a full disk a memory map would end the process instead of raising an error.

    Raises:
        DistillError: If the blocks hold another number of rows.
    """
    written = 0
    with open(folder / f"{name}.npy", "wb") as file:
        for block in blocks:
            if not written:
                header = {"descr": block.dtype.str, "fortran_order": False, "shape": (total, *block.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(block).data)
            written += len(block)
    if written != total:
        raise DistillError(f"{folder.parent}: expected {total} rows of '{name}', found {written}; run with --restart.")
