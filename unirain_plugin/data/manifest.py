"""The manifest: one JSON line a pair, the one thing that passes from indexing and distillation to training.

A line is an object with ``lq``, ``gt`` and ``rain_type``, and, where known, ``source``, ``size`` and what distillation
decided: ``keep``, ``votes``, ``retrieved``, ``reason``. Reading and writing stream: memory does not grow with the file.
"""

import json
import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any

from unirain_plugin.errors import DataError, OptionError, did_you_mean
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.files import read_errors, whole_file, write_errors
from unirain_plugin.support.spec import shortened

_RAIN_TYPE = re.compile(rb'"rain_type"\s*:\s*"([a-z0-9_]*)"')

SIMILARITIES = ("s_txt", "s_vis", "s_perc")
"""The three similarities of a retrieved reference (paper.md §2): semantic, visual, structural."""


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """One pair."""

    lq: str  # rainy image: a path relative to the manifest's folder (or absolute), or an LMDB key
    gt: str  # clean image, likewise
    rain_type: str  # name of the rain type, such as ``drs``
    source: str = ""  # name of the data set that the pair comes from
    size: tuple[int, int] | None = None  # (height, width) in pixels of both images; None where unknown
    keep: bool | None = None  # distillation's verdict; None before distillation
    votes: Mapping[str, bool | None] | None = None  # verdict of each voter by name; None is an abstention
    # the references shown to the voters: ``{"id": …, "s_txt": …, "s_vis": …, "s_perc": …}``
    retrieved: tuple[Mapping[str, Any], ...] | None = None
    reason: str | None = None  # why the pair was kept or dropped

    def to_json(self) -> str:
        """Return the record as one line without its end; fields without a value are left out."""
        values = ((name, getattr(self, name)) for name in _FIELDS)
        data = {name: value for name, value in values if value is not None and value != ""}
        line = json.dumps(data, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:  # a file name that is not UTF-8: kept as escaped surrogates
            line = json.dumps(data, allow_nan=False)
        return line


_FIELDS = tuple(field.name for field in fields(ManifestRecord))


def read_manifest(path: str | os.PathLike[str]) -> Iterator[ManifestRecord]:
    """Yield the records of a manifest, each checked; a DataError tells ``file:line`` of what is wrong."""
    path = os.fspath(path)
    number = 0
    with read_errors(path, "the manifest cannot be read"), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            yield parse_record(parse_object(line, where), where)
    if not number:
        raise DataError(f"{path}: the manifest is empty; expected one JSON object a line.")


def read_manifests(paths: Sequence[str | os.PathLike[str]], files: bool = True) -> Iterator[ManifestRecord]:
    """Yield the records of several manifests as if they were one in the first one's folder; DataError as for one.

    A rainy image that several of them name is yielded once; if they do not say the same of it, that is a DataError.
    Of a pair that one of them lists again with the same rain type, the first line counts. How many that are is logged.
    ``files``: whether their paths are relative to each one's folder, else they are the same for all (LMDB keys).
    """
    known: dict[str, tuple[object, ...]] = {}
    root = os.path.dirname(os.path.abspath(paths[0]))
    again = count = 0
    for number, path in enumerate(map(os.fspath, paths)):
        seen: set[int] = set()  # hashes of pairs: a tenth of the memory of their names
        for record in read_manifest(path):
            count += 1
            if number and files:
                sides = (os.path.join(os.path.dirname(os.path.abspath(path)), name) for name in (record.lq, record.gt))
                lq, gt = (os.path.normpath(path_from(root, side)) for side in sides)
                record = replace(record, lq=lq, gt=gt)
            before = len(seen)
            seen.add(hash((os.path.normpath(record.lq), os.path.normpath(record.gt), record.rain_type)))
            first = len(seen) > before
            if first and (len(paths) == 1 or is_new(known, record, path, root if files else record.rain_type)):
                yield record
            else:
                again += 1
    if again:
        _tell(f"{', '.join(map(os.fspath, paths))}: {again} of {count} pairs are listed again; each counts once.")


def typed_records(
    paths: Sequence[str | os.PathLike[str]], types: Collection[str] | None, files: bool = True
) -> Iterator[ManifestRecord]:
    """:func:`read_manifests`, but of these rain types alone (None: all); one that has no pair is a DataError."""
    seen: set[str] = set()
    for record in read_manifests(paths, files):
        seen.add(record.rain_type)
        if types is None or record.rain_type in types:
            yield record
    for name in types or ():
        if name not in seen:
            names, hint = ", ".join(map(os.fspath, paths)), did_you_mean(name, seen)
            raise DataError(f"{names}: no pair of rain type '{name}'; found {sorted(seen)}.{hint}")


@cache
def _tell(text: str) -> None:
    """Warn, once a process."""
    logging.getLogger("basicsr").warning(text)


def is_new(known: dict[str, tuple[object, ...]], record: ManifestRecord, path: str, root: str) -> bool:
    """Whether no other manifest has named this rainy image; what is said of it is noted in ``known``.

    ``path`` is the manifest that says it, ``root`` the folder of its paths. A DataError if another says something else.
    """
    lq, gt = (os.path.normpath(name) for name in (os.path.join(root, record.lq), record.gt))
    said = (gt, record.rain_type, record.keep is not False, path)
    before = known.setdefault(lq, said)
    for what, old, new in zip(("clean image", "rain type", "keep"), before, said[:3], strict=False):
        if os.path.join(root, str(old)) != os.path.join(root, str(new)):
            text = f"its {what} is {new!r} here and {old!r} in {before[3]}"
            raise DataError(f"{path}: {record.lq}: {text}; expected the same.")
    return before is said


def parse_object(line: bytes | str, where: str, example: str = '{"lq": …, "gt": …}') -> dict[str, Any]:
    """A line's JSON object, such as ``example``.

    A DataError tells ``where`` what is none, or not strictly JSON, or names a key twice.
    """
    try:
        data = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line).") from None
    except json.JSONDecodeError as error:
        found = "a blank line" if not line.strip() else f"{error.msg} at column {error.colno}"
        raise DataError(f"{where}: expected a JSON object, found {found}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}.") from None
    if not isinstance(data, dict):
        raise DataError(f"{where}: expected a JSON object such as {example}, found {_short(data)}.")
    return data


