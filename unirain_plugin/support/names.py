"""Names from strangers (LMDB keys, manifests, option files) as paths of new files."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 200
"""Bytes of a folder's or file's name; most systems allow 255, and endings are added."""
_UNSAFE = re.compile("[\\0-\\x1f\\x7f\\ud800-\\udc7f\\udd00-\\udfff]")
_DRIVE = re.compile("^[A-Za-z]:")


def safe_path(name: str) -> str:
    """Return a relative path, without ending as ``name`` is, that stays below the folder that it is put to.

    Usual names come back as they are. Whatever would climb out or be no file's name (``..``, ``/`` at the beginning,
    empty parts, backslashes, drive letters, control characters, too many bytes) is replaced, and a hash of the whole
    name is added, so that two names never become one.
    """
    parts = [_safe_part(part) for part in _DRIVE.sub("", name.replace("\\", "/")).split("/")]
    path = "/".join(part for part in parts if part)
    if path == name:
        return path
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{path}-{digest}" if path else digest


def _safe_part(part: str) -> str:
    if part in (".", ".."):
        return ""
    part = _UNSAFE.sub("_", part)
    data = part.encode("utf-8", "surrogateescape")
    return part if len(data) <= _LONGEST else data[:_LONGEST].decode("utf-8", "ignore")
