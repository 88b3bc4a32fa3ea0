"""The smoke profile from end to end: killed in the middle, gone on with, one run broken on purpose."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import fmean
from unittest import mock

import cv2
import numpy as np
import pytest

from unirain_plugin import __main__ as cli
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study import command
from unirain_plugin.study.options import base_training, digest, load_options
from unirain_plugin.study.report import read_curve
from unirain_plugin.support.resources import option_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"
SMOKE = option_file("reproduce/smoke.yml")
BROKEN = "EDSR_paper_distilled_s2"


class Story:
    """What happened: the output folder, the results that stood after the kill, the second call."""

    def __init__(self, folder):
        self.root = folder / "out"
        self.arguments = [sys.executable, str(SCRIPT), "-opt", str(SMOKE), "--output", str(self.root)]
        self._start_and_kill(folder / "first.log")
        self.before = {path: path.stat().st_mtime_ns for path in self.evaluations()}
        states = self.root / "experiments" / BROKEN / "training_states"
        states.mkdir(parents=True)
        (states / "2.state").write_bytes(b"no checkpoint")
        self.stdout, self.stderr = StringIO(), StringIO()
        with mock.patch.dict(os.environ), redirect_stdout(self.stdout), redirect_stderr(self.stderr):
            self.status = cli.main(["reproduce", *self.arguments[2:]])

    def _start_and_kill(self, log):
        with log.open("wb") as file:
            first = subprocess.Popen(self.arguments, stdout=file, stderr=file)
            deadline = time.monotonic() + 600
            while not (self.root / "runs.jsonl").is_file():
                assert first.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            first.kill()
            first.wait()

    def evaluations(self):
        return sorted(self.root.glob("experiments/*/evaluation.json"))

    def runs(self):
        return [json.loads(line) for line in (self.root / "runs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("reproduce"))


def test_what_was_finished_is_not_redone_and_a_failed_run_is_named_and_the_others_finish(story):
    told = story.stdout.getvalue()
    assert 1 <= len(story.before) < 5 == len(story.evaluations())
    for path, written in story.before.items():
        assert path.stat().st_mtime_ns == written, path
        assert f" {path.parent.name}:" not in told
    assert story.status == 1
    assert f"1 of 6 runs failed: {BROKEN}" in story.stderr.getvalue()
    assert f"{BROKEN}: FAILED, exit status 2: error:" in told
    status = {run["name"]: run["status"] for run in story.runs()}
    assert Counter(status.values()) == {"finished": 5, "failed": 1} and status[BROKEN] == "failed"
    assert f"- {BROKEN}: exit status 2" in (story.root / "table.md").read_text()


def test_curves_and_tables_agree_with_the_runs(story):
    for path in story.evaluations():
        result = json.loads(path.read_text())
        curve = read_curve(path.parent / "curve.jsonl")
        assert sorted(curve) == [2, 4]
        assert curve[4] == pytest.approx(fmean(result["psnr"].values()))
        assert list(result["psnr"]) == list(result["loss_weights"]) == list(RAIN_TYPES)
        assert sum(result["loss_weights"].values()) == pytest.approx(1, abs=1e-5)
    with (story.root / "table.csv").open() as file:
        rows = {(row["question"], row["variant"]): row for row in csv.DictReader(file)}
    assert list(rows) == [("loss", "paper"), ("loss", "equal"), ("networks", "UniRain"), ("networks", "EDSR")]
    paper = [fmean(run["psnr"].values()) for run in story.runs() if run["loss"] == "paper" and "UniRain" in run["name"]]
    assert len(paper) == 2
    assert float(rows["loss", "paper"]["psnr"]) == pytest.approx(fmean(paper))
    assert rows["networks", "EDSR"]["seeds"] == "1"
    assert rows["networks", "EDSR"]["verdict"] == "not told (one seed)"
    table = (story.root / "table.md").read_text()
    assert f"| paper | 3.6 | 3.7 | 2 | {fmean(paper):.2f} ± " in table
    assert table in story.stdout.getvalue()


def test_results_say_where_they_come_from_and_images_and_curves_are_drawn(story):
    results = json.loads((story.root / "results.json").read_text())
    options = load_options(SMOKE)
    assert results["option_hash"] == digest(options.fixed(base_training(options)))
    assert results["seeds"] == [1, 2]
    for key in ("begun_with", "written_with"):
        assert {"commit", "versions", "platform", "cpu", "gpu", "written"} <= results[key].keys()
    finished = [run for run in results["runs"] if run["status"] == "finished"]
    assert all(run["device"] == "cpu" and run["seconds"] > 0 and run["ended"] for run in finished)
    assert str(story.root) not in json.dumps(results), "results can be shown: no path of this machine"
    read = {path.name: cv2.imread(str(path)) for path in story.root.glob("*.png")}
    assert read.keys() == {"curves.png", "pictures_loss.png", "pictures_networks.png"}
    height, width = read["pictures_loss.png"].shape[:2]
    assert width == 4 + 4 * (48 + 4)  # rainy, two variants, clean
    assert height == 20 + 4 * (48 + 18)
    assert read["curves.png"].std() > 5


def test_subsets_hold_what_they_should(story):
    subsets = {path.stem: list(read_manifest(path)) for path in (story.root / "data" / "subsets").glob("*.jsonl")}
    assert subsets.keys() == {"everything", "distilled", "oracle", "random_1", "random_2"}
    good = [record for record in subsets["everything"] if record.source == "rendered"]
    assert subsets["oracle"] == good
    assert len(subsets["everything"]) == 32 and len(good) == 24  # a quarter is spoilt
    types = {name: Counter(record.rain_type for record in records) for name, records in subsets.items()}
    assert types["random_1"] == types["random_2"] == types["distilled"]
    assert subsets["random_1"] != subsets["random_2"]
    folder = story.root / "data" / "subsets"
    assert all((folder / path).is_file() for record in subsets["everything"] for path in (record.lq, record.gt))


def test_report_only_writes_the_tables_again_and_an_output_made_with_other_options_is_refused(story, tmp_path, capsys):
    table = (story.root / "table.csv").read_bytes()
    (story.root / "table.csv").unlink()
    assert command.main(["-opt", str(SMOKE), "--output", str(story.root), "--report-only"]) == 0
    assert (story.root / "table.csv").read_bytes() == table
    assert "5 of 6 runs" in capsys.readouterr().out
    changed = tmp_path / "smoke.yml"
    changed.write_text(SMOKE.read_text().replace("total_iter: 4", "total_iter: 6"))
    told = r"made with other options \(hash \w+, now \w+\): training:train:total_iter \(4 → 6\)\."
    with pytest.raises(OptionError, match=told):
        command.main(["-opt", str(changed), "--output", str(story.root)])


TWO = ["--photographs", "train", "val"]
GPU = ["-opt", str(SMOKE.with_name("gpu.yml"))]


@pytest.mark.parametrize(
    ("made", "more", "message"),
    [
        ((), TWO, "photographs: train: .*: no such folder"),
        (("train/",), TWO, "photographs: train: .*: holds no photographs; exp.*.jpg"),
        (("train/a.png", "val/b.png"), TWO, r"a.png and .*b.png are the same file"),
        ((), ["--report-only"], "holds no reproduction to report on"),
        ((), GPU, r"training of .*_s1: num_gpu: found 1, but PyTorch sees no"),
        (("out/mine.png",), [], "is not empty and was not made by this command"),
        ((), ["-opt", "uneven.yml"], "networks: expected the multiply-adds"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_made(tmp_path, monkeypatch, made, more, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    Path("uneven.yml").write_text(re.sub(r"num_feat: \d+", "num_feat: 16", SMOKE.read_text()))
    for name in map(Path, made):
        name.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(name), np.zeros((64, 64, 3), np.uint8)) if name.suffix else name.mkdir()
    with pytest.raises((DataError, OptionError), match=message):
        command.main(["-opt", str(SMOKE), "--output", "out", *more])
    assert [path.name for path in tmp_path.glob("out/*")] == [name[4:] for name in made if name.startswith("out/")]
