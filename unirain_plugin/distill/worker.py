"""What runs in a worker process or actor: shards of stages, one at a time."""

from __future__ import annotations

from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.stages.base import Stage

Step = tuple[str, int]
"""A stage's name and a shard of it."""


class Worker:
    """Makes shards; models and arrays are built at the first shard that needs them and kept.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._context = Context(job)
        self._stages: dict[str, Stage] = {}

    def make(self, steps: list[Step]) -> list[tuple[str, int]]:
        """Make shards, one after the other, unless they are there already.

        Returns:
            Stage and number of items of each that was made.
        """
        made = []
        for name, shard in steps:
            if not self._context.workspace.is_done(name, shard):
                if name not in self._stages:
                    self._stages[name] = STAGES[name](self._context)
                self._stages[name].run(shard)
                made.append((name, STAGES[name].items_in(self._context.job, shard)))
        return made

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
