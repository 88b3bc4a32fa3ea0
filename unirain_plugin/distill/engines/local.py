"""Processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import forkserver
from pathlib import Path

from unirain_plugin.distill.engines.base import Engine
from unirain_plugin.distill.job import Job
from unirain_plugin.distill.worker import (
    THREAD_VARIABLES,
    TRIES,
    Step,
    Worker,
    died_on,
    keep_freed_memory,
    limit_threads,
)
from unirain_plugin.distill.workspace import Workspace
from unirain_plugin.support.processes import process_pool

_PRELOAD = ["unirain_plugin.distill.engines.local", "faiss"]
_Shares = Generator[tuple[str, int], None, list[list[Step]]]
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
        if self.options.workers == 0:
            yield from in_this_process(job, units)
            return
        waiting = deque(units)
        while waiting:
            for unit in (yield from self._share(job, waiting, self.options.workers)):
                yield from self._alone(job, unit)

    def _share(self, job: Job, waiting: deque[list[Step]], workers: int) -> _Shares:
        """Have units made until none waits or a worker dies; returns those that were in work then.

        No more units are handed out than there are workers: one of those in work killed its worker.
        """
        running: dict[Future, list[Step]] = {}
        try:
            with self._pool(job, min(workers, len(waiting))) as pool:
                while waiting or running:
                    while waiting and len(running) < workers:
                        running[pool.submit(_make, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        made = future.result()
                        del running[future]
                        yield from made
        except BrokenProcessPool:
            Workspace(Path(job.root)).remove_leftovers()  # of those that were ended with the one that died
        return list(running.values())

    def _alone(self, job: Job, unit: list[Step]) -> Iterator[tuple[str, int]]:
        """Make a unit during which a worker died once more, but with nothing beside it."""
        for _ in range(TRIES - 1):
            if not (yield from self._share(job, deque([unit]), 1)):
                return
        raise died_on(unit)

    @contextmanager
    def _pool(self, job: Job, workers: int) -> Iterator[ProcessPoolExecutor]:
        """Processes that are ended at once if anything goes wrong: none of them asks a server any longer."""
        with self._thread_limit():
            others = multiprocessing.active_children()
            pool = process_pool(workers, _start, job, self._threads, preload=_PRELOAD)
            try:
                yield pool
            except BaseException:
                for process in set(multiprocessing.active_children()).difference(others):
                    process.kill()  # its shard is not there, which the next run makes
                raise
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
