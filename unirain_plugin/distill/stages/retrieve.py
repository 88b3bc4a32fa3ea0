"""Runs the cascade over a shard of candidates."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.retrieval.cascade import Cascade, ReferenceArrays
from unirain_plugin.distill.retrieval.text_index import TextIndex
from unirain_plugin.distill.shards import load_lines, load_rows, save_rows
from unirain_plugin.distill.stages.base import Stage
from unirain_plugin.distill.stages.index import ARRAYS
from unirain_plugin.support.packages import require


class Retrieve(Stage):
    """Writes the retrieved references' rows and similarities."""

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "retrieve references"
    upstream: ClassVar[tuple[str, ...]] = ("candidates", "index")

    @staticmethod
    def items(job: Job) -> int:
        """See the base class."""
        return job.candidates.count

    @staticmethod
    def depends_on(context: Context) -> dict[str, Any]:
        """See the base class."""
        retrieval = context.options.retrieval
        return {"format": 1, "k1": retrieval.k1, "k2": retrieval.k2, "k3": retrieval.k3, "nprobe": retrieval.nprobe}

    def run(self, shard: int) -> None:
        """See the base class."""
        workspace, k3 = self.context.workspace, self.context.options.retrieval.k3
        source = workspace.shard("candidates", shard)
        good = [place for place, line in enumerate(load_lines(source, "rows")) if line["error"] is None]
        count = self.items_in(self.context.job, shard)
        rows, similarities = np.full((count, k3), -1, np.int64), np.zeros((count, k3, 3))
        if good:
            text, visual, thumbnails = (load_rows(source, name)[good] for name in ARRAYS)
            rows[good], similarities[good] = self._cascade.retrieve(text, visual, thumbnails)
        with workspace.writing(self.name, shard) as folder:
            save_rows(folder, "rows", rows)
            save_rows(folder, "similarities", similarities)

    @cached_property
    def _cascade(self) -> Cascade:
        folder, retrieval = self.context.workspace.shard("index", 0), self.context.options.retrieval
        references = ReferenceArrays(*(load_rows(folder, name) for name in ARRAYS))
        index = require("faiss", "faiss-cpu", "distill").read_index(str(folder / "index.faiss"))
        text_index = TextIndex(index, np.asarray(load_rows(folder, "rows")), references.text, retrieval.nprobe)
        return Cascade(text_index, references, retrieval.k1, retrieval.k2, retrieval.k3)
