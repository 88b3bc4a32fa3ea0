"""Writing an LMDB in the toolbox's format so that a kill at any moment loses and doubles nothing.

The LMDB grows in a hidden folder beside its final name. LMDB's commits are atomic, and which keys it holds is the only
record of progress, so a new run simply goes on with the keys that are missing. When all are there, ``meta_info.txt``
is written and the folder is renamed: a folder with the final name is always whole. New entries are added to it in
place: until its ``meta_info.txt`` is replaced, readers see those of before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import lmdb

from unirain_plugin.data.image_io import EncodedImage, image_shape
from unirain_plugin.data.lmdb import DATA_FILE, META_FILE, check_file, read_meta
from unirain_plugin.errors import DataError
from unirain_plugin.support.files import write_errors, write_whole

ORIGIN_FILE = "made_from.json"
"""Says how the entries are stored and where their sources were."""
SOURCES_FILE = "sources.jsonl"
"""Says which source every key has, so that a run never goes on with another one's, and only adds to what is there."""

SOURCE_BYTES = "source bytes"
"""How entries are stored that are their sources' own bytes."""

_FIRST_MAP_SIZE = 64 << 20
_HEAD = 1 << 16  # enough of an image for its header, as a rule


class LmdbSources(NamedTuple):
    """What an LMDB is made of.

    Attributes:
        paths: Key → file, relative to ``root``.
        root: The folder of the files.
        stored_as: :data:`SOURCE_BYTES`, or how the entries are encoded.
    """

    paths: dict[str, str]
    root: str
    stored_as: str

    def file(self, key: str) -> str:
        """The file that an entry was made of."""
        return os.path.join(self.root, self.paths[key])

    def includes(self, other: LmdbSources) -> bool:
        """Whether all entries of another one are here, of the same files (by their names, or where they really are)."""
        return self.stored_as == other.stored_as and all(
            key in self.paths
            and (path == self.paths[key] or os.path.realpath(other.file(key)) == os.path.realpath(self.file(key)))
            for key, path in other.paths.items()
        )

    def earlier_origin(self, listed: Collection[str] | None) -> dict[str, str]:
        """What an earlier version noted of an LMDB of these sources, in place of their list.

        Args:
            listed: The keys that the LMDB is made of; None for all.
        """
        keys = [key for key in self.paths if listed is None or key in listed]
        text = "".join(f"{key}\0{self.paths[key]}\n" for key in keys)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return {"entries": str(len(keys)), "sha256_of_list": digest, "stored_as": self.stored_as}

    def write(self, folder: str) -> None:
        """Note it in an LMDB's folder.

        Raises:
            DataError: If it cannot be written.
        """
        lines = (json.dumps(item) + "\n" for item in self.paths.items())
        write_whole(os.path.join(folder, SOURCES_FILE), "".join(lines))
        root = os.path.relpath(os.path.realpath(self.root), os.path.realpath(os.path.dirname(folder)))
        origin = {"entries": str(len(self.paths)), "root": root, "stored_as": self.stored_as}
        write_whole(os.path.join(folder, ORIGIN_FILE), json.dumps(origin, indent=1))


