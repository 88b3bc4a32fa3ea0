"""Ray Data: the same stages on a cluster's actors. The working folder must be on storage that all nodes share."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.engines.base import Engine
from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.job import Job
from unirain_plugin.distill.worker import TRIES, Step, died_on
from unirain_plugin.distill.workspace import TEMPORARY
from unirain_plugin.errors import UniRainError
from unirain_plugin.support.packages import require


class RayEngine(Engine):
    """A pool of Ray Data actors, each with the same worker as the local engine's processes.

    Ray Data has no resume of its own; the shards have: what is there is not made again, and a shard that Ray makes
    twice after losing a node is the same shard.
    """

    _started = False

    def check(self) -> None:
        """See the base class."""
        require("ray.data", "'ray[data]'", "ray")

    def make(self, job: Job, units: Sequence[list[Step]]) -> Iterator[tuple[str, int]]:
        """See the base class."""
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
        """See the base class; a cluster that was there before stays."""
        if self._started:
            require("ray", "'ray[data]'", "ray").shutdown()
            self._started = False

    def _connect(self) -> Any:
        ray = require("ray", "'ray[data]'", "ray")
        require("ray.data", "'ray[data]'", "ray")
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            local = {"num_cpus": self.options.workers} if self.options.address is None else {}
            try:
                ray.init(
                    address=self.options.address, log_to_driver=False, include_dashboard=False,
                    logging_level="warning", **local,
                )  # fmt: skip
            except ConnectionError as error:
                raise DistillError(
                    f"engine.address: no Ray cluster answers at '{self.options.address}': {error}"
                ) from error
            self._started = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the pipeline has its own progress bars
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray


class ShardMaker:
    """The actor: a worker behind Ray Data's batch interface. A user's mistake comes back as text, not as a crash."""

    def __init__(self, job: Job, folder: str, modules: list[str]) -> None:
        from unirain_plugin.distill.worker import Worker, keep_freed_memory, limit_threads

        if os.path.isdir(folder):  # relative paths and the user's modules mean the same here as at home
            os.chdir(folder)
        sys.path += [path for path in modules if path not in sys.path]
        limit_threads(1)
        keep_freed_memory()
        self._job, self._build = job, Worker
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Make the shards of a batch."""
        made, errors = [], []
        for unit in map(json.loads, batch["unit"].tolist()):
            done, text = [], ""
            try:
                with self._tried(unit):
                    if self._worker is None:
                        self._worker = self._build(self._job)
                    done = self._worker.make(unit)
            except UniRainError as error:
                text = str(error)
            made.append(json.dumps(done))
            errors.append(text)
        return {"made": np.array(made, dtype=object), "error": np.array(errors, dtype=object)}

    @contextmanager
    def _tried(self, unit: list[Step]) -> Iterator[None]:
        """Leave a mark while a unit is in work: an actor that dies leaves it, and Ray would begin anew without end.

        Raises:
            DistillError: If there are as many marks as tries.
        """
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
