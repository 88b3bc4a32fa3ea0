"""Replies on disk, so that the same question is not paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.errors import DataError
from unirain_plugin.support.files import write_whole


class ReplyCache:
    """One small file a reply, named after the hash of everything that the reply depends on.

    Only replies that held a verdict are kept; errors and unusable replies never are.

    Args:
        folder: Where; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)

    @staticmethod
    def key(parts: Mapping[str, Any]) -> str:
        """Hash of JSON-able parts."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """The reply, or None if there is none; a damaged file counts as none."""
        if self._folder is None:
            return None
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
            return entry["reply"] if entry["key"] == key and isinstance(entry["reply"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; the file appears whole or not at all.

        Raises:
            DistillError: If it cannot be written (disk full, no permission).
        """
        if self._folder is None:
            return
        path = self._path(key)
        try:
            write_whole(path, json.dumps({"key": key, "reply": reply}))
        except DataError as error:
            raise DistillError(f"cache: {error}") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/unirain_plugin/vlm``, or that below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unirain_plugin" / "vlm"