def read_sources(folder: str) -> LmdbSources | None:
    """What an LMDB's folder says that it is made of; None where it does not tell, or not all."""
    try:
        with open(os.path.join(folder, SOURCES_FILE), encoding="utf-8") as file:
            paths = dict(json.loads(line) for line in file)
        origin = _read_origin(folder)
        root = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(folder)), origin["root"]))
        return LmdbSources(paths, root, origin["stored_as"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_origin(folder: str) -> dict[str, str]:
    try:
        with open(os.path.join(folder, ORIGIN_FILE), encoding="utf-8") as file:
            origin = json.load(file)
    except (OSError, ValueError):
        return {}
    return origin if isinstance(origin, dict) else {}


class LmdbWriter:
    """Writes ``path`` (which must end with ``.lmdb``), or adds to it what it lacks.

    Args:
        path: Folder of the LMDB.
        sources: What it is to be made of; what an earlier run has noted must be among it.

    Raises:
        DataError: If the folder, finished or not, was made of something else or is damaged.
    """

    def __init__(self, path: str, sources: LmdbSources) -> None:
        self.path = path
        folder, name = os.path.split(path)
        finished = os.path.isdir(path)
        self._folder = path if finished else os.path.join(folder, f".{name}.partial")
        with write_errors(self._folder):
            os.makedirs(self._folder, exist_ok=True)
        size = _file_size(os.path.join(self._folder, DATA_FILE))
        if finished or size:
            check_file(self._folder)
        self._listed = {entry.key for entry in read_meta(path)} if finished else set()
        known = read_sources(self._folder)
        if finished or size:
            self._check_sources(sources, known)
        if known is None or not (known.includes(sources) and known.root == os.path.realpath(sources.root)):
            sources.write(self._folder)
        whole = self._listed == sources.paths.keys()
        try:
            self._environment: lmdb.Environment | None = lmdb.open(
                os.fsencode(self._folder), max(_FIRST_MAP_SIZE, 2 * size), meminit=False, readonly=whole, lock=not whole
            )
        except lmdb.Error as error:
            raise DataError(f"{self._folder}: the LMDB cannot be opened: {error}.") from None
        stored = self._environment.stat()["entries"]
        if whole and stored != len(self._listed):
            self.close()
            raise DataError(
                f"{path}: {stored} entries are stored, but {META_FILE} lists {len(self._listed)}; remove it and start "
                "anew."
            )

    def _check_sources(self, sources: LmdbSources, known: LmdbSources | None) -> None:
        """Refuse to go on with what was made of something else."""
        origin, finished = _read_origin(self._folder), self._folder == self.path
        if known is not None:
            same = sources.includes(known)
        else:
            same = origin == sources.earlier_origin(self._listed if finished else None)
        if same:
            return
        what, remedy = "is an unfinished LMDB", "remove it or go on with those"
        if finished:
            what, remedy = "exists already", "choose another folder or remove it"
        verb = "and was made" if finished else "made"
        if known is None and "sha256_of_list" in origin:
            remedy += (". An earlier version made it, which noted a hash of its list: it is known again by the same "
                       "manifest or folder, with no pair left out, moved or told from elsewhere")  # fmt: skip
        raise DataError(f"{self._folder}: {what} {verb} from other data or with other options; {remedy}.")

    def missing(self, keys: Iterable[str]) -> Iterator[bool]:
        """Yield for each key whether it still has to be written."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            for key in keys:
                yield not cursor.set_key(key.encode())

    def put(self, entries: list[tuple[str, bytes]]) -> None:
        """Commit some entries in one transaction; those that are there already stay as they are.

        Raises:
            DataError: If they cannot be written.
        """
        while entries:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in entries:
                        transaction.put(key.encode(), value, overwrite=False)
                return
            except lmdb.MapFullError:  # the transaction is undone; the map doubles and the batch starts over
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise DataError(f"{self._folder}: cannot be written: {error}. Perhaps the disk is full; what is there "
                                "is kept, the same command goes on with it.") from None  # fmt: skip

    def finish(self, count: int, level: int) -> None:
        """Write ``meta_info.txt`` and give the folder its name.

        Args:
            count: The number of entries that there must be.
            level: The compression level that ``meta_info.txt`` states.

        Raises:
            DataError: If there are more or fewer entries.
        """
        with self._environment.begin(buffers=True) as transaction:
            found = transaction.stat()["entries"]
            if found != count:
                raise DataError(f"{self._folder}: {found} entries, expected {count}; remove it and start anew.")
            if len(self._listed) != count:
                lines = (_meta_line(bytes(key).decode(), value, level) for key, value in transaction.cursor())
                write_whole(os.path.join(self._folder, META_FILE), "".join(lines))
        self.close()
        if self._folder != self.path:
            os.rename(self._folder, self.path)

    def close(self) -> None:
        """Close the environment; what was committed stays."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None


def _meta_line(key: str, value: memoryview, level: int) -> str:
    """Format a line as the toolbox writes and reads it; whatever the format of the bytes, it says ``.png``."""
    shape = image_shape(bytes(value[:_HEAD]), key)
    if shape is None:
        image = EncodedImage(bytes(value), key, convert=("grey", "alpha", "depth16", "cmyk", "exif"))
        shape = (image.height, image.width, 3)
    return f"{key}.png ({shape[0]},{shape[1]},{shape[2]}) {level}\n"


def _file_size(path: str) -> int:
    with suppress(FileNotFoundError):
        return os.path.getsize(path)
    return 0
