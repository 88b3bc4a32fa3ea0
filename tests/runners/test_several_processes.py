"""Two gloo ranks on the CPU: the same run as one process, no dead-lock, exact resume, user errors."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from programs import ENVIRONMENT, lives
from run_helpers import assert_same_weights, logged, stock_sections, weights


def numbers(line: str) -> dict[str, float]:
    words = line.split()
    return {name.rstrip(":"): float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_train_what_one_process_does(programs, options, tmp_path, free_port, workers):
    """A global batch of 4, plain SGD (Adam would magnify the rounding of gradients that are nearly zero)."""
    train = {
        "pixel_opt": {"warmup": 1, "window": 3},
        "optim_g": {"type": "SGD", "lr": 0.1, "betas": None},
        "ema_decay": 0.9,
    }
    one = options(total_iter=6, datasets={"train": {"batch_size_per_gpu": 4}}, train=train)
    programs.run("train", "-opt", one, "--root", tmp_path / "one")
    two = options(
        total_iter=6, datasets={"train": {"batch_size_per_gpu": 2, "num_worker_per_gpu": workers}}, train=train
    )
    programs.run_together("train", "-opt", two, "--root", tmp_path / "two", port=free_port)
    a, b = tmp_path / "one/experiments/tiny", tmp_path / "two/experiments/tiny"
    first, second = weights(a / "models/net_g_latest.pth"), weights(b / "models/net_g_latest.pth")
    for name, tensor in first.items():
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


def torchrun(path, port):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    return [*command, "-m", "unirain_plugin.train", "-opt", str(path), "--launcher", "pytorch"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_ranks_and_their_workers_end_with_a_killed_torchrun(options, tmp_path, free_port):
    path = options(total_iter=999, val=None, datasets={"train": {"num_worker_per_gpu": 1}})
    environment = {**os.environ, **ENVIRONMENT}
    agent = subprocess.Popen(
        torchrun(path, free_port), cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    )
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
    agent.stderr.close()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def descendants(pid):
    """The processes that a process has started, theirs too."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return children + [other for child in children for other in descendants(child)]
