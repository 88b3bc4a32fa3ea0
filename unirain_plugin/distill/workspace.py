"""The working folder: idempotent shards, written aside and moved into place, under a hash of what they depend on.

A shard holds rows in ``.npy`` files, read through memory maps, and JSON lines.
"""

import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.records import DistillError
from unirain_plugin.errors import OptionError
from unirain_plugin.support.files import sole_user, to_disk, whole_file
from unirain_plugin.support.spec import differences, dotted, shortened

STATE_FILE = "state.json"
TEMPORARY = ".tmp-"
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
               errno.ENAMETOOLONG}  # fmt: skip


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a DistillError that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = "no space is left on the disk; free some"
        elif error.errno in _UNWRITABLE:
            problem = f"cannot be written ({error.strerror}); mend that"
        else:
            raise
        raise DistillError(f"{path}: {problem} and run again: finished shards are kept.") from error


class Workspace:
    """The folder that holds the shards of all stages: ``<root>/<stage>/<shard>/``.

    A shard is a folder that appears by one atomic rename, so it is there whole or not at all, whenever the process
    dies. Two workers that make the same shard are harmless: contents are deterministic, the later one is dropped.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def shard(self, stage: str, index: int) -> Path:
        return self.root / stage / f"{index:06d}"

    def is_done(self, stage: str, index: int) -> bool:
        return self.shard(stage, index).is_dir()

    def missing(self, stage: str, count: int) -> list[int]:
        """The shards of a stage that are still to be made."""
        folder = self.root / stage
        done = set(os.listdir(folder)) if folder.is_dir() else set()
        return [index for index in range(count) if f"{index:06d}" not in done]

    @contextmanager
    def writing(self, stage: str, index: int) -> Iterator[Path]:
        """A temporary folder that becomes the shard when the block ends well, and vanishes when it does not."""
        final = self.shard(stage, index)
        with disk_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=final.parent))
            try:
                yield temporary
                for path in (*sorted(temporary.iterdir()), temporary):
                    to_disk(path)  # before its name appears, for the sake of power cuts
                temporary.chmod(0o755)
                try:
                    os.rename(temporary, final)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Delete temporary folders that a killed run left behind."""
        for folder in (*self.root.glob(f"{TEMPORARY}*"), *self.root.glob(f"*/{TEMPORARY}*")):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out (DataError); the lock goes with the process, however it ends."""
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with sole_user(self.root, "another run is working in this folder; wait for its end."):
            yield

    def outdated(self, stages: Mapping[str, Mapping[str, Any]], restart: bool) -> list[str]:
        """Compare what the stages depend on (JSON-able) with what their shards were made with.

        Returns the stages to be made anew: with ``restart`` those that changed and what is downstream of them (all, if
        none did). Else a stage with shards that changed is an OptionError that says which keys. Shards made under
        ``unreadable: stop`` leave no image out, so under ``reject`` they are the same.
        """
        wanted = {name: json.loads(json.dumps(content, default=str)) for name, content in stages.items()}
        known, changed = self._read_state(), []
        for name, content in wanted.items():
            made_with = known.get(name, content)
            fits = content in (made_with, {**made_with, "unreadable": "reject"})
            if not fits or not set(changed).isdisjoint(content.get("upstream", ())):
                changed.append(name)
        shards = {name: (self.root / name).glob("*") for name in changed}
        changed = [n for n in changed if any(not path.name.startswith(TEMPORARY) for path in shards[n])]
        stale = [name for name in wanted if name not in known and (self.root / name).exists()]
        if changed and not restart:
            keys = []
            for path, *values in islice(differences(known[changed[0]], wanted[changed[0]]), 4):
                old, new = (shortened(json.dumps(value, ensure_ascii=False)) for value in values)
                keys.append(f"{dotted(path)}: {old} before, {new} now")
            what = f"the finished shards were made with other options or inputs ({'; '.join(keys)})"
            remedy = "Set them back, choose another work folder, or give --restart to redo the stages concerned"
            raise OptionError(f"{self.root}: {what}. {remedy}: {', '.join(changed)}")
        redone = (changed or wanted) if restart else ()
        return [name for name in wanted if name in redone or name in stale]

    def adopt(self, stages: Mapping[str, Mapping[str, Any]], restart: bool) -> list[str]:
        """Delete the shards of the stages that are :meth:`outdated`, note what the new ones depend on; returns them."""
        removed = [name for name in self.outdated(stages, restart) if (self.root / name).exists()]
        for name in removed:
            # the rename first, so that a kill in the middle leaves no half of a stage
            grave = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.root))
            os.rename(self.root / name, grave / name)
            shutil.rmtree(grave, ignore_errors=True)
        text = json.dumps(stages, indent=1, sort_keys=True, ensure_ascii=False, default=str)
        write_text(self.root / STATE_FILE, text + "\n")
        return removed

    def _read_state(self) -> dict[str, Any]:
        path = self.root / STATE_FILE
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DistillError(f"{path}: not valid JSON ({error}); delete the work folder to start anew.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file by atomic rename. A DistillError if the disk is full or read-only."""
    with disk_errors(path), whole_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def save_rows(folder: Path, name: str, rows: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows), allow_pickle=False)  # into a file, a full disk has no error number
    (folder / f"{name}.npy").write_bytes(buffer.getbuffer())


def load_rows(folder: Path, name: str) -> np.ndarray:
    """Open ``<name>.npy`` as a read-only memory map. A DistillError if the file is missing or broken."""
    path = folder / f"{name}.npy"
    with _unbroken(path):
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:
            return np.load(path, allow_pickle=False)  # an array without rows cannot be mapped


def save_lines(folder: Path, name: str, rows: Iterable[Any]) -> None:
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, allow_nan=False, sort_keys=True) + "\n")


def check_plain(value: Any, what: str) -> None:
    """Refuse what :func:`save_lines` could not write: a DistillError that says which of a part's results it is."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        plain = "plain values (text, finite numbers, lists, mappings)"
        raise DistillError(f"{what} holds more than {plain}: {error}.") from None


def load_lines(folder: Path, name: str) -> list[Any]:
    """Read ``<name>.jsonl``. A DistillError if the file is missing or broken."""
    path = folder / f"{name}.jsonl"
    with _unbroken(path), open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@contextmanager
def _unbroken(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        text = f"{path}: the shard is damaged ({error}); delete the folder {path.parent} and run again."
        raise DistillError(text) from error


def row_blocks(workspace: Workspace, stage: str, name: str, shards: int) -> Iterator[np.ndarray]:
    """The rows of one array of a stage, one memory-mapped shard after the other."""
    for index in range(shards):
        yield load_rows(workspace.shard(stage, index), name)


def concatenate_rows(blocks: Iterable[np.ndarray], total: int, folder: Path, name: str) -> None:
    """Join blocks of rows into one ``<name>.npy`` of ``total`` rows (else DistillError), one block at a time.

    A plain file: on a full disk a memory map would end the process instead of raising an error.
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
