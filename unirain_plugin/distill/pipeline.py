"""The whole run: inputs, stages, results."""

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from unirain_plugin.data.folders import GT_FOLDER, IMAGE_SUFFIXES, LQ_FOLDER, find_types, scan_rainrag, walk_images
from unirain_plugin.data.manifest import (
    ManifestRecord,
    parse_object,
    path_from,
    read_manifest,
    read_manifests,
    write_manifest,
)
from unirain_plugin.distill.cascade import check_index
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.options import CandidateOptions, DistillOptions, ReferenceOptions
from unirain_plugin.distill.records import Reference
from unirain_plugin.distill.report import Examples, MetaInfo, Statistics, result_rows, write_rows
from unirain_plugin.distill.stages import GROUPS, STAGES
from unirain_plugin.distill.workers import Engine, build_engine, in_this_process
from unirain_plugin.distill.workspace import Workspace, load_lines, save_lines, save_rows
from unirain_plugin.errors import DataError, UniRainError
from unirain_plugin.rain_types import KNOWN_TYPES
from unirain_plugin.support.files import canonical_hash, check_folder, read_errors
from unirain_plugin.support.interruptions import resumable
from unirain_plugin.support.packages import require


def list_references(options: ReferenceOptions) -> list[Reference]:
    """List the real rainy images: sorted by name in a folder, as listed in a list file, one place after the other.

    Names in the second and later places are as seen from the first one's folder. An image that two of them name counts
    once. A DataError if there is none, a folder or list is missing, a line is malformed, an id occurs twice, or two
    places say different things of one image.
    """
    places = options.images if isinstance(options.images, list) else [options.images]
    first = places[0] if places[0].is_dir() else places[0].parent
    known = KNOWN_TYPES if options.rain_types_from_folders is True else options.rain_types_from_folders
    found: dict[str, Reference] = {}
    files: dict[str, tuple[Reference, Path]] = {}
    for place in places:
        for reference, named in _references_of(place):
            if place is not places[0] and not named:
                reference.id = path_from(first, reference.path).removeprefix("./")
            if reference.rain_type is None and options.rain_types_from_folders:
                folders = [part for part in Path(reference.id).parts[:-1] if part in known]
                reference.rain_type = folders[-1] if folders else None
            if len(places) > 1:
                before, other = files.setdefault(path_from(first, reference.path), (reference, place))
                if other is not place:
                    _check_agreement(before, other, reference, place)
                    continue
            if reference.id in found:
                raise DataError(f"references.images: {place}: the id '{reference.id}' occurs twice.")
            found[reference.id] = reference
    return list(found.values())


def _check_agreement(before: Reference, other: Path, reference: Reference, place: Path) -> None:
    for what in ("id", "rain_type"):
        old, new = getattr(before, what), getattr(reference, what)
        if None not in (old, new) and old != new:
            said = f"its {what.replace('_', ' ')} is {new!r} here and {old!r} in {other}; expected the same"
            raise DataError(f"references.images: {place}: {reference.path}: {said}.")
    before.rain_type = before.rain_type or reference.rain_type


def _references_of(place: Path) -> Iterator[tuple[Reference, bool]]:
    """The images of a folder or list file, and whether each bears an id of its own."""
    if place.is_dir():
        names = _rainy_below(place)
        yield from ((Reference(id=name, path=place / name), False) for name in names)
    elif place.is_file():
        names = list(_read_list(place))
        yield from names
    else:
        raise DataError(f"references.images: {place}: no such folder or list file.")
    if not names:
        expected = f"images ({', '.join(sorted(IMAGE_SUFFIXES))})" if place.is_dir() else "one path a line"
        raise DataError(f"references.images: {place} holds no reference image; expected {expected}.")


def _rainy_below(root: Path) -> list[str]:
    """The images below a folder, but those of a folder ``target`` beside ``input``: they are clean. It is logged."""
    names = sorted(walk_images(root))
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    beside = {folder.parent for folder in folders if folder.name.lower() == LQ_FOLDER}
    clean = {folder for folder in folders if folder.name.lower() == GT_FOLDER and folder.parent in beside}
    if clean:
        logging.getLogger("basicsr").warning(
            "references.images: left out %s: beside '%s' it holds the clean images of pairs, and references are rainy.",
            ", ".join(str(root / folder) for folder in sorted(clean)), LQ_FOLDER,
        )  # fmt: skip
    return [name for name in names if clean.isdisjoint(PurePosixPath(name).parents)]


