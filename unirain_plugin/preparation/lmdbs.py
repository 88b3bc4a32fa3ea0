"""LMDBs of pairs in the toolbox's format, one a rain type and side: written, taken up after a kill, verified.

An LMDB grows in a hidden folder beside its final name. LMDB's commits are atomic, and which keys it holds is the only
record of progress, so a new run simply goes on with the keys that are missing. When all are there, ``meta_info.txt``
is written and the folder is renamed: a folder with the final name is always whole. New entries are added to it in
place: until its ``meta_info.txt`` is replaced, readers see those of before.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from unirain_plugin.data.folders import find_types
from unirain_plugin.data.images import CONVERSIONS, EncodedImage, decode_strictly, image_shape
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.data.names import unique_keys
from unirain_plugin.data.pairs import read_file, read_pair
from unirain_plugin.data.sources import (
    DATA_FILE,
    META_FILE,
    ROWS,
    MetaEntry,
    check_file,
    close_environments,
    count_entries,
    environment,
    read_meta,
    read_seekable,
)
from unirain_plugin.errors import DataError
from unirain_plugin.preparation.seekable import Seekable, make_seekable
from unirain_plugin.support.files import sole_user, write_errors, write_whole
from unirain_plugin.support.processes import map_in_order, map_in_processes

ORIGIN_FILE = "made_from.json"  # says how the entries are stored and where their sources were
SOURCES_FILE = "sources.jsonl"
"""Says which source every key has, so that a run never goes on with another one's, and only adds to what is there."""

SOURCE_BYTES = "source bytes"  # how entries are stored that are their sources' own bytes
_FIRST_MAP_SIZE = 64 << 20


