"""Runs of the package's commands, quickly: forked from a server that has imported everything."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def lives(pid):
    """Whether a process runs; one that has ended but that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Programs:
    """Starts runs through the fork server."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        command, env = [sys.executable, str(Path(__file__).with_name("fork_server.py"))], {**os.environ, **ENVIRONMENT}
        self.server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *argv, cwd=None, env=None, log=None) -> tuple[int, Path]:
        """Start a run; its pid and the file of its output."""
        self.count += 1
        log = Path(log or self.folder / f"output_{self.count}.txt")
        log.touch()
        argv = [str(item) for item in argv]
        return self.ask(argv=argv, cwd=str(cwd or self.folder), log=str(log), env=env or {}), log

    def wait(self, pid, seconds=120):
        """The exit status of a started run, or None if it still runs."""
        return self.ask(wait=pid, seconds=seconds)

    def run(self, *argv, status=0, cwd=None, env=None) -> str:
        """Run to the end and return what was printed."""
        pid, log = self.start(*argv, cwd=cwd, env=env)
        found = self.wait(pid)
        text = log.read_text()
        if found is None:
            self.kill(pid)
        assert found == status, text[-4000:]
        return text

    def run_together(self, *argv, ranks=2, port, cwd=None, env=None) -> list[str]:
        """Run as several ranks, as torchrun does, and return what each printed."""
        env = {**(env or {}), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started = [
            self.start(*argv, "--launcher", "pytorch", cwd=cwd, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(ranks)
        ]
        found = [self.wait(pid) for pid, _ in started]
        texts = [log.read_text() for _, log in started]
        assert found == [0] * ranks, "\n".join(text[-3000:] for text in texts)
        return texts

    def kill(self, pid):
        """SIGKILL the whole process group: the run and its loader workers."""
        os.killpg(pid, signal.SIGKILL)
        return self.wait(pid)


FRESH = """
import gc

gc.disable()
import json, os, sys, traceback, torch

gc.freeze()
gc.enable()
for line in sys.stdin:
    code, argv, folder = json.loads(line)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        setattr(sys, name, os.fdopen(descriptor, "w", 1, closefd=False))
    sys.argv, status = ["-c", *argv], 0
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)
os._exit(0)
"""


class Fresh:
    """Interpreters that have imported torch and nothing else: each is forked, and runs its code to the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", FRESH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, code: str, *argv: str) -> str:
        """What the code prints to standard output; it must not fail."""
        self.server.stdin.write(json.dumps([code, argv, str(self.folder)]) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        assert status == 0, (self.folder / "stderr").read_text()
        return (self.folder / "stdout").read_text()
