"""The benchmarks run, print their figures and refuse nonsense."""

import json
import re

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.study.benchmarks import distill, retrieval


def test_retrieval_prints_growth_and_equal_ssim(tmp_path, capsys):
    sizes = {"references": 400, "candidates": 1000, "queries": 10, "size": 32, "k1": 10, "k2": 4}
    arguments = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    files = ["--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "p.svg"), "--dir", str(tmp_path)]
    assert retrieval.main([*arguments, *files]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +400 .* h +\d\.\d\d$", text, re.M) and re.search(
        r"times as fast in one thread, [\d.]+ times with 2 workers", text
    )
    figures = json.loads((tmp_path / "f.json").read_text())
    assert [row["references"] for row in figures["sizes"]] == [10, 40, 400]
    assert figures["ssim"]["difference"] < 1e-5 and figures["ssim"]["together"] > 0
    assert all(row["peak_gib"] > 0 for row in figures["sizes"])
    assert "</svg>" in (tmp_path / "p.svg").read_text()
    with pytest.raises(OptionError, match=r"--queries ≤ --candidates"):
        retrieval.main(["--candidates", "5", "--queries", "6"])
    with pytest.raises(OptionError, match="--k1: expected 1 or more, found 0"):
        retrieval.main(["--k1", "0"])


def test_distill_speed_runs_the_whole_default_pipeline(tmp_path, capsys):
    arguments = ["--pairs", "8", "--references", "4", "--size", "96", "--workers", "1", "--dir", str(tmp_path)]
    assert distill.speed(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"^8 candidates of 96² .*\n.*\n[\d.]+ candidates/s, .*included\n[\d.]+ candidates/s once", text, re.S
    )
    with pytest.raises(OptionError, match="--pairs: expected 1 or more"):
        distill.speed(["--pairs", "0"])
