"""Two gloo ranks on the CPU: the same run as one process, exact resume; joining a group as the launchers ask."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from programs import ENVIRONMENT, lives
from run_helpers import assert_same_weights, logged, stock_sections, weights

from unirain_plugin.errors import OptionError
from unirain_plugin.runs import distributed
from unirain_plugin.runs.distributed import agreed, init_process_group, leave_process_group


def numbers(line: str) -> dict[str, float]:
    words = line.split()
    return {name.rstrip(":"): float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_train_what_one_process_does(programs, options, tmp_path, free_port, workers):
    """A global batch of 4, plain SGD (Adam would magnify the rounding of gradients that are nearly zero)."""
    loss, optimizer = {"warmup": 1, "window": 3}, {"type": "SGD", "lr": 0.1, "betas": None}
    train = {"pixel_opt": loss, "optim_g": optimizer, "ema_decay": 0.9}
    one = options(total_iter=6, datasets={"train": {"batch_size_per_gpu": 4}}, train=train)
    programs.run("train", "-opt", one, "--root", tmp_path / "one")
    half = {"batch_size_per_gpu": 2, "num_worker_per_gpu": workers}
    two = options(total_iter=6, datasets={"train": half}, train=train)
    programs.run_together("train", "-opt", two, "--root", tmp_path / "two", port=free_port)
    a, b = tmp_path / "one/experiments/tiny", tmp_path / "two/experiments/tiny"
    second = weights(b / "models/net_g_latest.pth")
    for name, tensor in weights(a / "models/net_g_latest.pth").items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    one_log, two_log = logged(a), logged(b)
    assert sorted(one_log) == sorted(two_log) == list(range(1, 7))
    for iteration in one_log:
        assert numbers(two_log[iteration]) == pytest.approx(numbers(one_log[iteration]), rel=2e-3)


def test_ranks_hold_identical_weights_and_resume_exactly(programs, options, tmp_path, free_port):
    """The checkpoint holds each rank's streams; weights are compared after every iteration, and the group is left."""
    path = options(total_iter=6, train={"ema_decay": 0.9}, logger={"save_checkpoint_freq": 3})
    env = {"UNIRAIN_TEST_COMPARE_RANKS": "1"}
    programs.run_together("train", "-opt", path, "--root", tmp_path / "straight", port=free_port, env=env)
    arguments = ("train", "-opt", path, "--root", tmp_path / "broken")
    programs.run_together(*arguments, "--force_yml", "train:total_iter=3", port=free_port)
    programs.run_together(*arguments, "--auto_resume", port=free_port)
    a, b = tmp_path / "straight/experiments/tiny", tmp_path / "broken/experiments/tiny"
    assert logged(a) == logged(b)
    assert_same_weights(a / "models/net_g_latest.pth", b / "models/net_g_latest.pth")
    state = torch.load(a / "training_states/6.state", weights_only=True)
    assert len(state["unirain"]["ranks"]) == 2


def test_resumed_by_another_number_of_processes(programs, options, tmp_path, free_port):
    """Not bit-identical, and the log says so, but the data go on where they stood; the seed was drawn for all ranks."""
    path = options(total_iter=4, manual_seed=None, datasets={"train": {"batch_size_per_gpu": 2}})
    programs.run_together("train", "-opt", path, "--root", tmp_path, port=free_port)
    overrides = ("--force_yml", "train:total_iter=6")
    text = programs.run("train", "-opt", path, "--root", tmp_path, "--auto_resume", *overrides)
    assert "was written by 2 processes and is resumed by 1" in text
    assert torch.load(tmp_path / "experiments/tiny/training_states/4.state")["unirain"]["data"]["next_draw"] == 16


def test_stock_model_on_two_ranks(programs, options, tmp_path, free_port, rain):
    path = options(name="stock", total_iter=4, **stock_sections(rain))
    programs.run_together("train", "-opt", path, "--root", tmp_path, port=free_port)
    assert sorted(logged(tmp_path / "experiments/stock")) == [1, 2, 3, 4]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_ranks_and_their_workers_end_with_a_killed_torchrun(options, tmp_path, free_port):
    path = options(total_iter=999, val=None, datasets={"train": {"num_worker_per_gpu": 1}})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port}"]
    command += ["-m", "unirain_plugin.train", "-opt", str(path), "--launcher", "pytorch"]
    pipes = {"stderr": subprocess.PIPE, "text": True, "env": {**os.environ, **ENVIRONMENT}}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as agent:
        try:
            text = line = "begin"
            while line and "iter:       1," not in line:
                line = agent.stderr.readline()
                text += line
            assert line, text[-3000:]
            others = descendants(agent.pid)
        finally:
            agent.kill()
            agent.wait()
    assert len(others) >= 4  # two ranks with a worker each
    deadline = time.monotonic() + 30  # a worker looks for its rank every five seconds
    while (left := [pid for pid in others if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def descendants(pid):
    """The processes that a process has started, theirs too."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return children + [other for child in children for other in descendants(child)]


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Set and forget, so that what the code writes is undone as well."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def slurm(monkeypatch, **more):
    for name, value in {"PROCID": "0", "NTASKS": "1", "NODELIST": "localhost", "LOCALID": "0", **more}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_without_gpus(monkeypatch, free_port):
    slurm(monkeypatch)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    init_process_group("slurm", on_gpu=False, port=free_port)
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ("gloo", 0, 1)
        assert agreed({"seed": 3}) == {"seed": 3}
    finally:
        leave_process_group()
    assert not dist.is_initialized()
    leave_process_group()


def test_slurm_asks_scontrol_for_the_master(monkeypatch, tmp_path):
    slurm(monkeypatch, PROCID="5", NTASKS="8", LOCALID="1", NODELIST="node[3-4]")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho node3; echo node4\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    joined = {}
    monkeypatch.setattr(dist, "init_process_group", lambda **kwargs: joined.update(kwargs))
    init_process_group("slurm", on_gpu=False)
    environment = {name: distributed.os.environ[name] for name in VARIABLES}
    assert environment == dict(zip(VARIABLES, ("5", "8", "1", "node3", "29500"), strict=True))
    assert joined["backend"] == "gloo"


def test_missing_environments_are_named():
    for launcher, told in (("pytorch", "RANK, WORLD_SIZE.*torchrun"), ("slurm", "SLURM_PROCID.*srun")):
        with pytest.raises(OptionError, match=rf"--launcher {launcher}: the environment lacks {told}"):
            init_process_group(launcher, on_gpu=False)


def test_each_process_takes_the_gpu_of_its_local_rank_if_there_is_one(monkeypatch):
    """Also where the machines have different numbers of GPUs: rank 5 is process 1 of the second machine."""

    def torchrun(*values):
        for name, value in zip(VARIABLES, (*values, "127.0.0.1", "1"), strict=True):
            monkeypatch.setenv(name, value)
        init_process_group("pytorch", on_gpu=True)

    taken, joined = [], {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "init_process_group", lambda **kwargs: joined.update(kwargs))
    torchrun("5", "6", "1")
    assert taken == [torch.device("cuda", 1)] and joined["backend"] == "nccl"
    with pytest.raises(OptionError, match=r"process 3 of this machine has no GPU of its own \(found 2\)"):
        torchrun("3", "4", "3")
    assert agreed(7) == 7  # alone
