"""Works through the runs: several at a time, each a process; finished ones are passed over, failed ones named.

A run trains through the project's runner, is evaluated, and writes what came out into its experiment's folder.
"""

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
import yaml

from unirain_plugin.errors import TrainingError, UniRainError
from unirain_plugin.runs.run import RunArguments
from unirain_plugin.runs.training import TrainingRun
from unirain_plugin.study.data import read_json
from unirain_plugin.study.options import VAL_NAME, GridRun
from unirain_plugin.study.results import means_by_type
from unirain_plugin.support.files import write_json, write_png, write_whole
from unirain_plugin.support.processes import end_with_parent, uninterrupted
from unirain_plugin.support.provenance import commit, now

CURVE = "curve.jsonl"  # in a run's experiment folder: the figures of each validation, a line each
RESULT = "evaluation.json"  # in a run's experiment folder: what came out. Where it stands, the run is finished.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOG_TAIL = 4000


def start_fork_server(threads: int) -> None:
    """Start the server that the runs are forked from. It imports everything once, and has neither threads nor CUDA."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["unirain_plugin.study.preloaded"])
    with uninterrupted():
        forkserver.ensure_running()


class Outcome(NamedTuple):
    """How a run stands: ``finished``, ``failed`` or ``missing``; what it wrote; or exit status and its last words."""

    run: GridRun
    status: str
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the runs are and how they are started."""

    root: Path  # the output folder; ``experiments/``, ``options/`` and ``logs/`` are below it
    options: Mapping[GridRun, dict[str, Any]]  # run → its option file's content
    threads: int  # CPU threads of a run

    def outcome(self, run: GridRun) -> Outcome:
        path = self.root / "experiments" / run.name / RESULT
        return Outcome(run, "finished", read_json(path)) if path.is_file() else Outcome(run, "missing")

    def work(self, runs: Sequence[GridRun], workers: int, report: Callable[[Outcome], None]) -> None:
        """Do what is not finished, in this order, ``workers`` at a time; ``report`` is called as each run ends."""
        todo = iter([run for run in runs if self.outcome(run).status != "finished"])
        running: dict[int, tuple[BaseProcess, GridRun]] = {}
        try:
            while True:
                while len(running) < workers and (run := next(todo, None)) is not None:
                    process = self._start(run)
                    running[process.sentinel] = (process, run)
                if not running:
                    return
                for sentinel in connection.wait(list(running)):
                    process, run = running.pop(sentinel)
                    process.join()
                    report(self._ended(run, process.exitcode))
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.join()

    def _start(self, run: GridRun) -> BaseProcess:
        option_file, log = self.root / "options" / f"{run.name}.yml", self._log(run)
        write_whole(option_file, yaml.safe_dump(self.options[run], sort_keys=False))
        log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=work, args=(option_file, self.root, log, self.threads))
        with uninterrupted():
            process.start()
        return process

    def _log(self, run: GridRun) -> Path:
        return self.root / "logs" / f"{run.name}.log"

    def _ended(self, run: GridRun, status: int | None) -> Outcome:
        if status == 0:
            return self.outcome(run)
        log = self._log(run)
        text = log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace") if log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing was said"]
        said = lines[-1].replace(f"{self.root}{os.sep}", "")  # shown to others: no path of this machine
        return Outcome(run, "failed", error=f"exit status {status}: {said} (see {log.name})")


class RecordedRun(TrainingRun):
    """A training run that keeps the figures of every validation in ``curve.jsonl`` of its experiment."""

    def build_model(self, build: Callable[[dict[str, Any]], Any], opt: dict[str, Any]) -> Any:
        """The model, which also writes a line of the curve after each validation."""
        model = super().build_model(build, opt)
        validation = model.validation

        def recorded(dataloader: Any, current_iter: int, *args: object, **kwargs: object) -> None:
            before = model.validation_results.get(VAL_NAME)
            validation(dataloader, current_iter, *args, **kwargs)
            if model.validation_results.get(VAL_NAME) is not before:
                line = {"iteration": current_iter, **self.figures(), "loss_weights": self.loss_weights()}
                with (self.folder / CURVE).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

        model.validation = recorded
        return model

    @property
    def folder(self) -> Path:
        return Path(self.model.opt["path"]["experiments_root"])

    def figures(self) -> dict[str, dict[str, Any]]:
        """The figures of the held-out images, as last validated: see :func:`means_by_type`."""
        result = self.model.validation_results[VAL_NAME]
        return means_by_type({metric: result.values(metric) for metric in ("psnr", "ssim")})

    def loss_weights(self) -> dict[str, float]:
        loss = self.model.cri_pix
        return dict(zip(loss.labels.names, loss.weights.tolist(), strict=True))


def work(option_file: Path, root: Path, log: Path, threads: int) -> None:
    """A run's process: everything it says goes into a log; it dies with the process that started it."""
    end_with_parent()
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        train_and_evaluate(option_file, root)
    except UniRainError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def train_and_evaluate(option_file: Path, root: Path) -> None:
    """Train, going on from the newest checkpoint if there is one; evaluate; write the result and images."""
    started = time.monotonic()
    run = RecordedRun(RunArguments(option_file, root, auto_resume=True))
    run.start()
    figures = run.figures()
    if any(math.isnan(value) for types in figures.values() for value in types.values()):
        raise TrainingError(f"{run.folder.name}: the figures are not finite: {figures}.")
    write_images(run.model, run.val_loaders[0], run.folder / "pictures")
    routing = run.model.validation_results[VAL_NAME].routing()
    write_json(
        run.folder / RESULT,
        {
            "iterations": int(run.model.opt["train"]["total_iter"]),
            "resumed_from": run.resume_state["iter"] if run.resume_state else 0,
            "device": torch.cuda.get_device_name() if run.model.device.type == "cuda" else "cpu",
            "commit": commit(),
            "ended": now(),
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time(), 1),
            **figures,
            "images": run.model.validation_results[VAL_NAME].values("psnr"),
            "loss_weights": run.loss_weights(),
            "routing": {t: {layer: share.tolist() for layer, share in s.items()} for t, s in routing.items()},
        },
    )


def write_images(model: Any, loader: Any, folder: Path) -> None:
    """Restore the first held-out image of every rain type; write it with its input and its clean image."""
    from basicsr.utils import tensor2img

    names = {label: name for name, label in loader.dataset.rain_types.items()}
    for data in loader:
        label = int(data["rain_type"][0])
        if label not in names:
            continue
        name = names.pop(label)
        model.feed_data(data)
        model.test()
        for kind, tensor in (("rainy", model.lq), ("restored", model.output), ("clean", model.gt)):
            write_png(folder / f"{name}_{kind}.png", tensor2img([tensor]))
        model.forget_data()
