"""The interface of a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from unirain_plugin.distill.job import Context, Job


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
