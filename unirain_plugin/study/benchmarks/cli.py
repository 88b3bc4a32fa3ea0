"""``python -m unirain_plugin benchmark WHAT``: the table of benchmarks, and what they share."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from unirain_plugin.__main__ import entry
from unirain_plugin.errors import OptionError, did_you_mean

_HERE = "unirain_plugin.study.benchmarks"
BENCHMARKS = {
    "arch": (f"{_HERE}.arch", "networks: size, cost, time and memory against a Restormer-size one"),
    "data": (f"{_HERE}.data", "a training pair: this data set against BasicSR's PairedImageDataset"),
    "distill": (f"{_HERE}.distill", "default voters: planted bad pairs found, good ones kept"),
    "distill-speed": (f"{_HERE}.distill:speed", "default pipeline: candidates a second from the disk"),
    "weights": (f"{_HERE}.weights", "trained weights: gains on rain they have not seen, harm to clean images"),
    "metrics": (f"{_HERE}.metrics", "PSNR and SSIM at 4K: time and value against the toolbox's"),
    "startup": (f"{_HERE}.startup", "whole processes that restore, train or distill little, against import torch"),
    "runtimes": (f"{_HERE}.runtimes", "exported weights in onnxruntime, OpenVINO, OpenCV, int8"),
    "retrieval": (f"{_HERE}.retrieval", "cascade at 2 M × 100 k; SSIM against the toolbox's loop"),
}
"""Name → (module, or ``module:function``; the default is ``main(argv) -> int | None``), one line of help."""


def usage() -> str:
    width = max(map(len, BENCHMARKS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in BENCHMARKS.items())
    return f"usage: python -m unirain_plugin benchmark WHAT [options]\n\n{rows}\n\nWHAT --help tells its own options.\n"


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if argv[0] not in BENCHMARKS:
        raise OptionError(
            f"benchmark: unknown name '{argv[0]}'.{did_you_mean(argv[0], BENCHMARKS)} Known: {', '.join(BENCHMARKS)}."
        )
    return entry(argv[0], BENCHMARKS)(argv[1:]) or 0


def expect_known(option: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"{option}: unknown {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def expect_least(args: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        if getattr(args, name) < least:
            raise OptionError(f"--{name.replace('_', '-')}: expected {least} or more, found {getattr(args, name)}.")


def tell(benchmark: str, what: str) -> None:
    """Say on stderr what is being measured, for it may take minutes; stdout is the table."""
    sys.stderr.write(f"benchmark {benchmark}: {what} …\n")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have torch and OpenCV compute in ``count`` threads inside the block (None: as they are)."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count or before[0])
    cv2.setNumThreads(count or before[1])
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def interleaved(
    actions: Mapping[object, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    of_turns: Callable[[list[float]], float] = statistics.median,
) -> dict[object, float]:
    """Median seconds (or another figure ``of_turns``) by ``clock`` of each action; they take ``rounds`` turns, after
    one that is not counted.

    ``device``: ``cpu``, or a GPU that is waited for after each action.
    """
    seconds: dict[object, list[float]] = {key: [] for key in actions}
    for number in range(rounds + 1):
        for key, action in actions.items():
            start = clock()
            action()
            if device != "cpu":
                import torch

                torch.cuda.synchronize()
            if number:
                seconds[key].append(clock() - start)
    return {key: of_turns(values) for key, values in seconds.items()}


@contextmanager
def work_folder(given: str | None) -> Iterator[Path]:
    with nullcontext(given) if given is not None else TemporaryDirectory(prefix="unirain_benchmark_") as folder:
        yield Path(folder)
