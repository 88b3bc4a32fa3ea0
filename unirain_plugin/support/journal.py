"""What has been finished, a JSON line each, on the disk before the next one begins: a rerun goes on from there."""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from unirain_plugin.support.files import write_errors

Key = tuple[str, ...]


class Journal(AbstractContextManager["Journal"]):
    """An append-only file of records, as a context manager; for one key the last record counts.

    The torn line of a killed process is passed over, and the next record begins on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[Key, dict[str, Any]] = {}
        data = path.read_bytes() if path.is_file() else b""
        for line in data.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # of a killed process
                record = json.loads(line.decode("utf-8", "surrogateescape"))
                self._records[tuple(record["key"])] = record
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if data and not data.endswith(b"\n"):
                self._file.write(b"\n")

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # on a full disk what is buffered cannot be written: told when it was added
            self._file.close()

    def get(self, *key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def add(self, key: Key, content: Mapping[str, Any]) -> None:
        """Write a record through to the disk; DataError if that is full or read-only."""
        record = {"key": list(key), **content}
        with write_errors(self.path):
            self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._records[key] = record
