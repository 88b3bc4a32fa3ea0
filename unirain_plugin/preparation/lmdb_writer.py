"""Writing an LMDB in the toolbox's format so that a kill at any moment loses and doubles nothing.

The LMDB grows in a hidden folder beside its final name. LMDB's commits are atomic, and which keys it holds is the only
record of progress, so a new run simply goes on with the keys that are missing. When all are there, ``meta_info.txt``
is written and the folder is renamed: a folder with the final name is always whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import lmdb

from unirain_plugin.data.image_io import EncodedImage, image_shape
from unirain_plugin.data.lmdb import META_FILE
from unirain_plugin.errors import DataError
from unirain_plugin.support.writing import write_errors, write_whole

ORIGIN_FILE = "made_from.json"
"""Says what the LMDB is made of, so that a run never goes on with, or takes for done, another one's."""

_FIRST_MAP_SIZE = 64 << 20
_HEAD = 1 << 16  # enough of an image for its header, as a rule


class LmdbWriter:
    """Writes ``path`` (which must end with ``.lmdb``); :attr:`done` tells that it is there already.

    Args:
        path: Folder of the LMDB.
        origin: What it is made of; compared with what an earlier run has noted.

    Raises:
        DataError: If the folder, finished or not, was made of something else.
    """

    def __init__(self, path: str, origin: dict[str, str]) -> None:
        self.path, self._origin = path, origin
        folder, name = os.path.split(path)
        self._partial = os.path.join(folder, f".{name}.partial")
        self._environment: lmdb.Environment | None = None
        self.done = os.path.isdir(path)
        if self.done:
            self._check_origin(path, "exists already and was made from other data or with other options; choose "
                               "another folder or remove it")  # fmt: skip
            return
        with write_errors(self._partial):
            os.makedirs(self._partial, exist_ok=True)
        if os.path.exists(os.path.join(self._partial, "data.mdb")):
            self._check_origin(self._partial, "is an unfinished LMDB made from other data or with other options; "
                               "remove it or go on with those")  # fmt: skip
        else:
            write_whole(os.path.join(self._partial, ORIGIN_FILE), json.dumps(origin, indent=1))
        size = _file_size(os.path.join(self._partial, "data.mdb"))
        self._environment = lmdb.open(self._partial, map_size=max(_FIRST_MAP_SIZE, 2 * size), meminit=False)

    def _check_origin(self, folder: str, complaint: str) -> None:
        try:
            with open(os.path.join(folder, ORIGIN_FILE), encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            found = None
        if found != self._origin:
            raise DataError(f"{folder}: {complaint}.")

    def missing(self, keys: Iterable[str]) -> Iterator[bool]:
        """Yield for each key whether it still has to be written."""
        if self._environment is None:
            yield from (False for _ in keys)
            return
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            for key in keys:
                yield not cursor.set_key(key.encode())

    def put(self, entries: list[tuple[str, bytes]]) -> None:
        """Commit some entries in one transaction; those that are there already stay as they are.

        Raises:
            DataError: If they cannot be written.
        """
        if self._environment is None:
            return
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in entries:
                        transaction.put(key.encode(), value, overwrite=False)
                return
            except lmdb.MapFullError:  # the transaction is undone; the map doubles and the batch starts over
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise DataError(f"{self._partial}: cannot be written: {error}. Perhaps the disk is full; what is there "
                                "is kept, the same command goes on with it.") from None  # fmt: skip

    def finish(self, count: int, level: int) -> None:
        """Write ``meta_info.txt`` and give the folder its name.

        Args:
            count: The number of entries that there must be.
            level: The compression level that ``meta_info.txt`` states.

        Raises:
            DataError: If there are more or fewer entries.
        """
        if self._environment is None:
            return
        with self._environment.begin(buffers=True) as transaction:
            found = transaction.stat()["entries"]
            if found != count:
                raise DataError(f"{self._partial}: {found} entries, expected {count}; remove it and start anew.")
            lines = (_meta_line(bytes(key).decode(), value, level) for key, value in transaction.cursor())
            write_whole(os.path.join(self._partial, META_FILE), "".join(lines))
        self.close()
        os.rename(self._partial, self.path)
        self.done = True

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
