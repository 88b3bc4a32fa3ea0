"""Child processes end with a parent that was killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import time
from multiprocessing import get_context
from unirain_plugin.support.processes import end_with_parent

def child(follow):
    if follow:
        end_with_parent()
    print("ready", flush=True)
    time.sleep(30)

if __name__ == "__main__":
    process = get_context({method!r}).Process(target=child, args=({follow},))
    process.start()
    print(process.pid, flush=True)
    process.join()
"""
RANK = """
import os, time
from unirain_plugin.support.processes import end_with_parent
end_with_parent()
print("ready", flush=True)
print(os.getpid(), flush=True)
time.sleep(30)
"""
AGENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {RANK!r}])
"""
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")


def lives(pid):
    """Whether a process runs; one that has ended but that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def outlives_its_parent(program, seconds, **environment):
    """Kill a program that prints ``ready`` and the number of its child; whether the child still runs later."""
    environment = {**os.environ, **environment}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        lines = {parent.stdout.readline().strip() for _ in range(2)}
        pid = int(next(line for line in lines if line != "ready"))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if lives(pid):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


@pytest.mark.parametrize(("method", "follow"), [("spawn", True), ("forkserver", True), ("spawn", False)])
def test_a_child_ends_with_its_killed_parent_if_it_asked_to(tmp_path, method, follow):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(method=method, follow=follow), encoding="utf-8")
    assert outlives_its_parent(program, 10 if follow else 1) != follow


def test_a_rank_ends_with_a_killed_torchrun(tmp_path):
    program = tmp_path / "agent.py"
    program.write_text(AGENT, encoding="utf-8")
    assert not outlives_its_parent(program, 10, TORCHELASTIC_RUN_ID="none")
