"""Training, testing, restoring and arch on a GPU, if need be a pretended one."""

import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from tiny_run import tiny_train_options

from unirain_plugin import load, restore, test, train
from unirain_plugin.inference.restoring import RestoreOptions, restore_tensor
from unirain_plugin.metrics.complexity import Complexity, peak_memory, seconds
from unirain_plugin.study.benchmarks import arch, cli


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture()
def options(rainrag_root, tmp_path):
    """Write an option file that trains on a GPU, or with ``num_gpu=0`` the same on the CPU; returns its path."""

    def write(name, num_gpu=1, **changes):
        opt = tiny_train_options(rainrag_root, name, ema_decay=0.9, **changes)
        opt["num_gpu"] = num_gpu
        if num_gpu:
            opt["datasets"]["train"] |= {"prefetch_mode": "cuda", "pin_memory": True}
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(opt))
        return str(path)

    return write


def losses(tmp_path, name):
    """The logged losses of a run, resumed or not."""
    logs = sorted((tmp_path / "experiments" / name).glob("train_*.log"))
    return [float(value) for log in logs for value in re.findall(r"\bl_pix: ([\d.e+-]+)", log.read_text())]


def test_a_run_gives_the_cpus_losses_and_is_resumed(gpu, options, tmp_path):
    train.main(["-opt", options("on_cpu", num_gpu=0, total_iter=6)])
    with gpu():
        train.main(["-opt", options("on_gpu")])
        train.main(["-opt", options("on_gpu"), "--auto_resume", "--force_yml", "train:total_iter=6"])
    log = min((tmp_path / "experiments/on_gpu").glob("train_*.log"))
    assert "Use cuda prefetch dataloader" in log.read_text()
    found = losses(tmp_path, "on_gpu")
    assert len(found) == 6
    assert found == pytest.approx(losses(tmp_path, "on_cpu"), rel=1e-3)
    ours, theirs = (
        torch.load(tmp_path / f"experiments/{name}/models/net_g_latest.pth")["params_ema"]
        for name in ("on_gpu", "on_cpu")
    )
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-2, atol=1e-4)


def test_mixed_precision_trains_nearly_the_same(gpu, options, tmp_path):
    more = {"total_iter": 2, "accumulate": 2, "grad_clip": 0.5, "channels_last": True}
    found = {}
    for amp in ("off", "bf16", "fp16"):
        with gpu():
            train.main(["-opt", options(amp, amp=amp, **more)])
        found[amp] = losses(tmp_path, amp)
    full = found.pop("off")
    for low in found.values():
        assert len(low) == 2
        assert low != full
        assert low == pytest.approx(full, rel=0.02)


def test_the_test_program_gives_the_cpus_figures(gpu, options, tmp_path):
    train.main(["-opt", options("trained", num_gpu=0)])
    figures = []
    for num_gpu, tile in ((0, 0), (1, 0), (0, 32), (1, 32)):
        opt = yaml.safe_load(Path(options(f"test_{num_gpu}_{tile}", num_gpu)).read_text())
        opt["datasets"] = {"test_1": {**opt["datasets"]["val"], "phase": "test"}}
        opt["val"] |= {"tile": tile, "tile_overlap": 8}
        opt["path"] = {"pretrain_network_g": "experiments/trained/models/net_g_latest.pth"}
        (tmp_path / "test.yml").write_text(yaml.safe_dump({k: v for k, v in opt.items() if k != "train"}))
        with gpu():
            test.main(["-opt", "test.yml"])
        (log,) = (tmp_path / f"results/test_{num_gpu}_{tile}").glob("test_*.log")
        figures.append(float(re.search(r"# psnr: ([\d.]+)", log.read_text())[1]))
    assert figures[::2] == pytest.approx(figures[1::2], abs=1e-3)


@pytest.mark.parametrize(
    "how",
    [
        {"tile": 0},
        {"tile": 64},
        {"tile": 64, "memory": 0.001},
        {"tile": 64, "precision": "bf16"},
        {"tile": 64, "precision": "fp16"},
        {"tile": 64, "sizes": (100,)},
    ],
    ids=str,
)
def test_the_shipped_weights_restore_as_on_the_cpu(gpu, how):
    rainy = np.random.default_rng(0).integers(0, 256, (150, 130, 3), dtype=np.uint8)
    expected = restore(load(device="cpu"), rainy, **{**how, "precision": "fp32"})
    with gpu():
        net = load(device="cuda")
        assert next(net.parameters()).device.type == "cuda"
        found = restore(net, rainy, **how)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_comparison_measures_time_and_memory(gpu):
    with gpu():
        net, device = load(device="cuda"), torch.device("cuda")

        def once(image):
            return restore_tensor(net, image, RestoreOptions())

        assert seconds(once, 32, device) > 0
        assert peak_memory(once, 32, device) > 0


def test_the_benchmark_of_networks_has_its_own_rows_and_waits(gpu, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(arch, "BASELINE", "textbook-tiny")
    monkeypatch.setattr(arch, "DISPATCH_TURNS", 1)
    monkeypatch.setattr(arch, "complexity", lambda net, size: Complexity(1, 1))  # counted on no device at all
    monkeypatch.setattr(arch, "apart", lambda function, *args: function(*args))  # a new process knows no pretence
    monkeypatch.setattr(torch, "compile", lambda net: compiled.append(net) or net)
    argv = ["arch", "--device", "cuda", "--networks", "UniRain-Tiny", "--size", "8", "--train-size", "8"]
    with (
        gpu(),
        mock.patch.object(torch.cuda, "synchronize", wraps=torch.cuda.synchronize) as waits,
        mock.patch.object(torch.cuda, "memory_allocated", lambda *_: 100),
        mock.patch.object(torch.cuda, "max_memory_allocated", lambda *_: 300),
    ):
        assert cli.main([*argv, "--rounds", "1", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cuda, 1 threads")
    labels = "fp32", "channels_last", "bf16", "bf16+channels_last", "bf16+channels_last+compile", "checkpointing"
    for label in labels:
        row = next(line for line in printed.splitlines() if line.startswith(f"| UniRain-Tiny | {label} |"))
        assert row.endswith("| 1.00 |"), "peak memory as the allocator tells it"
    assert len(compiled) == 3  # for the forward passes, the training steps and the memory
    assert waits.call_count == 2 * (6 + 7) + 2 * 6 * (1 + 1)  # forward, step; mixtures sparse and dense
