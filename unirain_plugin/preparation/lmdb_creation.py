"""Making per-type LMDBs of pairs: planned as a whole, read in parallel, written pair by pair, resumed at will."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
from tqdm import tqdm

from unirain_plugin.data.image_io import EncodedImage
from unirain_plugin.data.lmdb import close_environments
from unirain_plugin.data.lmdb_keys import unique_keys
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.data.pair_files import read_pair
from unirain_plugin.preparation.lmdb_writer import SOURCE_BYTES, LmdbSources, LmdbWriter
from unirain_plugin.support.files import sole_user, write_errors

_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class LmdbRecipe:
    """How the entries are made.

    Attributes:
        root: Folder that the records' paths are relative to.
        convert: Kinds of images to accept (see :class:`unirain_plugin.data.image_io.EncodedImage`).
        recompress: Whether to store everything as PNG instead of the sources' own bytes.
        level: PNG compression, 0 to 9.
        workers: Number of reading threads.
        commit_every: Pairs in one transaction, at most.
    """

    root: str
    convert: tuple[str, ...] = ()
    recompress: bool = False
    level: int = 1
    workers: int = 4
    commit_every: int = 1000


@dataclass
class _Plan:
    """The pairs of one rain type with their keys."""

    records: list[ManifestRecord] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def sources(self, recipe: LmdbRecipe, side: str) -> LmdbSources:
        paths = {key: getattr(record, side) for record, key in zip(self.records, self.keys, strict=True)}
        return LmdbSources(paths, recipe.root, f"png level {recipe.level}" if recipe.recompress else SOURCE_BYTES)


def create_lmdbs(output: str, records: Iterable[ManifestRecord], recipe: LmdbRecipe) -> dict[str, int]:
    """Write ``{output}/{type}/lq.lmdb`` and ``gt.lmdb`` and ``{output}/manifest.jsonl``, whose paths are the keys.

    What an interrupted run has left is taken up; what is complete is left alone; new pairs are added.

    Returns:
        The number of pairs of every type.

    Raises:
        DataError: Naming the file if one is missing or bad; what was written so far stays and is taken up later.
    """
    plans: dict[str, _Plan] = {}
    for record in records:
        slim = ManifestRecord(record.lq, record.gt, record.rain_type, record.source, record.size, record.keep)
        plans.setdefault(record.rain_type, _Plan()).records.append(slim)
    for plan in plans.values():
        plan.keys = list(unique_keys((record.lq, record.gt) for record in plan.records))
    close_environments()
    with write_errors(output):
        os.makedirs(output, exist_ok=True)
    with sole_user(output, "another process is writing LMDBs here."):
        for rain_type, plan in plans.items():
            _create_type(os.path.join(output, rain_type), rain_type, plan, recipe)
        _write_manifest(output, plans)
    return {rain_type: len(plan.keys) for rain_type, plan in plans.items()}


def _create_type(folder: str, rain_type: str, plan: _Plan, recipe: LmdbRecipe) -> None:
    os.makedirs(folder, exist_ok=True)
    writers: list[LmdbWriter] = []
    try:
        for side in ("lq", "gt"):
            writers.append(LmdbWriter(os.path.join(folder, f"{side}.lmdb"), plan.sources(recipe, side)))
        missing = zip(*(list(writer.missing(plan.keys)) for writer in writers), strict=True)
        todo = [number for number, sides in enumerate(missing) if any(sides)]
        batch: list[tuple[str, bytes, bytes]] = []
        size = 0
        with tqdm(total=len(plan.keys), initial=len(plan.keys) - len(todo), desc=rain_type, unit="pair") as bar:
            for key, lq, gt in _read_all(plan, todo, recipe):
                batch.append((key, lq, gt))
                size += len(lq) + len(gt)
                if len(batch) >= recipe.commit_every or size >= _BATCH_BYTES:
                    _commit(writers, batch, bar)
                    batch, size = [], 0
            _commit(writers, batch, bar)
        for writer in writers:
            writer.finish(len(plan.keys), recipe.level)
    finally:
        for writer in writers:
            writer.close()


def _commit(writers: list[LmdbWriter], batch: list[tuple[str, bytes, bytes]], bar: tqdm) -> None:
    for side, writer in enumerate(writers, 1):
        writer.put([(entry[0], entry[side]) for entry in batch])
    bar.update(len(batch))


def _read_all(plan: _Plan, todo: list[int], recipe: LmdbRecipe) -> Iterator[tuple[str, bytes, bytes]]:
    """Read ahead in threads (reading, decoding and encoding all release the interpreter's lock), in order."""

    def read(number: int) -> tuple[str, bytes, bytes]:
        lq, gt = read_pair(recipe.root, plan.records[number], recipe.convert)
        return plan.keys[number], _stored(lq, recipe), _stored(gt, recipe)

    with ThreadPoolExecutor(recipe.workers) as pool:
        ahead: deque = deque()
        try:
            for number in todo:
                ahead.append(pool.submit(read, number))
                if len(ahead) >= 4 * recipe.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _stored(image: EncodedImage, recipe: LmdbRecipe) -> bytes:
    if not recipe.recompress:
        return image.data
    return cv2.imencode(".png", image.decode(), [cv2.IMWRITE_PNG_COMPRESSION, recipe.level])[1].tobytes()


def _write_manifest(output: str, plans: dict[str, _Plan]) -> None:
    """Write the manifest of the LMDBs; lines of types that this run did not touch are kept."""
    path = os.path.join(output, "manifest.jsonl")
    kept = [r for r in read_manifest(path) if r.rain_type not in plans] if os.path.exists(path) else []
    fresh = (
        replace(record, lq=key, gt=key)
        for plan in plans.values()
        for record, key in zip(plan.records, plan.keys, strict=True)
    )
    write_manifest(path, [*kept, *fresh])
