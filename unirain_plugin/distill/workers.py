"""Who makes the shards: processes on this machine, or Ray actors; the bytes are the same, however many there are."""

import ctypes
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.job import Context, Job, Stage
from unirain_plugin.distill.options import EngineOptions
from unirain_plugin.distill.records import DistillError
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.workspace import TEMPORARY, Workspace
from unirain_plugin.errors import UniRainError
from unirain_plugin.support.packages import require
from unirain_plugin.support.processes import environment, process_pool, uninterrupted

Step = tuple[str, int]  # a stage's name and a shard of it

TRIES = 3  # how often a shard is begun that its worker dies on, before the run ends
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 256 << 20


class Worker:
    """Makes shards; models and arrays are built at the first shard that needs them and kept."""

    def __init__(self, job: Job) -> None:
        self.context = Context(job)
        self._stages: dict[str, Stage] = {}

    def make(self, steps: list[Step]) -> list[tuple[str, int]]:
        made = []
        for name, shard in steps:
            if not self.context.workspace.is_done(name, shard):
                if name not in self._stages:
                    self._stages[name] = STAGES[name](self.context)
                self._stages[name].run(shard)
                made.append((name, STAGES[name].items_in(self.context.job, shard)))
        return made


def died_on(steps: list[Step]) -> DistillError:
    where = f"on the shard {', '.join(f'{name}/{shard:06d}' for name, shard in steps)}, {TRIES} times in turn"
    kept = "Finished shards are kept: run again, with a smaller batch_size or shard_size if memory was short."
    return DistillError(f"a worker died (killed, or out of memory) {where}. {kept}")


def limit_threads(threads: int) -> None:
    """Keep the libraries of this process, loaded now or later, to the worker's share of the processor."""
    import cv2

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed images, up to ``_KEPT`` bytes: megabytes come and go all the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)


_PRELOAD = ["unirain_plugin.distill.workers", "faiss"]
_Shares = Generator[tuple[str, int], None, list[list[Step]]]
_job: Job | None = None
_worker: Worker | None = None


@dataclass
class LocalEngine:
    """A pool of processes from a fork server; ``workers: 0`` works in the calling process.

    The server imports everything once and has neither threads nor CUDA; they end when the main process dies, however.
    """

    options: EngineOptions

    def check(self) -> None:
        """Start the fork server already: it imports while the main process lists the inputs."""
        if self.options.workers:
            with environment(self._thread_limits), uninterrupted():
                forkserver.set_forkserver_preload(_PRELOAD)
                forkserver.ensure_running()

    def make(self, job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
        """Make shards; a unit's steps in order in one worker, units in any order; yields stage and number of items.

        One on which a worker died is tried again by itself. A UniRainError: the first error of a worker.
        """
        if self.options.workers == 0:
            yield from in_this_process(job, units)
            return
        waiting = deque(units)
        while waiting:
            for unit in (yield from self._share(job, waiting, self.options.workers)):
                yield from self._alone(job, unit)

    def close(self) -> None:
        """The pool has ended with the last shard."""

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
        """Make a unit during which a worker died again, with nothing beside it."""
        for _ in range(TRIES - 1):
            if not (yield from self._share(job, deque([unit]), 1)):
                return
        raise died_on(unit)

    @contextmanager
    def _pool(self, job: Job, workers: int) -> Iterator[ProcessPoolExecutor]:
        """Processes that are ended at once if anything goes wrong: none of them asks a server any longer."""
        with environment(self._thread_limits):
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
        return max(1, (os.cpu_count() or 1) // self.options.workers)

    @property
    def _thread_limits(self) -> dict[str, str]:
        return dict.fromkeys(THREAD_VARIABLES, str(self._threads))


def in_this_process(job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
    worker = Worker(job)
    try:
        for unit in units:
            yield from worker.make(unit)
    finally:
        worker.context.close()


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


@dataclass
class RayEngine:
    """A pool of Ray Data actors with the local engine's worker; a shard made twice after losing a node is the same."""

    options: EngineOptions
    _started: bool = False

    def check(self) -> None:
        require("ray.data", "'ray[data]'", "ray")

    def make(self, job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
        if not units:
            return
        ray = self._connect()
        actors = min(self.options.workers, len(units))
        rows = [{"unit": json.dumps(unit)} for unit in units]
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardMaker,
            fn_constructor_kwargs={"job": job, "folder": os.getcwd(), "modules": list(sys.path)},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=self.options.num_gpus or None,
        )
        for row in made.iter_rows():
            if row["error"]:
                raise DistillError(row["error"])
            yield from (tuple(pair) for pair in json.loads(row["made"]))

    def close(self) -> None:
        if self._started:
            sys.modules["ray"].shutdown()
            self._started = False

    def _connect(self) -> Any:
        import ray.data

        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            local = {"num_cpus": self.options.workers} if self.options.address is None else {}
            handler = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(
                    address=self.options.address, log_to_driver=False, include_dashboard=False,
                    logging_level="warning", **local,
                )  # fmt: skip
            except ConnectionError as error:
                where = f"engine.address: no Ray cluster answers at '{self.options.address}'"
                raise DistillError(f"{where}: {error}") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has set its own, which ends the program without a word
            self._started = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the pipeline has its own progress bars
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray


class ShardMaker:
    """The actor: a worker behind Ray Data's batch interface. A user's mistake comes back as text, not as a crash."""

    def __init__(self, job: Job, folder: str, modules: list[str]) -> None:
        if os.path.isdir(folder):  # relative paths and the user's modules mean the same here as at home
            os.chdir(folder)
        sys.path += [path for path in modules if path not in sys.path]
        limit_threads(1)
        keep_freed_memory()
        self._job = job
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (unit,) = map(json.loads, batch["unit"].tolist())
        made, text = [], ""
        try:
            with self._tried(unit):
                if self._worker is None:
                    self._worker = Worker(self._job)
                made = self._worker.make(unit)
        except UniRainError as error:
            text = str(error)
        return {"made": np.array([json.dumps(made)], dtype=object), "error": np.array([text], dtype=object)}

    @contextmanager
    def _tried(self, unit: list[Step]) -> Iterator[None]:
        """Leave a mark while a unit is in work: an actor that dies leaves it, and Ray would begin anew without end."""
        name, shard = unit[0]
        folder = Path(self._job.root, name)
        marks = [folder / f"{TEMPORARY}try-{shard:06d}-{number}" for number in range(TRIES)]
        mark = next((path for path in marks if not path.exists()), None)
        try:
            if mark is None:
                raise died_on(unit)
            mark.mkdir(parents=True)
            yield
        finally:
            for path in marks:
                shutil.rmtree(path, ignore_errors=True)


Engine = LocalEngine | RayEngine


def build_engine(options: EngineOptions) -> Engine:
    return RayEngine(options) if options.type == "ray" else LocalEngine(options)
