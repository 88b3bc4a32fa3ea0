"""Fixtures shared by all tests."""

import gc
import logging
import multiprocessing
import os
import signal
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import Fresh, Programs
from tiny_run import write_rainrag

from unirain_plugin.support import processes

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import onnxruntime themselves
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads without work sleep: cores may be shared
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One fork server for all tests of the session, which has imported everything, whoever asks first and for what.
forkserver.set_forkserver_preload(["unirain_plugin.study.preloaded", "unirain_plugin.compare.networks", "faiss"])
forkserver.set_forkserver_preload = lambda modules: None
gc.disable()  # until all is collected: imports make a million objects that stay


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The fork server, shared by all tests of the session."""
    programs = Programs(tmp_path_factory.mktemp("programs"))
    yield programs
    programs.server.communicate(timeout=120)  # closes its input, which ends it


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """Runs code in an interpreter that has imported torch and nothing else."""
    interpreters = Fresh(tmp_path_factory.mktemp("fresh"))
    yield interpreters
    interpreters.server.communicate(timeout=120)


@pytest.fixture()
def forked_pools(monkeypatch):
    """Process pools are forked from the fork server; by themselves their processes would import everything anew."""
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(processes, "multiprocessing", SimpleNamespace(get_context=lambda kind: context))


@pytest.fixture()
def rainrag_root(tmp_path: Path) -> Path:
    """A folder in RainRAG's layout: 4 types × 3 pairs of 48×56 images."""
    return write_rainrag(tmp_path / "rainrag")


@pytest.fixture()
def warnings_of():
    """The texts of the toolbox's warnings, each once, as they are logged.

    Not from ``caplog``: pytest 9.2 hangs its handler on a logger that does not propagate as well as on the root, so
    whether a line is there never, once or twice depends on whether a test before has set the toolbox's logger up.
    """
    texts = []

    class Collector(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("basicsr")
    logger.addHandler(collector)
    yield texts
    logger.removeHandler(collector)
