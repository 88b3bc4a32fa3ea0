"""Finds candidates that repeat an earlier one."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from unirain_plugin.distill.duplicates import band_keys, find_duplicates
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.records import Candidate
from unirain_plugin.distill.shards import load_rows, row_blocks, save_rows
from unirain_plugin.distill.stages.base import WholeStage


class FindDuplicates(WholeStage):
    """Writes, for each candidate, the number of the one that it repeats, or −1."""

    name: ClassVar[str] = "duplicates"
    title: ClassVar[str] = "find duplicates"
    upstream: ClassVar[tuple[str, ...]] = ("candidates",)

    @staticmethod
    def items(job: Job) -> int:
        """See the base class."""
        return job.candidates.count

    @staticmethod
    def depends_on(context: Context) -> dict[str, Any]:
        """See the base class."""
        return {"format": 1, "duplicates": context.options.duplicates}

    def run(self, shard: int) -> None:
        """See the base class."""
        context, job = self.context, self.context.job
        original = np.full(job.candidates.count, -1, np.int64)
        if context.options.duplicates == "reject":
            shards = job.shards(job.candidates.count)
            digests = np.concatenate(list(row_blocks(context.workspace, "candidates", "digests", shards)))
            blocks = row_blocks(context.workspace, "candidates", "planes", shards)
            keys = np.concatenate([band_keys(np.asarray(block)) for block in blocks])
            rows = np.flatnonzero(digests.any(axis=1))  # the others could not be read
            found = find_duplicates(
                keys[rows], digests[rows], lambda i: self._planes(int(rows[i])), lambda i: self._load(int(rows[i]))
            )
            original[rows] = np.where(found >= 0, rows[np.maximum(found, 0)], -1) if len(rows) else original[rows]
        with context.workspace.writing(self.name, shard) as folder:
            save_rows(folder, "original", original)

    def _planes(self, number: int) -> np.ndarray:
        shard, row = divmod(number, self.context.options.shard_size)
        return _open_planes(self.context, shard)[row]

    def _load(self, number: int) -> Candidate:
        shard, row = divmod(number, self.context.options.shard_size)
        return self.context.candidates(shard)[row]


@lru_cache(maxsize=256)
def _open_planes(context: Context, shard: int) -> np.ndarray:
    return load_rows(context.workspace.shard("candidates", shard), "planes")