def parse_record(data: Mapping[str, Any], where: str) -> ManifestRecord:
    """Check one record, a decoded JSON object, and build it; a DataError tells ``where`` and the key."""
    checked = {}
    for key, value in data.items():
        if key not in _CHECKS:
            raise DataError(f"{where}: unknown key '{key}'.{did_you_mean(key, _FIELDS)}")
        if value is not None or key in ("lq", "gt", "rain_type"):
            fits, expected = _CHECKS[key]
            if not fits(value):
                raise DataError(f"{where}: {key}: expected {expected}, found {_short(value)}.")
            checked[key] = tuple(value) if isinstance(value, list) else value
    try:
        return ManifestRecord(**checked)
    except TypeError:
        missing = [key for key in ("lq", "gt", "rain_type") if key not in checked]
        raise DataError(f"{where}: missing key '{missing[0]}'; expected lq, gt and rain_type.") from None


class ManifestWriter:
    """Writes a manifest whole or not at all: as a context manager; if the block raises, an older file stays."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self.count = 0
        self._stack = ExitStack()

    def write(self, record: ManifestRecord) -> None:
        """Add one record; a DataError if it would not be readable again, or cannot be written."""
        line = record.to_json()
        parse_record(json.loads(line), f"{self.path}: record {self.count + 1}")
        with write_errors(self.path):
            self._file.write(line.encode() + b"\n")
        self.count += 1

    def __enter__(self) -> "ManifestWriter":
        with write_errors(self.path):
            self._file = self._stack.enter_context(whole_file(self.path))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with nullcontext() if kind else write_errors(self.path):
            self._stack.__exit__(kind, *error)


def path_from(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """The way from a folder to a file as a manifest in it writes it: between real folders, for ``..``."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.relpath(_real_folder(parent), _real_folder(os.path.abspath(folder))), name)


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def write_manifest(path: str | os.PathLike[str], records: Iterable[ManifestRecord]) -> int:
    """Write records to a manifest, all or nothing. Returns their number."""
    with ManifestWriter(path) as writer:
        for record in records:
            writer.write(record)
    return writer.count


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _short(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


_known_types: set[str] = set()


def _is_rain_type(value: object) -> bool:
    if isinstance(value, str) and value not in _known_types:
        with suppress(OptionError):
            _known_types.update(rain_type_ids([value]))
    return isinstance(value, str) and value in _known_types


def _is_retrieved(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and not entry.keys() - {"id", *SIMILARITIES}
        and all(type(entry.get(s, 0)) in (int, float) and math.isfinite(entry.get(s, 0)) for s in SIMILARITIES)
        for entry in value
    )


def _is_text(value: object) -> bool:
    """Text that files can hold: JSON may hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode("utf-8", "surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def _is_size(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and 0 < v < 10**9 for v in value)


_PATH = (lambda value: _is_text(value) and bool(value) and "\0" not in value, "a path or LMDB key")
_CHECKS = {
    "lq": _PATH,
    "gt": _PATH,
    "rain_type": (_is_rain_type, "a lower-case name such as drs"),
    "source": (_is_text, "text"),
    "size": (_is_size, "[height, width] in pixels"),
    "keep": (lambda value: isinstance(value, bool), "true or false"),
    "votes": (
        lambda value: isinstance(value, dict) and all(v is None or isinstance(v, bool) for v in value.values()),
        "voters with true, false or null",
    ),
    "retrieved": (_is_retrieved, "a list of objects with id and the numbers " + ", ".join(SIMILARITIES)),
    "reason": (_is_text, "text"),
}
"""Key → (whether a value fits, what is expected)."""


def rain_types_in(path: str | os.PathLike[str]) -> set[str]:
    """The rain types of a manifest's pairs. Fast: most lines are only searched, and nothing else in them is checked."""
    seen: set[str] = set()
    with open(path, "rb") as file:
        for line in file:
            names = _RAIN_TYPE.findall(line)
            if len(names) == 1 and names[0].decode() in seen:
                continue
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("rain_type"), str):
                    seen.add(record["rain_type"])
    return seen
