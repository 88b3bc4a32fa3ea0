"""Child processes end with a parent that was killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from programs import lives

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


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")


def assert_ends(pid, parent, ends=True):
    """Kill a parent; its child must go, or stay."""
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + (10 if ends else 1)
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert lives(pid) != ends
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)
        parent.stdout.close()


@on_linux
@pytest.mark.parametrize(("method", "follow"), [("spawn", True), ("forkserver", True), ("spawn", False)])
def test_a_child_ends_with_its_killed_parent_if_it_asked_to(tmp_path, method, follow):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(method=method, follow=follow), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    assert_ends(int(next(line for line in lines if line != "ready")), parent, follow)


RANK = """
import os, sys
from unirain_plugin.support.processes import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
import time
time.sleep(30)
"""
AGENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@on_linux
def test_a_rank_ends_with_a_killed_torchrun():
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    agent = subprocess.Popen([sys.executable, "-c", AGENT, RANK], stdout=subprocess.PIPE, text=True, env=environment)
    assert_ends(int(agent.stdout.readline()), agent)


POOL = """
import os, sys, time
from unirain_plugin.support.processes import process_pool

def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    with process_pool(1, preload={preload}) as pool:
        pool.submit(work, 30).result()
"""


@on_linux
@pytest.mark.parametrize("preload", [(), ("unirain_plugin.errors",)])
def test_a_pools_processes_end_with_its_killed_owner(tmp_path, preload):
    program = tmp_path / "program.py"
    program.write_text(POOL.format(preload=preload), encoding="utf-8")
    owner = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert_ends(int(owner.stdout.readline()), owner)