class LmdbSources(NamedTuple):
    """What an LMDB is made of: key → file relative to the real path ``root``, and how the entries are encoded."""

    paths: dict[str, str]
    root: str
    stored_as: str

    def file(self, key: str) -> str:
        return os.path.join(self.root, self.paths[key])

    def includes(self, other: Self) -> bool:
        """Whether all entries of another one are here, of the same files (by their names, or where they really are)."""
        return self.stored_as == other.stored_as and all(
            key in self.paths and (path == self.paths[key] or not self.moved(other, key))
            for key, path in other.paths.items()
        )

    def moved(self, other: Self, key: str) -> bool:
        """Whether another one tells of another file."""
        ours, others = self.file(key), other.file(key)
        return ours != others and os.path.realpath(ours) != os.path.realpath(others)

    def earlier_origin(self, listed: Collection[str]) -> dict[str, str]:
        """What an earlier version noted of an LMDB of these sources (the ``listed`` keys, none: all)."""
        keys = [key for key in self.paths if not listed or key in listed]
        text = "".join(f"{key}\0{self.paths[key]}\n" for key in keys)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return {"entries": str(len(keys)), "sha256_of_list": digest, "stored_as": self.stored_as}

    def write(self, folder: str) -> None:
        lines = (json.dumps(item) + "\n" for item in self.paths.items())
        write_whole(os.path.join(folder, SOURCES_FILE), "".join(lines))
        root = os.path.relpath(self.root, os.path.realpath(os.path.dirname(folder)))
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
    """Writes ``path`` (which must end with ``.lmdb``), or adds to it what it lacks of ``sources``.

    A DataError if the folder, finished or not, was made of something that is not among them, or is damaged.
    """

    def __init__(self, path: str, sources: LmdbSources) -> None:
        self.path = path
        folder, name = os.path.split(path)
        finished = os.path.isdir(path)
        self._folder = path if finished else os.path.join(folder, f".{name}.partial")
        with write_errors(self._folder):
            os.makedirs(self._folder, exist_ok=True)
        data = os.path.join(self._folder, DATA_FILE)
        size = os.path.getsize(data) if os.path.exists(data) else 0
        if finished or size:
            check_file(self._folder)
        self._listed = {entry.key for entry in read_meta(path)} if finished else set()
        known = read_sources(self._folder)
        if finished or size:
            self._check_sources(sources, known)
        if known is None or not (known.includes(sources) and known.root == sources.root):
            sources.write(self._folder)
        whole = self._listed == sources.paths.keys()
        try:
            self._environment = lmdb.open(
                os.fsencode(self._folder), max(_FIRST_MAP_SIZE, 2 * size), meminit=False, readonly=whole,
                lock=not whole, max_dbs=1,
            )  # fmt: skip
        except lmdb.Error as error:
            raise DataError(f"{self._folder}: the LMDB cannot be opened: {error}.") from None
        stored = count_entries(self._environment)
        if whole and stored != len(self._listed):
            self.close()
            found = f"{stored} entries are stored, but {META_FILE} lists {len(self._listed)}"
            raise DataError(f"{path}: {found}; remove it and start anew.")

    def _check_sources(self, sources: LmdbSources, known: LmdbSources | None) -> None:
        """Refuse to go on with what was made of something else."""
        origin, finished = _read_origin(self._folder), self._folder == self.path
        same = origin == sources.earlier_origin(self._listed) if known is None else sources.includes(known)
        if same and self._holds(sources, known):
            return
        what = "exists already and was made" if finished else "is an unfinished LMDB made"
        remedy = "choose another folder or remove it" if finished else "remove it or go on with those"
        if known is None and "sha256_of_list" in origin:
            remedy += (". An earlier version made it, which noted a hash of its list: it is known again by the same "
                       "manifest or folder, with no pair left out, moved or told from elsewhere")  # fmt: skip
        raise DataError(f"{self._folder}: {what} from other data or with other options; {remedy}.")

    def _holds(self, sources: LmdbSources, known: LmdbSources | None) -> bool:
        """Whether the entries are of these sources also where those are not, or may not be, the files of before."""
        keys = [key for key in sources.paths if known is None or (key in known.paths and sources.moved(known, key))]
        with environment(self._folder).begin() as transaction:
            entries = ((key, transaction.get(key.encode())) for key in tqdm(keys, "compared", disable=not keys))
            same = all(
                _made_of(EncodedImage(data, f"{self._folder}: key '{key}'", CONVERSIONS), sources.file(key),
                         sources.stored_as)
                for key, data in entries if data is not None
            )  # fmt: skip
        close_environments()
        return same

    def missing(self, keys: Iterable[str]) -> Iterator[bool]:
        """Yield for each key whether it still has to be written."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            for key in keys:
                yield not cursor.set_key(key.encode())

    def put(self, entries: list[tuple[str, Seekable]]) -> None:
        """Commit some entries with their indexes in one transaction, or DataError; those that are there stay."""
        while entries:
            try:
                indexed = any(entry.index for _, entry in entries)
                rows = self._environment.open_db(ROWS) if indexed else None
                with self._environment.begin(write=True) as transaction:
                    for key, entry in entries:
                        fresh = transaction.put(key.encode(), entry.data, overwrite=False)
                        if fresh and entry.index:
                            transaction.put(key.encode(), entry.index.to_bytes(), db=rows)
                return
            except lmdb.MapFullError:  # the transaction is undone; the map doubles and the batch starts over
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise DataError(f"{self._folder}: cannot be written: {error}. Perhaps the disk is full; what is there "
                                "is kept, the same command goes on with it.") from None  # fmt: skip

    def finish(self, count: int, level: int) -> None:
        """Write ``meta_info.txt``, which states ``level``, and name the folder; DataError if the count differs."""
        found = count_entries(self._environment)
        if found != count:
            raise DataError(f"{self._folder}: {found} entries, expected {count}; remove it and start anew.")
        if len(self._listed) != count:
            with self._environment.begin(buffers=True) as transaction:
                entries = ((bytes(key).decode(), value) for key, value in transaction.cursor() if bytes(key) != ROWS)
                shapes = ((key, ",".join(map(str, image_shape(value, key)))) for key, value in entries)
                # whatever the format of the bytes, the toolbox writes and reads .png
                lines = "".join(f"{key}.png ({shape}) {level}\n" for key, shape in shapes)
                write_whole(os.path.join(self._folder, META_FILE), lines)
        self.close()
        if self._folder != self.path:
            os.rename(self._folder, self.path)

    def close(self) -> None:
        self._environment.close()


_BATCH_BYTES = 64 << 20

_Plan = dict[str, ManifestRecord]  # key → pair, of one rain type


@dataclass(frozen=True)
class LmdbRecipe:
    """How the entries are made: of files below ``root``, kinds of images in ``convert`` accepted.

    ``recompress``: as PNG of ``level`` (0 to 9) instead of the sources' bytes; ``seekable``: written anew, without
    loss, so that a crop is decoded without what lies above it. ``workers`` threads read; ``commit_every``: pairs in a
    transaction.
    """

    root: str
    convert: tuple[str, ...] = ()
    recompress: bool = False
    seekable: bool = False
    level: int = 1
    workers: int = 4
    commit_every: int = 1000

    @property
    def stored_as(self) -> str:
        done = [f"png level {self.level}"] * self.recompress + ["seekable 1"] * self.seekable
        return ", ".join(done) or SOURCE_BYTES


def create_lmdbs(
    output: str, records: Iterable[ManifestRecord], recipe: LmdbRecipe, done: Counter[str] | None = None
) -> dict[str, int]:
    """Write ``{output}/{type}/lq.lmdb`` and ``gt.lmdb`` and ``{output}/manifest.jsonl``, whose paths are the keys.

    What an interrupted run has left is taken up; what is complete is left alone; new pairs are added. ``done`` takes
    what was done to added images, and how often, where they are made seekable. Returns the number of pairs of every
    type; a DataError names the file if one is missing or bad, and what was written so far stays.
    """
    listed: dict[str, list[ManifestRecord]] = {}
    for record in records:
        listed.setdefault(record.rain_type, []).append(replace(record, votes=None, retrieved=None, reason=None))
    plans = {t: dict(zip(unique_keys((r.lq, r.gt) for r in found), found, strict=True)) for t, found in listed.items()}
    close_environments()
    with write_errors(output):
        os.makedirs(output, exist_ok=True)
    with sole_user(output, "another process is writing LMDBs here."):
        for rain_type, plan in plans.items():
            _create_type(os.path.join(output, rain_type), rain_type, plan, recipe, Counter() if done is None else done)
        path = os.path.join(output, "manifest.jsonl")  # lines of types that this run did not touch are kept
        kept = [r for r in read_manifest(path) if r.rain_type not in plans] if os.path.exists(path) else []
        fresh = (replace(record, lq=key, gt=key) for plan in plans.values() for key, record in plan.items())
        write_manifest(path, [*kept, *fresh])
    return {rain_type: len(plan) for rain_type, plan in plans.items()}


def _create_type(folder: str, rain_type: str, plan: _Plan, recipe: LmdbRecipe, done: Counter[str]) -> None:
    os.makedirs(folder, exist_ok=True)
    with ExitStack() as stack:
        writers: list[LmdbWriter] = []
        for side in ("lq", "gt"):
            paths = {key: getattr(record, side) for key, record in plan.items()}
            sources = LmdbSources(paths, os.path.realpath(recipe.root), recipe.stored_as)
            writers.append(LmdbWriter(os.path.join(folder, f"{side}.lmdb"), sources))
            stack.callback(writers[-1].close)
        missing = zip(*(list(writer.missing(plan)) for writer in writers), strict=True)
        todo = [key for key, sides in zip(plan, missing, strict=True) if any(sides)]
        batch: list[tuple[str, list[Seekable]]] = []
        size = 0
        with tqdm(total=len(plan), initial=len(plan) - len(todo), desc=rain_type, unit="pair") as bar:
            for key, images in _read_all(plan, todo, recipe):
                batch.append((key, images))
                size += sum(len(image.data) for image in images)
                done.update(image.how for image in images)
                if len(batch) >= recipe.commit_every or size >= _BATCH_BYTES:
                    _commit(writers, batch, bar)
                    batch, size = [], 0
            _commit(writers, batch, bar)
        for writer in writers:
            writer.finish(len(plan), recipe.level)


def _commit(writers: list[LmdbWriter], batch: list[tuple[str, list[Seekable]]], bar: tqdm) -> None:
    for side, writer in enumerate(writers):
        writer.put([(key, images[side]) for key, images in batch])
    bar.update(len(batch))


def _read_all(plan: _Plan, todo: list[str], recipe: LmdbRecipe) -> Iterator[tuple[str, list[Seekable]]]:
    """Read ahead in threads (reading, decoding and encoding all release the interpreter's lock), in order."""

    def read(key: str) -> tuple[str, list[Seekable]]:
        return key, [_stored(image, recipe) for image in read_pair(recipe.root, plan[key], recipe.convert)]

    with ThreadPoolExecutor(recipe.workers) as pool:
        yield from map_in_order(pool, read, todo, 4 * recipe.workers)


def _stored(image: EncodedImage, recipe: LmdbRecipe) -> Seekable:
    data = image.data
    if recipe.recompress:
        data = cv2.imencode(".png", image.decode(), [cv2.IMWRITE_PNG_COMPRESSION, recipe.level])[1].tobytes()
    return make_seekable(data, image.name) if recipe.seekable else Seekable(data, None, "")


_READ_ALL = """
import os, sys, lmdb
with lmdb.open(os.fsencode(sys.argv[1]), readonly=True, lock=False).begin(buffers=True) as transaction:
    for key, value in transaction.cursor():
        value[:1], value[-1:]
"""
"""Touches both ends of every entry."""


def verify_lmdbs(
    output: str, types: Sequence[str] | None = None, convert: Collection[str] = (), workers: int = 1
) -> tuple[int, list[str]]:
    """Check all LMDBs, and sources that are still there; returns the number of entries, and a line for each problem."""
    count, problems = 0, []
    for rain_type in find_types(output, types, ("lq.lmdb", "gt.lmdb")):
        folder = os.path.join(output, rain_type)
        sides = []
        for side in ("lq", "gt"):
            path = os.path.join(folder, f"{side}.lmdb")
            try:
                entries = {entry.key: entry for entry in read_meta(path)}
                _survive_reading(path)
                stored = count_entries(environment(path))
            except DataError as error:
                problems.append(str(error))
                continue
            if stored != len(entries):
                problems.append(f"{path}: {stored} entries are stored, but meta_info.txt lists {len(entries)}.")
            sides.append(entries)
            sources = read_sources(path)
            check = partial(_entry_problem, path, tuple(convert), sources is not None and sources.stored_as)
            items = ((e, sources.file(key) if sources and key in sources.paths else None) for key, e in entries.items())
            found = map_in_processes(check, items, workers)
            problems += [p for p in tqdm(found, total=len(entries), desc=f"{rain_type} {side}", unit="image") if p]
            count += len(entries)
        if len(sides) == 2:
            problems += _pair_problems(folder, *sides)
    return count, problems


def _survive_reading(path: str) -> None:
    """Look at every entry in a process of its own: inside a damaged LMDB lmdb may end it without a word."""
    done = subprocess.run([sys.executable, "-c", _READ_ALL, path], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        reason = signal.strsignal(-done.returncode) if done.returncode < 0 else said
        raise DataError(f"{path}: the LMDB is damaged: reading its entries ends with '{reason}'.")


def _entry_problem(
    path: str, convert: tuple[str, ...], stored_as: str, item: tuple[MetaEntry, str | None]
) -> str | None:
    entry, source = item
    name = f"{path}: key '{entry.key}'"
    try:
        view, index = read_seekable(path, entry.key)
        value = bytes(view)
        image = decode_strictly(value, name, convert)
        if index is not None:
            _check_rows(EncodedImage(value, name, convert, index=index), image.decode())
        if (image.height, image.width) != (entry.height, entry.width):
            return (f"{name} is {image.height}×{image.width} (height × width), but meta_info.txt says "
                    f"{entry.height}×{entry.width}.")  # fmt: skip
        same = source is None or _made_of(image, source, stored_as)
    except DataError as error:
        return str(error)
    return None if same else f"{name}: its source {source} has been exchanged or changed since the LMDB was made."


def _made_of(image: EncodedImage, source: str, stored_as: str) -> bool:
    """Whether an entry holds this file's image; also where the file has gone."""
    if not os.path.isfile(source):
        return True
    data = read_file(source)
    if data == image.data or stored_as == SOURCE_BYTES:
        return data == image.data
    return np.array_equal(EncodedImage(data, source, image.convert).decode(), image.decode())


def _check_rows(image: EncodedImage, whole: np.ndarray) -> None:
    """Decode every block of rows by itself; DataError if one is not what the whole image has there."""
    step = image.index.rows
    for top in range(0, image.height, step):
        stop = min(top + step, image.height)
        if not np.array_equal(image.decode_rows(stop, top)[: stop - top], whole[top:stop]):
            raise image.index.misfit(image.name, f"rows {top} to {stop - 1} are not those of the whole image")


def _pair_problems(folder: str, lq: dict[str, MetaEntry], gt: dict[str, MetaEntry]) -> Iterator[str]:
    for key in sorted(lq.keys() | gt.keys()):
        if key not in lq or key not in gt:
            yield f"{folder}: key '{key}' is in {'gt' if key in gt else 'lq'}.lmdb only."
        elif lq[key][1:3] != gt[key][1:3]:
            yield f"{folder}: key '{key}' has different sizes in lq.lmdb and gt.lmdb."
