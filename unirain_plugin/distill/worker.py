"""What runs in a worker process or actor: one stage, one shard at a time."""

from __future__ import annotations

from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.stages.base import Stage


class Worker:
    """Makes shards of one stage; models and arrays are built at the first shard and kept.

    Args:
        job: The job.
        stage: Name of the stage.
    """

    def __init__(self, job: Job, stage: str) -> None:
        self._context = Context(job)
        self._stage: Stage = STAGES[stage](self._context)

    def make(self, shard: int) -> int:
        """Make a shard unless it is there already; returns the number of items in it."""
        if not self._context.workspace.is_done(self._stage.name, shard):
            self._stage.run(shard)
        return self._stage.items_in(self._context.job, shard)

    def close(self) -> None:
        """Free what was built."""
        self._context.close()


def limit_threads(threads: int) -> None:
    """Keep the libraries of this process from starting more threads than the worker's share of the processor."""
    import cv2
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(threads)
