"""Names for any file name, as LMDB keys or of new files: ASCII, without dots, unique, the same in every run."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator

from unirain_plugin.errors import DataError

MAX_KEY_BYTES = 511
_MAX_STEM_BYTES = 200  # of a file name, which most systems allow 255: endings and numbers are added
_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]")


def make_key(path: str) -> str:
    """Return the key of a path: its suffix dropped, every unusual byte as ``%XX``, hashed where too long.

    The toolbox cuts keys at the first dot, takes ASCII only and splits lines at spaces. Leading ``../`` are dropped.
    """
    parts = [part for part in os.path.splitext(path)[0].split("/") if part not in ("", ".", "..")]
    raw = "/".join(parts)
    key = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw.encode("utf-8", "surrogateescape")).decode("ascii")
    return key if len(key) <= MAX_KEY_BYTES else _numbered(key, MAX_KEY_BYTES, raw)


def unique_keys(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield each (lq, gt) pair's key, made from lq; where two coincide with a hash. DataError for a pair twice."""
    used: set[str] = set()
    for lq, gt in pairs:
        key = make_key(lq)
        if key in used:
            key = _numbered(key, MAX_KEY_BYTES, f"{lq}\0{gt}")
            if key in used:
                raise DataError(f"the pair {lq} / {gt} is listed twice; expected every pair once.")
        used.add(key)
        yield key


def unique_stems(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a name for new files of every pair: no folders or ending, at most 200 bytes; see :func:`unique_keys`."""
    pairs, used = list(pairs), set()
    for (lq, gt), key in zip(pairs, unique_keys(pairs), strict=True):
        stem = key.replace("/", "_")
        if len(stem) > _MAX_STEM_BYTES or stem in used:
            stem = _numbered(stem, _MAX_STEM_BYTES, f"{lq}\0{gt}")
        used.add(stem)
        yield stem


def _numbered(name: str, longest: int, whole: str) -> str:
    """The name, shortened, with a hash of what it stands for."""
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{name[: longest - 33]}-{digest}"
