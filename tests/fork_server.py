"""Starts the package's commands by fork from a process that has imported everything: no 5 s of imports a run.

Reads a JSON request a line from stdin: ``{"argv": ["train", "-opt", …], "cwd": …, "log": …, "env": {…}}``. Each run is
a forked child in a process group of its own, its output goes to the file ``log``. Answers the child's pid; after a
line ``{"wait": pid, "seconds": s}`` the exit status (minus the signal's number for a kill), or null after s seconds.
"""

import contextlib
import gc
import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback

from tiny_run import tiny_train_options
from tqdm import tqdm


def main() -> None:
    gc.disable()  # imports make a million objects that stay
    import torch

    import unirain_plugin
    from unirain_plugin.toolbox import prepare_import

    prepare_import()
    unirain_plugin.register()
    import unirain_plugin.options
    import unirain_plugin.runs.training

    torch.set_num_threads(1)
    # What every run would work out anew for itself: which keys the registered classes read.
    unirain_plugin.options.check_options(tiny_train_options(pathlib.Path(), total_iter=1), check_paths=False)
    gc.freeze()  # nor do a run's collections touch the pages that it shares with this process
    gc.enable()
    requests, answers = sys.stdin, sys.stdout
    print("ready", file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        answer = wait(**request) if "wait" in request else start(**request)
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # an orderly end takes seconds on a busy machine


def start(argv, cwd, log, env=None):
    """Fork one run; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        tqdm.set_lock(threading.RLock())  # a killed run would never release the common one
        os.environ.update(env or {})
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", 1, closefd=False))  # knows whether it is a terminal
        sys.argv = [f"unirain_plugin.{argv[0]}", *argv[1:]]
        from unirain_plugin.__main__ import run

        if target := os.environ.get("UNIRAIN_TEST_KILL"):
            die_while_saving(*target.split(":"))
        if os.environ.get("UNIRAIN_TEST_COMPARE_RANKS"):
            compare_ranks()
        status = stock(*argv[1:]) if argv[0] == "stock" else run(argv[0], argv[1:])
        if os.environ.get("UNIRAIN_TEST_COMPARE_RANKS") and sys.modules["torch"].distributed.is_initialized():
            status = 72  # the process group is left open, of which torch warns
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 71
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def stock(root, *argv):
    """The toolbox's own ``train_pipeline``, as ``python -m basicsr.train`` calls it."""
    from basicsr.train import train_pipeline

    sys.argv = ["basicsr.train", *argv]
    train_pipeline(root)
    return 0


def die_while_saving(name, moment):
    """SIGKILL this process while it saves the file ``name``: half written, before its fsync, before its rename."""
    import torch

    from unirain_plugin.checkpoints import states as checkpoint_files

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    original = checkpoint_files.atomic_save

    def half(content, file):
        file.write(b"PK" + bytes(5000))
        file.flush()
        die()

    def atomic_save(content, path):
        if os.path.basename(path) == name:
            if moment == "write":
                torch.save = half
            else:
                setattr(os, moment, die)
        original(content, path)

    from unirain_plugin.models import checkpointing

    checkpointing.atomic_save = atomic_save


def compare_ranks():
    """After every iteration, compare the weights of all ranks bit for bit."""
    import torch
    import torch.distributed as dist

    from unirain_plugin.models.unirain_model import UniRainModel

    original = UniRainModel.optimize_parameters

    def optimize_parameters(self, current_iter):
        original(self, current_iter)
        own = torch.cat([p.detach().flatten() for p in self.net_g.parameters()])
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        if not all(torch.equal(every[0], other) for other in every):
            raise RuntimeError(f"iteration {current_iter}: the ranks' weights differ")

    UniRainModel.optimize_parameters = optimize_parameters


def wait(wait, seconds):
    """Wait for a child; its exit status, or null while it runs on. The rest of its group is killed with it."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(wait, os.WNOHANG)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(wait, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


if __name__ == "__main__":
    main()
