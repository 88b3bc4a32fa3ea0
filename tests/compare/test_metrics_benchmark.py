"""The benchmark of the metrics measures what it says."""

import json

import pytest

from unirain_plugin import __main__ as cli
from unirain_plugin.study.benchmarks import metrics


def test_it_reports_values_and_times(tmp_path, capsys):
    file = tmp_path / "m.json"
    assert cli.main(["benchmark", "metrics", "--size", "30", "40", "--rounds", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row["metric"] for row in rows] == ["psnr", "psnr_y", "ssim", "ssim_y"]
    assert all(row["difference"] < 1e-9 and row["ours_s"] > 0 for row in rows)
    assert "40×30, median of 1" in capsys.readouterr().out


def test_a_wrong_value_is_an_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(metrics, "ssim", lambda image, target: 0.5)
    assert cli.main(["benchmark", "metrics", "--size", "30", "40", "--rounds", "1"]) == 1


@pytest.mark.parametrize("arguments", [["--size", "10", "40"], ["--rounds", "0"], ["--threads", "0"]])
def test_sizes_are_checked(arguments, capsys):
    assert cli.main(["benchmark", "metrics", *arguments]) == 2
    assert "expected --size ≥ 11 11" in capsys.readouterr().err
