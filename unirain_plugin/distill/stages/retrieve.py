"""Builds the semantic level's index over the references, and runs the cascade over the candidates."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.cascade import Cascade, ReferenceArrays, TextIndex, build_index, read_index
from unirain_plugin.distill.job import Context, Stage
from unirain_plugin.distill.registry import file_stamp
from unirain_plugin.distill.workspace import concatenate_rows, load_lines, load_rows, row_blocks, save_rows
from unirain_plugin.errors import DataError
from unirain_plugin.support.packages import require

ARRAYS = ("text", "visual", "thumbnails")


class BuildIndex(Stage):
    """Builds (or checks and copies) the FAISS index."""

    name = "index"
    whole = True
    title = "index references"
    of = "references"
    upstream = ("references",)

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        retrieval = context.options.retrieval
        given = file_stamp(retrieval.index_file) if retrieval.index_file else None
        return {"format": 1, "index": retrieval.index, "index_file": given}

    def run(self, shard: int) -> None:
        job, workspace = self.context.job, self.context.workspace
        shards = job.shards(job.references)
        lines = (line for s in range(shards) for line in load_lines(workspace.shard("references", s), "rows"))
        rows = np.array([number for number, line in enumerate(lines) if line["error"] is None], np.int64)
        if not len(rows):
            error = load_lines(workspace.shard("references", 0), "rows")[0]["error"]
            raise DataError(f"references.images: none of the {job.references} images can be read. The first: {error}")
        with workspace.writing(self.name, shard) as folder:
            for name in ARRAYS:
                concatenate_rows(row_blocks(workspace, "references", name, shards), job.references, folder, name)
            vectors = load_rows(folder, "text")
            retrieval = self.context.options.retrieval
            if retrieval.index_file is not None:
                index = read_index(Path(retrieval.index_file), vectors.shape[1], len(rows))
            else:
                index = build_index(vectors, rows, retrieval.index)
            require("faiss", "faiss-cpu", "distill").write_index(index, str(folder / "index.faiss"))
            save_rows(folder, "rows", rows)


class Retrieve(Stage):
    """Writes the retrieved references' rows and similarities."""

    name = "retrieval"
    title = "retrieve references"
    upstream = ("candidates", "index")

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        retrieval = context.options.retrieval
        return {"format": 1, "k1": retrieval.k1, "k2": retrieval.k2, "k3": retrieval.k3, "nprobe": retrieval.nprobe}

    def run(self, shard: int) -> None:
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
