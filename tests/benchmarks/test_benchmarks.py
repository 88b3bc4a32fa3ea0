"""Every benchmark runs, prints its table and refuses nonsense (figures are for people, not for tests)."""

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import write_own_network

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.compare.summary import Score
from unirain_plugin.data.sources import close_environments
from unirain_plugin.inference.loading import build_network
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.benchmarks import arch, data, metrics, runtimes, startup, weights


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["arhc"], "unknown name 'arhc'. Did you mean 'arch'"),
        (["arch", "--networks", "UniRian"], "--networks: unknown 'UniRian'. Did you mean 'UniRain'"),
        (["arch", "--variants", "fp16"], "--variants: unknown 'fp16'"),
        (["arch", "--size", "100"], "--size: got 100; allowed: a multiple of 8"),
        (["arch", "--rounds", "0"], "--rounds: got 0; allowed: at least 1"),
        (["data", "--crops", "0"], "--crops: expected 1 or more, found 0"),
        (["metrics", "--size", "10", "40"], "expected --size ≥ 11 11"),
        (["metrics", "--rounds", "0"], "expected --size ≥ 11 11"),
        (["metrics", "--threads", "0"], "expected --size ≥ 11 11"),
        (["startup", "--rounds", "0"], "--rounds: expected 1 or more, found 0"),
        (["runtimes", "--runtimes", "onxruntime"], "--runtimes: unknown 'onxruntime'. Did you mean 'onnxruntime'"),
        (["runtimes", "--size", "8"], "expected --size ≥ 16 and --rounds ≥ 1; found 8 and 5"),
        (["weights", "--per-image", "0"], "--per-image: expected 1 or more, found 0"),
        pytest.param(
            ["arch", "--device", "cuda"],
            "finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU"),
        ),
    ],
)
def test_wrong_arguments_are_explained(argv, message, capsys):
    assert cli.main(["benchmark", *argv]) == 2
    assert message in capsys.readouterr().err


def test_arch_prints_every_row(forked_pools, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: True)
    monkeypatch.setattr(arch, "BASELINE", "textbook-tiny")
    argv = ["arch", "--networks", "textbook-tiny", "UniRain-Tiny", "--size", "16", "--train-size", "16"]
    argv += ["--rounds", "1", "--threads", "1", "--no-memory", "--json", str(tmp_path / "b.json")]
    assert cli.main(["benchmark", *argv]) == 0
    printed, told = capsys.readouterr()
    assert "benchmark arch: training steps at 16², 5 rows (textbook-tiny, UniRain-Tiny) …" in told
    assert "| textbook-tiny | fp32 | 0." in printed
    assert "| UniRain-Tiny | bf16 | 0.73 |" in printed
    assert printed.count("| window |") == 3
    rows = json.loads((tmp_path / "b.json").read_text())["networks"]
    assert rows[0]["forward_ratio"] == rows[0]["step_ratio"] == 1
    assert all(row["warm"] is None for row in rows if row["network"] == "UniRain-Tiny")
    checkpointing = next(row for row in rows if row["variant"] == "checkpointing")
    assert checkpointing["forward"] is None and checkpointing["step"] > 0


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="needs jpegtran")
def test_data_measures_every_case(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data, "LMDBS", [(title, suffix, (180, 340), *rest) for title, suffix, _, *rest in data.LMDBS])
    try:
        arguments = ["--images", "1", "--crops", "1", "--repeats", "1", "--dir", str(tmp_path)]
        assert cli.main(["benchmark", "data", *arguments]) == 0
    finally:
        close_environments()
    lines = capsys.readouterr().out.splitlines()
    rows = [
        line for line in lines if re.search(r"\d+\.\d ms +\d+\.\d\d ms +\d+\.\d× +[\d.]+× +\d+( +\d\.\d\d| +)$", line)
    ]
    assert len(rows) == 9 and sum("seekable LMDB" in row for row in rows) == 4
    assert any(line.startswith("gt_size 128; OpenCV") for line in lines)


