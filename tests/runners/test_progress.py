"""A live bar on a terminal; without one, plain lines and no trace of a bar."""

import os
import pty
import re

from run_helpers import logged


def on_a_terminal(programs, *argv) -> str:
    """Run with stderr on a pseudo-terminal and return what appeared there."""
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    pid, _ = programs.start(*argv, env={"COLUMNS": "160"}, log=os.ttyname(child))
    parts, status = [], None
    while status is None:
        status = programs.wait(pid, seconds=0.05)
        try:
            parts.append(os.read(parent, 65536))
        except BlockingIOError:
            continue
    assert status == 0, b"".join(parts)[-2000:]
    os.close(parent)
    os.close(child)
    return b"".join(parts).decode()


def test_bar_on_a_terminal(programs, options, tmp_path):
    text = on_a_terminal(programs, "train", "-opt", options(total_iter=12), "--root", tmp_path)
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
