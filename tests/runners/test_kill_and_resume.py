"""SIGKILL at random moments, also while saving, and ``--auto_resume``: the run must come out bit for bit.

``UNIRAIN_KILL_SEEDS=10`` runs ten seeds for each number of workers instead of two without and one with workers.
"""

import os
import random
import time

import pytest
from run_helpers import assert_same_weights, logged

TOTAL = 40
SEEDS = os.environ.get("UNIRAIN_KILL_SEEDS")


def write_options(options, workers):
    """A checkpoint every other iteration, weights that react at once, validation in between."""
    return options(
        total_iter=TOTAL,
        datasets={"train": {"batch_size_per_gpu": 3, "num_worker_per_gpu": workers}},
        train={"ema_decay": 0.9, "pixel_opt": {"warmup": 2, "window": 4}},
        val={"val_freq": 20},
        logger={"save_checkpoint_freq": 2, "keep_checkpoints": 3},
    )


@pytest.mark.parametrize("workers, seeds", [(0, 2), (2, 1)])
def test_killed_runs_come_out_bit_for_bit(programs, options, tmp_path, workers, seeds):
    path = write_options(options, workers)
    straight = tmp_path / "straight/experiments/tiny"
    programs.run("train", "-opt", path, "--root", tmp_path / "straight")
    expected = logged(straight)
    assert sorted(expected) == list(range(1, TOTAL + 1))
    for seed in range(int(SEEDS or seeds)):
        root = tmp_path / f"seed{seed}"
        kills = kill_until_done(programs, path, root, random.Random(10 * seed + workers))
        experiment = root / "experiments/tiny"
        assert kills >= 2
        assert logged_everywhere(root) == expected
        assert_same_weights(straight / "models/net_g_latest.pth", experiment / "models/net_g_latest.pth")
        assert_same_weights(straight / f"models/net_g_{TOTAL}.pth", experiment / f"models/net_g_{TOTAL}.pth")
        assert not list(experiment.rglob(".*.tmp-*")), "a finished run leaves no temporary files"


def kill_until_done(programs, path, root, rng) -> int:
    """Start, kill a few iterations later, resume, … until a run ends by itself. Returns the number of kills.

    The moment is random in the run (so many iterations further, or while it is still starting) and in the iteration
    (a random time later: training, saving, validation).
    """
    kills = 0
    while True:
        pid, log = programs.start("train", "-opt", path, "--root", root, "--auto_resume")
        iterations = rng.randint(0, 20)
        status = wait_for_iterations(programs, pid, log, iterations, rng.uniform(0, 0.08 if iterations else 1))
        if status is None:
            programs.kill(pid)
            kills += 1
            continue
        assert status == 0, log.read_text()[-4000:]
        return kills


def wait_for_iterations(programs, pid, log, count, delay) -> int | None:
    """Wait until so many more iterations are logged, and a moment; the exit status if it has ended by then."""
    while log.read_text().count(", iter:") < count:
        status = programs.wait(pid, seconds=0)
        if status is not None:
            return status
        time.sleep(0.01)
    return programs.wait(pid, seconds=delay)


def logged_everywhere(root) -> dict[int, str]:
    """The losses of a run and of what was archived when it was killed before its first checkpoint."""
    found = {}
    for experiment in sorted((root / "experiments").iterdir()):
        for iteration, losses in logged(experiment).items():
            assert found.setdefault(iteration, losses) == losses, iteration
    return found


def test_killed_while_saving(programs, options, tmp_path):
    """The checkpoint of iteration 4 is cut off at each of its steps; the run goes on from that of iteration 2."""
    path = options(total_iter=5, logger={"save_checkpoint_freq": 2}, val=None)
    straight = tmp_path / "straight/experiments/tiny"
    programs.run("train", "-opt", path, "--root", tmp_path / "straight")
    steps = ["net_g_4.pth:write", "net_g_4.pth:replace", "4.state:write", "4.state:fsync", "4.state:replace"]
    for number, step in enumerate(steps):
        root = tmp_path / f"killed{number}"
        pid, log = programs.start("train", "-opt", path, "--root", root, env={"UNIRAIN_TEST_KILL": step})
        assert programs.wait(pid) == -9, log.read_text()[-2000:]
        experiment = root / "experiments/tiny"
        assert not (experiment / "training_states/4.state").exists(), step
        text = programs.run("train", "-opt", path, "--root", root, "--auto_resume")
        assert "iter: 2." in text, step
        assert logged(experiment) == logged(straight), step
        assert_same_weights(straight / "models/net_g_latest.pth", experiment / "models/net_g_latest.pth")
        assert not list(experiment.rglob(".*.tmp-*")), step
