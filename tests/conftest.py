"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tiny_run import write_rainrag

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import onnxruntime themselves
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture()
def rainrag_root(tmp_path: Path) -> Path:
    """A folder in RainRAG's layout: 4 types × 3 pairs of 48×56 images."""
    return write_rainrag(tmp_path / "rainrag")
