"""What runs in a worker process or actor: shards of stages, one at a time."""

from __future__ import annotations

import ctypes
import os
import sys

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.stages.base import Stage

Step = tuple[str, int]
"""A stage's name and a shard of it."""

TRIES = 3
"""How often a shard is begun that its worker dies on, before the run ends."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 256 << 20


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


def died_on(steps: list[Step]) -> DistillError:
    """What a run ends with whose workers died on these steps again and again."""
    names = ", ".join(f"{name}/{shard:06d}" for name, shard in steps)
    return DistillError(
        f"a worker died (killed, or out of memory) on the shard {names}, {TRIES} times in turn. Finished shards are "
        "kept: run again, with a smaller batch_size or shard_size if memory was short."
    )


def limit_threads(threads: int) -> None:
    """Keep the libraries of this process from starting more threads than the worker's share of the processor.

    Libraries that are imported later read their number from the environment; the default parts never need torch, and
    importing it only to limit it would take longer than a shard.
    """
    import cv2

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have the C library reuse the memory of freed pictures instead of returning it to the system after each.

    Planes of a megabyte come and go some hundred times a candidate; getting them anew from the system, page by page,
    takes about a tenth of the default pipeline's time. glibc only; what is kept is at most ``_KEPT`` bytes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
