"""Relation triplets (paper §2) of references and candidates: caption, vectors, thumbnail; and voters' measurements."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from unirain_plugin.data.pairs import read_file
from unirain_plugin.distill.describers.base import Scene
from unirain_plugin.distill.job import Context, Stage
from unirain_plugin.distill.records import (
    Candidate,
    DistillError,
    Reference,
    check_same_size,
    decode_rgb,
    shared_luminance,
    thumbnail,
)
from unirain_plugin.distill.registry import ask_part
from unirain_plugin.distill.stages.duplicates import content_digest, pair_planes
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.workspace import check_plain, save_lines, save_rows
from unirain_plugin.errors import DataError
from unirain_plugin.support.packages import own_code
from unirain_plugin.support.processes import map_in_order

T = TypeVar("T", Reference, Candidate)


class Describe(Stage):
    """What both have in common: read ahead, describe in batches, write one shard."""

    measure: ClassVar[str]  # the voters' method that measures an item
    rainy: ClassVar[Callable[[Any], np.ndarray]]  # item → its rainy image, uint8 RGB (H, W, 3)
    path: ClassVar[Callable[[Any], Path]]  # item → that image's file

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        """The parts; of the voters, only those that measure; how images are read and laid out in shards."""
        nothing = getattr(Voter, cls.measure)
        measuring = [voter for voter in context.voters if getattr(type(voter), cls.measure) is not nothing]
        return {
            "format": 1,
            "captioner": context.captioner.fingerprint(),
            "embedder": context.embedder.fingerprint(),
            "text_encoder": context.text_encoder.fingerprint(),
            "measuring voters": {voter.name: voter.fingerprint() for voter in measuring},
            "working_size": context.options.retrieval.working_size,
            "shard_size": context.options.shard_size,
            "unreadable": context.options.unreadable,
        }

    def run(self, shard: int) -> None:
        items, size = self._items(shard), max(1, self.context.embedder.batch_size)
        lines: list[dict[str, Any]] = []
        columns: dict[str, list[np.ndarray]] = {}
        for batch in self._batches(items, max(size, self.context.captioner.concurrency)):
            found = [{"caption": None, "size": None, "error": error, "measurements": {}} for _, error in batch]
            lines += found
            read = [(item, line) for (item, error), line in zip(batch, found, strict=True) if error is None]
            self._caption(read)
            good = [(item, line) for item, line in read if line["error"] is None]
            for start in range(0, len(good), size):
                self._describe(good[start : start + size], columns)
        if not columns:  # the shapes come from describing a grey image
            grey = self._columns([], [np.full((64, 64, 3), 128, np.uint8)], ["grey"], ["grey"])
            columns = {name: [rows[:0]] for name, rows in grey.items()}
        good = [line["error"] is None for line in lines]
        with self.context.workspace.writing(self.name, shard) as folder:
            for name, blocks in columns.items():
                found = np.concatenate(blocks)
                rows = np.zeros((len(items), *found.shape[1:]), found.dtype)  # zeros where an image is missing
                rows[good] = found
                save_rows(folder, name, rows)
            save_lines(folder, "rows", lines)

    def _batches(self, items: Sequence[T], size: int) -> Iterator[list[tuple[T, str | None]]]:
        """Batches of items with their images read, and the error where that failed; threads read one batch ahead."""
        threads, errors = self.context.options.engine.prefetch, map(self._try_to_read, items)
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            if threads:
                errors = map_in_order(pool, self._try_to_read, items, 2 * size)
            for start in range(0, len(items), size):
                yield list(zip(items[start : start + size], errors, strict=False))

    def _try_to_read(self, item: T) -> str | None:
        try:
            self._read(item)
        except DataError as error:
            return self._leave_out(item, error, "Mend the file and run again, or set")
        return None

    def _leave_out(self, item: T, error: DataError, remedy: str) -> str:
        """The reason to record of an item that is left out; if the run is to stop at it, the error with its remedy."""
        if self.context.options.unreadable == "stop":
            way = "`unreadable: reject` to go on without it: finished shards are kept."
            raise DataError(f"{error} {remedy} {way}") from error
        item.release()
        return str(error)

    def _caption(self, batch: list[tuple[T, dict[str, Any]]]) -> None:
        """Put the captions of items whose images are read into their lines, or why there is none."""
        if not batch:
            return
        scenes = [Scene(item.id, self.path(item), self.rainy(item)) for item, _ in batch]
        names = [scene.id for scene in scenes]
        texts = _checked(ask_part("the captioner", self.context.captioner.caption, scenes, names), len(scenes))
        for (item, line), text in zip(batch, texts, strict=True):
            if isinstance(text, DataError):
                line["error"] = self._leave_out(item, text, "Set")
            else:
                line["caption"] = text

    def _describe(self, batch: list[tuple[T, dict[str, Any]]], columns: dict[str, list[np.ndarray]]) -> None:
        """Add a row for each item to the arrays, and sizes and measurements to their lines."""
        items = [item for item, _ in batch]
        images, names = [self.rainy(item) for item in items], [item.id for item in items]
        texts = [line["caption"] for _, line in batch]
        for name, rows in self._columns(items, images, texts, names).items():
            if rows.ndim < 2 or len(rows) != len(items):
                raise DistillError(f"'{name}': expected {len(items)} rows, got an array of shape {rows.shape}.")
            if rows.dtype.kind == "f" and not np.isfinite(rows).all():
                raise DistillError(f"'{name}': a vector holds NaN or infinity.")
            columns.setdefault(name, []).append(rows)
        for item, line in batch:
            line["size"], line["measurements"] = list(self.rainy(item).shape[:2]), self._measurements(item)
            item.release()

    def _columns(
        self, items: list[T], images: list[np.ndarray], texts: list[str], names: list[str]
    ) -> dict[str, np.ndarray]:
        size, context = self.context.options.retrieval.working_size, self.context
        return {
            "text": ask_part("the text encoder", lambda x: np.float32(context.text_encoder.encode(x)), texts, names),
            "visual": ask_part("the embedder", lambda x: np.float32(context.embedder.embed(x)), images, names),
            "thumbnails": np.stack([thumbnail(shared_luminance(image), size) for image in images]),
        }

    def _measurements(self, item: T) -> dict[str, Any]:
        found = {}
        for voter in self.context.voters:
            what = f"the voter '{voter.name}'"
            with own_code(what, f"'{item.id}'", DistillError, always=True):
                values = getattr(voter, self.measure)(item)
                if not isinstance(values, Mapping):
                    raise DistillError(f"{what} measured {values!r}; expected names and values, {{}} for none.")
            found[voter.name] = dict(values)
            for key, value in found[voter.name].items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise DistillError(f"{what} measured {key} = {value}; expected a finite number.")
            check_plain(found[voter.name], f"{what}: its measurement of '{item.id}'")
        return {name: values for name, values in found.items() if values}

    @abstractmethod
    def _items(self, shard: int) -> Sequence[T]: ...

    @abstractmethod
    def _read(self, item: T) -> None: ...


class DescribeReferences(Describe):
    """The database of real rain, D_r."""

    name = "references"
    title = "describe references"
    of = "references"
    measure = "measure_reference"
    rainy, path = attrgetter("image"), attrgetter("path")

    def _items(self, shard: int) -> Sequence[Reference]:
        size = self.context.options.shard_size
        return self.context.references[shard * size : (shard + 1) * size]

    def _read(self, item: Reference) -> None:
        _ = item.image


class DescribeCandidates(Describe):
    """The pairs to choose from, each file read and decoded once for everything that needs its pixels."""

    name = "candidates"
    title = "describe candidates"
    measure = "measure"
    rainy, path = attrgetter("lq"), attrgetter("lq_path")

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        return {**super().depends_on(context), "candidates.convert": sorted(context.options.candidates.convert)}

    def _items(self, shard: int) -> Sequence[Candidate]:
        return self.context.candidates(shard)

    def _read(self, item: Candidate) -> None:
        paths = (item.lq_path, item.gt_path)
        files = [read_file(str(path)) for path in paths]
        lq, gt = (decode_rgb(data, path, item.convert) for data, path in zip(files, paths, strict=True))
        check_same_size(lq, gt, *paths)
        item.preload(lq, gt)
        item.derived("digest", lambda _: content_digest(*files))

    def _columns(
        self, items: list[Candidate], images: list[np.ndarray], texts: list[str], names: list[str]
    ) -> dict[str, np.ndarray]:
        columns = super()._columns(items, images, texts, names)
        if items:
            columns["planes"] = np.stack([pair_planes(item) for item in items])
            columns["digests"] = np.stack([item.derived("digest", lambda _: None) for item in items])
        else:
            columns["planes"] = np.zeros((1, 2, 32, 32), np.int8)
            columns["digests"] = np.zeros((1, 2), np.uint64)
        return columns


def _checked(texts: Sequence[str | DataError], count: int) -> Sequence[str | DataError]:
    known = isinstance(texts, (list, tuple))
    if not known or len(texts) != count or not all(isinstance(text, (str, DataError)) for text in texts):
        found = f"{len(texts)} results" if known else repr(texts)
        raise DistillError(f"the captioner gave {found} for {count} images, or something else than text.")
    return texts