def test_metrics_reports_values_and_times_and_a_wrong_one_is_an_exit_status(tmp_path, capsys, monkeypatch):
    file = tmp_path / "m.json"
    assert cli.main(["benchmark", "metrics", "--size", "30", "40", "--rounds", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row["metric"] for row in rows] == ["psnr", "psnr_y", "ssim", "ssim_y"]
    assert all(row["difference"] < 1e-9 and row["ours_s"] > 0 for row in rows)
    assert "40×30, median of 1" in capsys.readouterr().out
    monkeypatch.setattr(metrics, "ssim", lambda image, target: 0.5)
    assert cli.main(["benchmark", "metrics", "--size", "30", "40", "--rounds", "1"]) == 1


def test_runtimes_are_compared_with_torch(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runtimes, "apart", lambda function, *args: max(function(*args), 1))
    small = {"dim": 8, "num_blocks": [1, 1], "decoder_blocks": [1], "heads": [1, 1]}
    net = build_network({"type": "UniRain", **small}, "test")
    write_weights(tmp_path / "w.pth", net.state_dict(), net.architecture)
    half = lambda weights: lambda x: runtimes.RUNTIMES["torch"][-1](weights)(x) / 2  # noqa: E731
    monkeypatch.setitem(runtimes.RUNTIMES, "opencv", ("cv2", ".safetensors", half))
    argv = ["benchmark", "runtimes", "--weights", str(tmp_path / "w.pth"), "--size", "32", "--rounds", "1"]
    assert cli.main([*argv, "--runtimes", "torchscript", "opencv"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in rows] == ["torch", "torchscript", "opencv"]
    assert rows[0][2:] == ["0.0e+00", "+0.000", "1.00", "1.00"]
    assert float(rows[1][2]) < 1e-5 and abs(float(rows[1][3])) < 0.001
    assert float(rows[2][2]) > 0.1 and float(rows[2][3]) < -3


def test_a_network_of_ones_own(forked_pools, monkeypatch, tmp_path, capsys):
    """Of a module in the working folder that registers it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"HalfNet{os.getpid()}"  # the registry takes a name once
    half = {"weight": torch.eye(3)[..., None, None] / 2, "bias": torch.zeros(3)}
    write_weights(Path("w.safetensors"), half, {"type": name})
    own = ["--weights", "w.safetensors", "--imports", write_own_network(tmp_path, name)]
    assert cli.main(["benchmark", "weights", "--size", "48", "--per-image", "1", "--types", "drs", *own]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("clean, day"))
    assert 5 < float(row[22:].split()[1]) < 20, "half as bright"
    argv = ["benchmark", "runtimes", "--size", "32", "--rounds", "1", "--runtimes", "torchscript"]
    assert cli.main([*argv, *own]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == ["torch", "torchscript"]


def test_a_runtime_that_is_not_installed_is_told(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else name)
    assert cli.main(["benchmark", "runtimes", "--runtimes", "openvino f32"]) == 2
    assert "openvino f32 needs the package openvino, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("chosen", "types"), [([], RAIN_TYPES), (["--types", "nrd", "snow"], ("nrd", "snow"))])
def test_weights_has_a_row_for_each_rain(chosen, types, capsys):
    assert weights.main(["--size", "64", "--per-image", "1", *chosen]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:22].strip(): line[22:].split() for line in lines[2:]}
    assert lines[0].startswith("2 windows a row")
    for name in (*types, "smeared noise"):
        before, after, gain = (float(value) for value in rows[name][:3])
        assert abs(after - before - gain) < 0.011
    assert rows["clean, day"][0] == rows["clean, night"][0] == "inf"
    assert float(rows["clean, day"][1]) > 38
    mean = sum(float(rows[name][2]) for name in types) / len(types)
    text = rf"mean gain over {', '.join(types)}: (.*) dB, standard error over these windows (.*) dB"
    last = re.fullmatch(text, lines[-1])
    assert abs(mean - float(last[1])) < 0.011
    assert 0 < float(last[2]) < 5


def test_a_perfect_window_is_counted_and_hides_no_other_and_the_standard_error_is_that_of_the_mean(capsys):
    scores = [
        (Score(30, 0.9), Score(33, 0.95)),
        (Score(math.inf, 1), Score(40, 0.99)),
        (Score(20, 0.5), Score(21, 0.5)),
    ]
    gains = weights.write_row("drs", scores)
    assert gains[0] == 3 and math.isnan(gains[1]) and gains[2] == 1
    row, note = capsys.readouterr().out.splitlines()
    assert row.split()[:5] == ["drs", "25.00", "27.00", "+2.00", "+1.00"]
    assert note == "  (1 window equals its clean one before or after: its infinite PSNR is in no mean)"
    assert weights.standard_error([1, 3]) == pytest.approx(1)
    assert weights.standard_error([1, 3] * 50) == pytest.approx(0.1, rel=0.01)


def test_smeared_noise_brightens_along_one_direction():
    photo = np.full((128, 128, 3), 60, np.uint8)
    rain = weights.smeared_noise(photo, np.random.default_rng(3)).astype(int) - photo
    assert rain.min() >= 0 and 0.02 < (rain[..., 0] > 10).mean() < 0.6
    assert (rain[..., 0] == rain[..., 2]).all()
    down, across = (np.abs(np.diff(rain[..., 0], axis=axis)).mean() for axis in (0, 1))
    assert down < 0.7 * across


def test_startup_measures_whole_processes(monkeypatch, capsys):
    programs = {startup.BASELINE: ("-c", "pass"), "read": ("-c", "open('input/a.png'), open('train.yml')")}
    monkeypatch.setattr(startup, "PROGRAMS", programs)
    assert cli.main(["benchmark", "startup", "--rounds", "1"]) == 0
    table = capsys.readouterr().out
    assert "| import torch | 1.00 | 1.00 | 1.00 |" in table and re.search(r"\| read( \| \d+\.\d\d){3} \|", table)
    programs["wrong"] = ("-c", "raise SystemExit('no such thing')")
    assert cli.main(["benchmark", "startup"]) == 2
    assert "failed (1):\nno such thing" in capsys.readouterr().err