def _read_list(path: Path) -> Iterator[tuple[Reference, bool]]:
    with read_errors(f"references.images: {path}", "cannot be read as a list of images"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        row = parse_object(text, f"{path}:{number}") if text.startswith("{") else {"image": text}
        if not isinstance(row.get("image"), str) or not set(row) <= {"image", "id", "rain_type"}:
            expected = "the keys image and, if known, id and rain_type"
            raise DataError(f"{path}:{number}: expected {expected}; got {sorted(row)}.")
        if not all(isinstance(value, str) for value in row.values()):
            raise DataError(f"{path}:{number}: expected texts as values; got {text[:80]}.")
        yield Reference(row.get("id", row["image"]), path.parent / row["image"], row.get("rain_type")), "id" in row


def scan_candidates(manifest: Path, shard_size: int) -> tuple[int, np.ndarray]:
    """The number of pairs in a manifest, each checked (DataError), and the byte offset of each shard's first line."""
    count = sum(1 for _ in read_manifest(manifest))
    with open(manifest, "rb") as file:
        ends = accumulate(map(len, file), initial=0)
        return count, np.fromiter(islice(ends, 0, count, shard_size), np.int64)


def list_candidates(options: CandidateOptions) -> tuple[str, Iterator[ManifestRecord]]:
    """The folder that paths are relative to, and the pairs of all manifests or of a folder in RainRAG's layout."""
    if options.dataroot is None:
        manifests = options.manifest if isinstance(options.manifest, list) else [options.manifest]
        return str(manifests[0].parent), read_manifests(manifests)
    root = str(options.dataroot)
    pairs = scan_rainrag(root, find_types(root, None))
    return root, (ManifestRecord(pair.lq, pair.gt, pair.rain_type, options.source) for pair in pairs)


def file_digest(path: Path) -> str:
    """SHA-256 (32 hex digits) of a file; DataError if it cannot be read."""
    with read_errors(f"candidates: {path}"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


_LISTING = "candidates.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    statistics: dict[str, Any]  # as in ``statistics.json``
    made: dict[str, int]  # stage → shards made in this run (the others were there)
    seconds: dict[str, float]  # group of stages → time
    folder: Path  # where the results are


class Pipeline:
    """A distillation run in its folder; :meth:`run` continues where the last one stopped. ``quiet``: no bars."""

    def __init__(self, options: DistillOptions, quiet: bool = False) -> None:
        self.options, self.quiet = options, quiet
        self.workspace = Workspace(options.work_folder)
        self.engine: Engine = build_engine(options.engine)
        self._log = logging.getLogger("basicsr")

    def run(self, restart: bool = False) -> Outcome:
        """Do everything that is not done yet.

        ``restart`` discards the shards that were made with other options or inputs (all, if nothing changed). An
        OptionError if options are wrong, or changed without it; a DataError if inputs are missing, empty or malformed;
        a DistillError if a disk is full, a worker dies or a server is down: finished shards are kept.
        """
        kept = f"finished shards are kept in {self.workspace.root}: run again to go on"
        with resumable(kept), self.workspace.locked():
            self.workspace.remove_leftovers()
            self.check()
            check_folder(self.options.output_folder)
            job = self._job(restart)
            made: dict[str, int] = {}
            seconds: dict[str, float] = {}
            try:
                for group in GROUPS:
                    start = time.perf_counter()
                    made.update(self._make(job, group))
                    seconds[" + ".join(group)] = time.perf_counter() - start
            finally:
                self.engine.close()
            start = time.perf_counter()
            statistics = self._finish(Context(job))
            seconds["results"] = time.perf_counter() - start
            return Outcome(statistics, made, seconds, self.options.output_folder)

    def check(self) -> None:
        """Look, before any work, whether packages, files and models are there; an OptionError names what is missing."""
        self.engine.check()
        check_index(self.options.retrieval.index, self.options.retrieval.index_file)
        if self.options.report.enabled:
            require("jinja2", "jinja2", "report")
        context = Context(Job(self.options, "", 0, "", "", 0))
        for (_, _, key), part in zip(self.options.parts(), context.parts, strict=True):
            try:
                part.check()
            except UniRainError as error:
                name = f"voters ('{part.name}')" if part in context.voters else key
                raise type(error)(f"{name}: {error}") from error

    def plan(self, restart: bool = False) -> tuple[Job, dict[str, int]]:
        """What :meth:`run` would do, or its error, nothing written: the job, and stage → number of shards to make."""
        self.check()
        with tempfile.TemporaryDirectory() as folder:
            job, _, state = self._inputs(Path(folder))
            job = replace(job, candidates=scan_candidates(Path(job.manifest), 1)[0])
        anew = self.workspace.outdated(state, restart)
        shards = {name: stage.shards(job) for name, stage in STAGES.items()}
        return job, {n: count if n in anew else len(self.workspace.missing(n, count)) for n, count in shards.items()}

    def _inputs(self, folder: Path) -> tuple[Job, list[Reference], dict[str, dict[str, Any]]]:
        """The job, its candidates not counted; the references; stage → what its shards depend on, upstream included.

        For candidates in a folder, or in several manifests, one manifest is written into ``folder``.
        """
        references = list_references(self.options.references)
        root, records = list_candidates(self.options.candidates)
        manifest = self.options.candidates.manifest
        if not isinstance(manifest, Path):
            manifest = folder / _LISTING
            write_manifest(manifest, records)
        rows = (json.dumps([r.id, str(r.path), r.rain_type]) for r in references)
        listed = {
            "references": {"references": hashlib.sha256("".join(rows).encode()).hexdigest()[:32]},
            "candidates": {
                "candidates": file_digest(manifest),
                "candidate folder": root,
                "source": self.options.candidates.source,
            },
        }
        work, *places = (os.path.abspath(path) for path in (self.workspace.root, manifest, root))
        job = Job(self.options, work, len(references), *places, candidates=0)
        shape = {"format": 1, "shard_size": self.options.shard_size}
        state = {"inputs": {**shape, **listed["references"], **listed["candidates"]}}
        context = Context(job)
        for name, stage in STAGES.items():
            # without `unreadable`, which says only whether a change of it is refused
            upstream = {source: canonical_hash({**state[source], "unreadable": None}) for source in stage.upstream}
            state[name] = {**stage.depends_on(context), **listed.get(name, {}), "upstream": upstream}
        return job, references, state

    def _job(self, restart: bool) -> Job:
        job, references, state = self._inputs(self.workspace.root)
        for name in self.workspace.adopt(state, restart):
            self._log.info("%s: discarded, to be made anew", name)
        if not self.workspace.is_done("inputs", 0):
            count, offsets = scan_candidates(Path(job.manifest), self.options.shard_size)
            with self.workspace.writing("inputs", 0) as folder:
                rows = ({"id": r.id, "path": os.path.abspath(r.path), "rain_type": r.rain_type} for r in references)
                save_lines(folder, "references", rows)
                save_rows(folder, "offsets", offsets)
                save_lines(folder, "candidates", [{"path": job.manifest, "root": job.folder, "count": count}])
        count = load_lines(self.workspace.shard("inputs", 0), "candidates")[0]["count"]
        return replace(job, candidates=count)

    def _make(self, job: Job, group: tuple[str, ...]) -> dict[str, int]:
        missing = {name: self.workspace.missing(name, STAGES[name].shards(job)) for name in group}
        if "votes" in missing:  # a worker makes a shard of a stage, and the same shard of the stage that waits for it
            shards = sorted({shard for shards in missing.values() for shard in shards})
            units = [[(name, shard) for name in missing if shard in missing[name]] for shard in shards]
        else:
            units = [[(name, shard)] for name, shards in missing.items() for shard in shards]
        whole = all(STAGES[name].whole for name in group)  # of one shard: not worth a worker
        makers = in_this_process(job, units) if whole else self.engine.make(job, units)
        bars = {name: self._bar(job, name, missing[name], place) for place, name in enumerate(group)}
        try:
            for name, items in makers:
                bars[name].update(items)
        finally:
            for bar in reversed(bars.values()):
                bar.close()
        return {name: len(shards) for name, shards in missing.items()}

    def _bar(self, job: Job, name: str, missing: list[int], place: int) -> tqdm:
        stage = STAGES[name]
        done = stage.items(job) - sum(stage.items_in(job, shard) for shard in missing)
        return tqdm(
            total=stage.items(job), initial=done, desc=stage.title, unit="img", disable=self.quiet,
            file=sys.stderr, mininterval=0.5, dynamic_ncols=True, position=place,
        )  # fmt: skip

    def _finish(self, context: Context) -> dict[str, Any]:
        folder, references = self.options.output_folder, context.references
        statistics, meta, examples = Statistics(references), MetaInfo(), Examples(self.options.report)
        with tqdm(
            total=context.job.candidates, desc="write results", unit="img", disable=self.quiet, file=sys.stderr
        ) as bar:
            for row in write_rows(result_rows(context), references, folder):
                for gatherer in (statistics, meta, examples):
                    gatherer.add(row)
                bar.update()
        meta.write(folder)
        statistics.write(folder)
        if self.options.report.enabled:
            examples.write(context, statistics.as_dict(), folder)
        return statistics.as_dict()
