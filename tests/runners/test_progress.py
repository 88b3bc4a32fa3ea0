"""A live bar on a terminal; without one, plain lines and no trace of a bar."""

import os
import pty
import re
import subprocess
import sys

from run_helpers import ENVIRONMENT, logged


def on_a_terminal(command, cwd) -> str:
    """Run with stderr on a pseudo-terminal and return what appeared there."""
    parent, child = pty.openpty()
    environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "160"}
    process = subprocess.Popen(command, cwd=cwd, stderr=child, stdout=subprocess.DEVNULL, env=environment)
    os.close(child)
    parts = []
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        parts.append(part)
    assert process.wait() == 0, b"".join(parts)[-2000:]
    return b"".join(parts).decode()


def test_bar_on_a_terminal(options, tmp_path):
    path = options(total_iter=12)
    text = on_a_terminal([sys.executable, "-m", "unirain_plugin.train", "-opt", str(path)], tmp_path)
    bars = [line for line in re.split(r"[\r\n]", text) if re.search(r"\d+/12 \[", line)]
    assert bars and "12/12" in bars[-1]
    assert re.search(r"loss \d+\.\d+, [\d.]+ images/s, worst \w+", bars[-1])
    assert re.search(r"\[\d+:\d+<\d+:\d+", bars[-1]), "elapsed and remaining time"
    log = next((tmp_path / "experiments/tiny").glob("*.log")).read_text()
    assert "images/s" not in log and "\x1b[" not in log
    assert sorted(logged(tmp_path / "experiments/tiny")) == list(range(1, 13))


def test_plain_lines_without_a_terminal(programs, options, tmp_path):
    text = programs.run("train", "-opt", options(total_iter=2), "--root", tmp_path)
    assert "images/s" not in text and "\r" not in text and "iter:       2" in text
