"""What a worker is told, and what it builds from it once: parts, reference arrays, the voters' ranges."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from unirain_plugin.data.manifest import parse_record
from unirain_plugin.distill.options import DistillOptions
from unirain_plugin.distill.records import Candidate, DistillError, Reference
from unirain_plugin.distill.registry import build_part, load_parts
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.workspace import Workspace, load_lines, load_rows
from unirain_plugin.support.packages import own_code


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs; small and picklable."""

    options: DistillOptions  # the checked option file
    root: str  # the working folder
    references: int  # number of references
    manifest: str  # of the candidates, absolute
    folder: str  # that the manifest's paths are relative to, absolute
    candidates: int  # number of pairs

    def shards(self, images: int) -> int:
        return -(-images // self.options.shard_size)


class Context:
    """A job in a worker: its parts (not set up yet), and what else it needs, read on first use and kept."""

    def __init__(self, job: Job) -> None:
        self.job, self.options = job, job.options
        self.workspace = Workspace(job.root)
        load_parts(job.options.imports)
        self.parts = [build_part(*part) for part in job.options.parts()]
        self.captioner, self.embedder, self.text_encoder, *self.voters = self.parts
        self._kept = lru_cache(maxsize=64)(self.candidates)

    @cached_property
    def ready_voters(self) -> list[Voter]:
        """The voters after ``setup`` with all references that could be read."""
        references = [reference for reference in self.described_references if reference.caption is not None]
        for voter in self.voters:
            with own_code(f"the voter '{voter.name}'", "the references", DistillError, always=True):
                voter.setup(references)
        return self.voters

    @cached_property
    def references(self) -> list[Reference]:
        rows = load_lines(self.workspace.shard("inputs", 0), "references")
        return [Reference(row["id"], Path(row["path"]), row["rain_type"]) for row in rows]

    @cached_property
    def described_references(self) -> list[Reference]:
        """The references with captions and measurements."""
        shards = range(self.job.shards(self.job.references))
        lines = (line for shard in shards for line in load_lines(self.workspace.shard("references", shard), "rows"))
        for reference, line in zip(self.references, lines, strict=True):
            reference.caption, reference.measurements = line["caption"], line["measurements"]
        return self.references

    def candidates(self, shard: int) -> list[Candidate]:
        """The candidates of a shard as listed; the id is the rainy image's name in the manifest."""
        job, options, size = self.job, self.options.candidates, self.options.shard_size
        first = shard * size
        with open(job.manifest, "rb") as file:
            file.seek(int(load_rows(self.workspace.shard("inputs", 0), "offsets")[shard]))
            lines = [file.readline() for _ in range(min(size, job.candidates - first))]
        candidates = []
        for number, line in enumerate(lines, first + 1):
            record = parse_record(json.loads(line), f"{job.manifest}:{number}")
            lq, gt = (Path(job.folder, name) for name in (record.lq, record.gt))
            source = record.source or options.source
            candidates.append(Candidate(record.lq, lq, gt, record.rain_type, source, convert=tuple(options.convert)))
        return candidates

    def candidate(self, number: int) -> Candidate:
        shard, row = divmod(number, self.options.shard_size)
        return self._kept(shard)[row]

    def close(self) -> None:
        for part in self.parts:
            part.close()


class Stage(ABC):
    """One step of the pipeline: makes shards that depend only on the job and on earlier stages' shards."""

    name: ClassVar[str]  # folder of its shards
    title: ClassVar[str]  # what it does, for the progress bar
    of: ClassVar[str] = "candidates"  # what it counts: ``candidates`` or ``references``
    whole: ClassVar[bool] = False  # one shard holds everything
    upstream: ClassVar[tuple[str, ...]] = ()  # stages whose shards it reads

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def items(cls, job: Job) -> int:
        return job.references if cls.of == "references" else job.candidates

    @classmethod
    def shards(cls, job: Job) -> int:
        return 1 if cls.whole else job.shards(cls.items(job))

    @classmethod
    def items_in(cls, job: Job, shard: int) -> int:
        size, items = job.options.shard_size, cls.items(job)
        return items if cls.whole else min(size, items - shard * size)

    @classmethod
    @abstractmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        """What its shards depend on beside the stages before it: options, fingerprints; JSON-able."""

    @abstractmethod
    def run(self, shard: int) -> None:
        """Make one shard, atomically."""
