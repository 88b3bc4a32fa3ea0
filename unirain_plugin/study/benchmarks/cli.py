"""``python -m unirain_plugin benchmark WHAT``: the table of benchmarks."""

from __future__ import annotations

import importlib
import sys

from unirain_plugin.errors import OptionError, did_you_mean

BENCHMARKS = {
    "arch": (
        "unirain_plugin.study.benchmarks.arch",
        "networks: size, cost, time and memory against a Restormer-size one",
    ),
    "data": (
        "unirain_plugin.study.benchmarks.data",
        "a training pair: this data set against BasicSR's PairedImageDataset",
    ),
    "distill": ("unirain_plugin.study.benchmarks.distill", "default voters: planted bad pairs found, good ones kept"),
    "distill-speed": (
        "unirain_plugin.study.benchmarks.distill_speed",
        "default pipeline: candidates a second from the disk",
    ),
    "weights": (
        "unirain_plugin.study.benchmarks.weights",
        "trained weights: gains on rain they have not seen, harm to clean images",
    ),
    "metrics": ("unirain_plugin.study.benchmarks.metrics", "PSNR and SSIM at 4K: time and value against the toolbox's"),
    "startup": (
        "unirain_plugin.study.benchmarks.startup",
        "whole processes that restore, train or distill little",
    ),
    "runtimes": ("unirain_plugin.study.benchmarks.runtimes", "exported weights in onnxruntime, OpenVINO, OpenCV, int8"),
    "retrieval": (
        "unirain_plugin.study.benchmarks.retrieval",
        "cascade at 2 M × 100 k; SSIM against the toolbox's loop",
    ),
}
"""Name → (module with ``main(argv) -> int | None``, one line of help). Modules are imported when they are asked for."""


def usage() -> str:
    """The text of ``--help``."""
    width = max(map(len, BENCHMARKS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in BENCHMARKS.items())
    return f"usage: python -m unirain_plugin benchmark WHAT [options]\n\n{rows}\n\nWHAT --help tells its own options.\n"


def main(argv: list[str]) -> int:
    """Run one benchmark.

    Raises:
        OptionError: For an unknown name.
    """
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if argv[0] not in BENCHMARKS:
        raise OptionError(
            f"benchmark: unknown name '{argv[0]}'.{did_you_mean(argv[0], BENCHMARKS)} Known: {', '.join(BENCHMARKS)}."
        )
    return importlib.import_module(BENCHMARKS[argv[0]][0]).main(argv[1:]) or 0
