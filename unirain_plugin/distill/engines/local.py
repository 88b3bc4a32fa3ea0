"""Processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

from unirain_plugin.distill.engines.base import Engine
from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.job import Job
from unirain_plugin.distill.worker import Worker, limit_threads

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_arguments: tuple[Job, str] | None = None
_worker: Worker | None = None


class LocalEngine(Engine):
    """A pool of processes; ``workers: 0`` works in the calling process.

    Processes come from a fork server, which imports everything once and has neither threads nor CUDA: safe to fork and
    quick to multiply. They end when the main process dies, however it dies.
    """

    def make(self, job: Job, stage: str, shards: Sequence[int]) -> Iterator[int]:
        """See the base class."""
        if not shards:
            return
        workers = min(self.options.workers, len(shards))
        if workers == 0:
            yield from _in_this_process(job, stage, shards)
            return
        threads = max(1, (os.cpu_count() or 1) // self.options.workers)
        with _environment({name: str(threads) for name in _THREAD_VARIABLES}):
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["unirain_plugin.distill.engines.local"])
            pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(job, stage, threads))
            try:
                waiting = {pool.submit(_make, shard) for shard in shards}
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise DistillError(
                    f"a worker of the stage '{stage}' died (killed, or out of memory). Finished shards are kept: run "
                    "again, with fewer workers or a smaller batch_size if memory was short."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _in_this_process(job: Job, stage: str, shards: Sequence[int]) -> Iterator[int]:
    worker = Worker(job, stage)
    try:
        for shard in shards:
            yield worker.make(shard)
    finally:
        worker.close()


def _start(job: Job, stage: str, threads: int) -> None:
    global _arguments
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    limit_threads(threads)
    _arguments = job, stage


def _end_with(sentinel: int) -> None:
    """Leave when the main process is gone; a shard half written is a temporary folder that the next run deletes."""
    wait_for([sentinel])
    os._exit(1)


def _make(shard: int) -> int:
    global _worker
    if _worker is None:  # not in the initializer: an error there would only be a broken pool
        _worker = Worker(*_arguments)
    return _worker.make(shard)


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
