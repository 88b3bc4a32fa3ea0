"""Running the train and test programs, quickly (forked) and as a user does (a subprocess)."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import torch
from tiny_run import tiny_train_options

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_LOSSES = re.compile(r"iter:\s*([\d,]+), lr:.*?\)\] (?:\[eta.*?\)\] )?(.*)")


class Programs:
    """Starts runs through the fork server."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **request):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *argv, cwd=None, env=None) -> tuple[int, Path]:
        """Start a run; its pid and the file of its output."""
        self.count += 1
        log = self.folder / f"output_{self.count}.txt"
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


def merge(target, changes):
    """Merge nested dictionaries in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        elif value is None:
            target.pop(key, None)
        else:
            target[key] = value


def stock_sections(rain):
    """What makes the tiny options a run of the stock toolbox's own model, network, loss and data set."""
    data = {
        "type": "PairedImageDataset",
        "dataroot": None,
        "rain_types": None,
        "dataroot_gt": str(rain / "drs/target"),
        "dataroot_lq": str(rain / "drs/input"),
        "io_backend": {"type": "disk"},
    }
    network = dict.fromkeys(tiny_train_options(rain, name="x", total_iter=1)["network_g"])
    network.update(type="EDSR", num_in_ch=3, num_out_ch=3, num_feat=4, num_block=1, upscale=1)
    loss = {"type": "L1Loss", "base": None, "update_freq": None, "loss_weight": 1.0, "reduction": "mean"}
    return {
        "model_type": "SRModel",
        "datasets": {"train": dict(data), "val": dict(data)},
        "network_g": network,
        "train": {"pixel_opt": loss, "optim_g": {"type": "Adam"}},
    }


def logged(folder: Path) -> dict[int, str]:
    """Iteration → losses as text, from all logs of an experiment; a repeated iteration must have repeated itself."""
    found = {}
    for log in sorted(folder.glob("train_*.log")):
        for match in _LOSSES.finditer(log.read_text()):
            iteration, losses = int(match[1].replace(",", "")), match[2].strip()
            assert found.setdefault(iteration, losses) == losses, f"iteration {iteration} was repeated differently"
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by ``params/name``."""
    content = torch.load(path, weights_only=True)
    return {f"{key}/{name}": tensor for key, part in content.items() for name, tensor in part.items()}


def assert_same_weights(first: Path, second: Path):
    """Bit for bit."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different
