"""Processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing import forkserver

from unirain_plugin.distill.engines.base import Engine
from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.job import Job
from unirain_plugin.distill.worker import THREAD_VARIABLES, Step, Worker, keep_freed_memory, limit_threads
from unirain_plugin.support.processes import end_with_parent

_PRELOAD = ["unirain_plugin.distill.engines.local", "faiss"]
_job: Job | None = None
_worker: Worker | None = None


class LocalEngine(Engine):
    """A pool of processes; ``workers: 0`` works in the calling process.

    Processes come from a fork server, which imports everything once and has neither threads nor CUDA: safe to fork and
    quick to multiply. They end when the main process dies, however it dies.
    """

    def check(self) -> None:
        """Start the fork server already: it imports while the main process lists the inputs."""
        if self.options.workers:
            with self._thread_limit():
                forkserver.set_forkserver_preload(_PRELOAD)
                forkserver.ensure_running()

    def make(self, job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
        """See the base class."""
        if not units:
            return
        workers = min(self.options.workers, len(units))
        if workers == 0:
            yield from in_this_process(job, units)
            return
        with self._thread_limit():
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOAD)
            pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(job, self._threads))
            try:
                waiting = {pool.submit(_make, unit) for unit in units}
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield from future.result()
            except BrokenProcessPool as error:
                raise DistillError(
                    "a worker died (killed, or out of memory). Finished shards are kept: run again, with fewer workers "
                    "or a smaller batch_size if memory was short."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _threads(self) -> int:
        """A worker's share of the processor."""
        return max(1, (os.cpu_count() or 1) // self.options.workers)

    def _thread_limit(self) -> AbstractContextManager[None]:
        """For what is started inside the block."""
        return _environment({name: str(self._threads) for name in THREAD_VARIABLES})


def in_this_process(job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
    """Make the shards here and now."""
    worker = Worker(job)
    try:
        for unit in units:
            yield from worker.make(unit)
    finally:
        worker.close()


def _start(job: Job, threads: int) -> None:
    global _job
    end_with_parent()  # a shard half written is a temporary folder that the next run deletes
    limit_threads(threads)
    keep_freed_memory()
    _job = job


def _make(unit: list[Step]) -> list[tuple[str, int]]:
    global _worker
    if _worker is None:  # not in the initializer: an error there would only be a broken pool
        _worker = Worker(_job)
    return _worker.make(unit)


class _environment:  # noqa: N801  (used as a function)
    """Environment variables for the processes started inside the block."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
