"""Works through the runs: several at a time, each a process; finished ones are passed over, failed ones named."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from unirain_plugin.study.files import RESULT, read_json, write_text
from unirain_plugin.study.plan import GridRun

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOG_TAIL = 4000


def start_fork_server(threads: int) -> None:
    """Start the server that the runs are forked from. It imports everything once, and has neither threads nor CUDA."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["unirain_plugin.study.preloaded"])
    forkserver.ensure_running()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run stands.

    Attributes:
        run: The run.
        status: ``finished``, ``failed`` or ``missing``.
        result: What the run wrote, if it is finished.
        error: Exit status and the last line of its log, if it failed.
    """

    run: GridRun
    status: str
    result: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the runs are and how they are started.

    Attributes:
        root: The output folder; ``experiments/``, ``options/`` and ``logs/`` are below it.
        options: Run → its option file's content.
        threads: CPU threads of a run.
    """

    root: Path
    options: Mapping[GridRun, dict[str, Any]]
    threads: int

    def outcome(self, run: GridRun) -> Outcome:
        """How a run stands, from its files."""
        path = self.root / "experiments" / run.name / RESULT
        if not path.is_file():
            return Outcome(run, "missing")
        return Outcome(run, "finished", read_json(path))

    def work(self, runs: Sequence[GridRun], workers: int, report: Callable[[Outcome], None]) -> None:
        """Do what is not finished yet.

        Args:
            runs: In the order to begin them.
            workers: Runs at a time.
            report: Called for each run as it ends.

        Raises:
            KeyboardInterrupt: After the running ones have been stopped.
        """
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
        from unirain_plugin.study.worker import work

        option_file = self.root / "options" / f"{run.name}.yml"
        write_text(option_file, yaml.safe_dump(self.options[run], sort_keys=False))
        log = self.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=work, args=(option_file, self.root, log, self.threads))
        process.start()
        return process

    def log(self, run: GridRun) -> Path:
        """What a run said."""
        return self.root / "logs" / f"{run.name}.log"

    def _ended(self, run: GridRun, status: int | None) -> Outcome:
        if status == 0:
            return self.outcome(run)
        log = self.log(run)
        said = last_line(log).replace(
            f"{self.root}{os.sep}", ""
        )  # results are shown to others: no path of this machine
        return Outcome(run, "failed", error=f"exit status {status}: {said} (see {log.name})")


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
