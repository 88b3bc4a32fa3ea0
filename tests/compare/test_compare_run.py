"""Whole comparisons with tiny networks and images: results, resuming, and everything that can go wrong."""

import json
import shutil
import time

import crashing_networks
import cv2
import numpy as np
import pytest
import torch
import yaml
from comparison_data import option_dict
from tiny_run import TINY_NETWORK, write_rainrag

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.compare import networks
from unirain_plugin.compare.options import parse_options
from unirain_plugin.compare.run import UNTRAINED, run
from unirain_plugin.compare.samples import Source
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.inference.loading import build_network, load
from unirain_plugin.inference.restoring import restore
from unirain_plugin.metrics import scoring
from unirain_plugin.metrics.psnr_ssim import psnr
from unirain_plugin.support.files import sole_user

EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 1}
COST = {"size": 16, "rounds": 1, "multiply_adds_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two types × two images, weights of two networks, and finished images of a third program."""
    root = tmp_path_factory.mktemp("compare")
    write_rainrag(root / "test", 2, types=("drs", "nrd"))
    torch.manual_seed(0)
    write_weights(root / "ours.safetensors", build_network(TINY_NETWORK, "t").state_dict(), TINY_NETWORK)
    torch.save({"params_ema": build_network(EDSR, "t").state_dict()}, root / "edsr.pth")
    for rain_type in ("drs", "nrd"):
        folder = root / "finished" / rain_type
        folder.mkdir(parents=True)
        for path in (root / "test" / rain_type / "target").iterdir():
            clean = cv2.imread(str(path)).astype(int)
            cv2.imwrite(str(folder / f"{path.stem}_r.png"), (clean + np.where(clean < 128, 5, -5)).astype(np.uint8))
    return root


def models(data):
    return [
        {"name": "ours", "weights": str(data / "ours.safetensors")},
        {"name": "EDSR", "network": EDSR, "weights": str(data / "edsr.pth")},
        {"name": "finished", "results": str(data / "finished"), "suffix": "_r"},
    ]


def options_on(data, output, chosen=None, **keys):
    test_set = {"name": "test", "dataroot": str(data / "test")}
    return option_dict(output, models(data) if chosen is None else chosen, test_set, **{"name": "tiny", **keys})


def compare(data, output, chosen=None, **keys):
    return run(parse_options(options_on(data, output, chosen, **keys), "c.yml"), bar=False)


def command(data, folder, chosen=None, *flags, **keys):
    """Runs the command on an option file of ``folder``; its exit status."""
    (folder / "tiny.yml").write_text(yaml.safe_dump(options_on(data, folder / "out", chosen, **keys)))
    return cli.main(["compare", "-opt", str(folder / "tiny.yml"), "--quiet", *flags])


def statuses(outcome):
    return {model.name: model.status for model in outcome.comparison.models}


def files_of(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted((folder / "pictures").rglob("*.png"))}


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A finished comparison, and its folder."""
    folder = tmp_path_factory.mktemp("done")
    return compare(data, folder, cost=COST), folder


def test_scores_are_those_of_the_restored_images(data, done):
    outcome, folder = done
    assert statuses(outcome) == dict.fromkeys(("input", "ours", "EDSR", "finished"), "ok") and not outcome.failures
    results = {(r.model, r.image): r for r in outcome.comparison.results}
    assert len(results) == 16
    assert results["finished", "nrd/001"].metrics["psnr"] == pytest.approx(20 * np.log10(255 / 5))
    lq, gt = (Source(str(data / f"test/drs/{side}/000.png")).pixels() for side in ("input", "target"))
    expected = restore(load(data / "ours.safetensors", device="cpu"), lq)
    stored = Source(str(folder / "pictures/ours/test/drs/000.png")).pixels()
    assert np.array_equal(stored, expected)
    assert results["ours", "drs/000"].metrics["psnr"] == psnr(expected, gt)
    assert results["input", "drs/000"].metrics["psnr"] == psnr(lq, gt)
    arrays = outcome.comparison.arrays("test", "drs/000")
    assert list(arrays) == ["input", "ours", "EDSR", "finished", "gt"]
    assert np.array_equal(arrays["ours"], expected) and np.array_equal(arrays["gt"], gt)


def test_the_command_writes_everything(data, tmp_path, capsys):
    chosen = [*models(data), {"name": "new", "network": EDSR, "untrained": True}]
    assert command(data, tmp_path, chosen, cost=COST, figure={"crop": 16}) == 0
    out = tmp_path / "out"
    text = capsys.readouterr().out
    assert text.startswith((out / "tables.md").read_text()) and "| finished | **34.15** /" in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"][4]["status"] == UNTRAINED and summary["models"][4]["parameters"] == 648 + 19
    costs = {m["name"]: m for m in summary["models"]}
    assert costs["EDSR"]["multiply_adds"] == 648 * 256 and costs["EDSR"]["latency_ms"] > 0
    assert costs["ours"]["peak_memory_mb"] > 0 and costs["finished"]["parameters"] is None
    assert {"commit", "device", "cpu", "versions", "written"} <= summary["provenance"].keys()
    assert summary["options"]["bootstrap"]["seed"] == 0 and "new" not in (out / "per_image.csv").read_text()
    assert r"\textbf{34.15}" in (out / "tables.tex").read_text()
    assert cv2.imread(str(out / "figure.png")) is not None
    assert "finished" in (out / "page.html").read_text(encoding="utf-8")


def test_one_perfect_image_does_not_hide_the_others(data, tmp_path, capsys):
    perfect = tmp_path / "perfect"
    shutil.copytree(data / "finished", perfect)
    shutil.copy(data / "test/drs/target/000.png", perfect / "drs/000_r.png")
    chosen = [{**models(data)[2], "name": "copied", "results": str(perfect)}, models(data)[2]]
    assert command(data, tmp_path, chosen, figure={"crop": 16}, metrics=["psnr"]) == 0
    out, note = tmp_path / "out", "copied: PSNR of 1 of 2 images of DRS."
    table = (out / "tables.md").read_text()
    assert note in table and note in capsys.readouterr().out and "∞" not in table
    assert "| copied | **34.15** |" in table and "| finished | **34.15** |" in table
    assert note in (out / "tables.tex").read_text() and note in (out / "page.html").read_text(encoding="utf-8")
    assert "test,drs,drs/000,copied,inf" in (out / "per_image.csv").read_text()
    (test_set,) = json.loads((out / "summary.json").read_text())["test_sets"]
    assert test_set["left_out"] == {"copied": {"drs": {"psnr": 1}}}
    assert test_set["values"]["copied"]["mean"]["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=0.01)


def test_a_rerun_computes_nothing_again(data, done, monkeypatch):
    first, folder = done
    before, lines = files_of(folder), (folder / "results.jsonl").read_text()
    monkeypatch.setattr(networks, "_serve", crashing_networks.leaving)  # whoever starts a network fails
    again = compare(data, folder, cost=COST)
    assert files_of(folder) == before and (folder / "results.jsonl").read_text() == lines
    assert again.comparison.results == first.comparison.results
    assert again.comparison.models == first.comparison.models
    outcome = compare(data, folder, metrics=["ssim_y", "psnr"])  # a new metric needs no restoring
    assert not outcome.failures and files_of(folder) == before
    assert all(set(r.metrics) == {"psnr", "ssim_y"} for r in outcome.comparison.results)


def test_what_changes_is_computed_again(data, tmp_path):
    copy = tmp_path / "edsr.pth"
    copy.write_bytes((data / "edsr.pth").read_bytes())
    chosen = [models(data)[0], {"name": "EDSR", "network": EDSR, "weights": str(copy)}]
    out = tmp_path / "out"
    first = compare(data, out, chosen)
    before = files_of(out)
    torch.manual_seed(5)
    torch.save({"params": build_network(EDSR, "t").state_dict()}, copy)
    (out / "pictures/ours/test/drs/001.png").write_bytes(b"damaged")
    second = compare(data, out, chosen)
    changed = {name for name, time_ns in files_of(out).items() if before[name] != time_ns}
    edsr = {f"pictures/EDSR/test/{t}/{i}.png" for t in ("drs", "nrd") for i in ("000", "001")}
    assert changed == edsr | {"pictures/ours/test/drs/001.png"}
    by_model = [
        {m: [r.metrics for r in o.comparison.results if r.model == m] for m in ("ours", "EDSR")}
        for o in (first, second)
    ]
    assert by_model[0]["ours"] == by_model[1]["ours"] and by_model[0]["EDSR"] != by_model[1]["EDSR"]


def test_killed_in_the_middle_it_goes_on(programs, data, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(options_on(data, out, models(data)[:1])))
    pid, log = programs.start("compare", "-opt", tmp_path / "tiny.yml", "--quiet")
    journal = out / "results.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and b'"ours"' in journal.read_bytes()):
        assert programs.wait(pid, seconds=0) is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    programs.kill(pid)
    with journal.open("ab") as file:
        file.write(b'{"key": ["result", "ours", "test", "nrd')  # as a kill in the middle of a line leaves it
    done = files_of(out)
    outcome = compare(data, out, models(data)[:1])
    assert statuses(outcome) == {"input": "ok", "ours": "ok"} and len(outcome.comparison.results) == 8
    kept = [name for name, time_ns in files_of(out).items() if done.get(name) == time_ns]
    assert "pictures/ours/test/drs/000.png" in kept
    whole = compare(data, tmp_path / "whole", models(data)[:1])
    assert outcome.comparison.results == whole.comparison.results


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("killed", "its process was killed (signal 9), most likely by the system for lack of memory"),
        ("leaving", "its process ended unexpectedly (exit status 7)"),
        ("out_of_memory", "1 of 4 images have no result: test/drs/001: out of memory"),
    ],
)
def test_a_model_that_crashes_leaves_the_others(data, tmp_path, monkeypatch, body, message):
    monkeypatch.setattr(networks, "_serve", getattr(crashing_networks, body))
    outcome = compare(data, tmp_path, [models(data)[0], models(data)[2]])
    assert statuses(outcome)["ours"].startswith(message)
    assert statuses(outcome)["finished"] == "ok" and outcome.failures == [f"ours: {statuses(outcome)['ours']}"]
    values = outcome.summaries[0].values
    assert values["finished"]["mean"]["psnr"] is not None and values["ours"]["mean"]["psnr"] is None


def test_unfit_models_say_so_and_the_others_finish(data, tmp_path, capsys):
    folder = tmp_path / "results"
    folder.mkdir()
    small = np.zeros((10, 12, 3), np.uint8)
    cv2.imwrite(str(folder / "000.png"), small)
    for name in ("drs/000", "drs/001", "nrd/000", "nrd/0001"):
        (tmp_path / "sizes" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"sizes/{name}.png"), small)
    chosen = [
        {"name": "foreign", "network": {**EDSR, "num_feat": 8}, "weights": str(data / "edsr.pth")},
        {"name": "absent", "weights": "nowhere.pth"},
        {"name": "unknown", "network": {"type": "RIDnet"}, "weights": str(data / "edsr.pth")},
        {"name": "larger", "network": {**EDSR, "upscale": 2}, "weights": str(data / "edsr.pth"), "strict_load": False},
        {"name": "sizes", "results": str(tmp_path / "sizes")},
        {"name": "names", "results": str(folder), "suffix": "_x"},
        models(data)[2],
    ]
    out = tmp_path / "out"
    assert command(data, tmp_path, chosen) == 1
    captured = capsys.readouterr()
    status = {m["name"]: m["status"] for m in json.loads((out / "summary.json").read_text())["models"]}
    assert "made for another network" in status["foreign"] and "conv_first.weight (4, 3, 3, 3)" in status["foreign"]
    assert status["absent"].startswith("nowhere.pth: ")
    assert "type 'RIDnet' is not registered. Did you mean 'RIDNet'?" in status["unknown"]
    assert "4 of 4 images have no result: test/drs/000, test/drs/001, test/nrd/000, …: " in status["larger"]
    assert status["larger"].endswith("expected one that keeps the size (scale 1)")
    assert "| larger | – / – | – / – | – / – | – / – |" in (out / "tables.md").read_text()
    assert "4 of 4" in status["sizes"] and "is 10×12 (height × width), but the test image" in status["sizes"]
    assert "0001.png" in captured.out
    assert "no image named '000_x'" in status["names"] and status["finished"] == status["input"] == "ok"
    assert "warning: foreign: " in captured.err and "### Went wrong" in captured.out
    assert "names: files that fit no test image (1): 000.png" in captured.out


def test_broken_test_images_and_those_above_the_limit_are_left_out_for_all(data, tmp_path):
    root = write_rainrag(tmp_path / "test", 2, types=("drs",))
    for side in ("input", "target"):
        cv2.imwrite(str(root / f"drs/{side}/001.png"), np.zeros((60, 60, 3), np.uint8))
    finished = [{"name": "finished", "results": str(root / "drs/target")}]

    def left_out(chosen=finished, **limit):
        outcome = compare(tmp_path, tmp_path / "out", chosen, metrics=["psnr"], **limit)
        tables = (tmp_path / "out/tables.md").read_text()
        assert all(line in tables for line in outcome.failures) and set(statuses(outcome).values()) == {"ok"}
        return [r.image for r in outcome.comparison.results if r.model != "input"], outcome.failures

    assert left_out() == (["drs/000", "drs/001"], [])
    images, (line,) = left_out(max_megapixels=0.003)  # it was found sound before
    assert images == ["drs/000"] and line.startswith("test: left out for all models: ")
    assert "drs/input/001.png: 60 × 60 pixels are too many: at most 0.003 megapixels" in line
    path = root / "drs/input/001.png"
    path.write_bytes(path.read_bytes()[:100])
    images, (line,) = left_out(models(data)[:1])
    assert images == ["drs/000"] and "left out for all models" in line and "drs/input/001.png" in line


def test_a_full_disk_ends_the_run_at_once(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "_serve", crashing_networks.full_disk)
    assert command(data, tmp_path, models(data)[::2]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: 001.png: cannot be written: No space left on device.\n" and captured.out == ""
    records = [json.loads(line)["key"] for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [key[3] for key in records if key[:2] == ["result", "ours"]] == ["drs/000"], "what was finished is kept"
    assert not [key for key in records if key[:2] == ["result", "finished"]]


@pytest.mark.parametrize("obstacle", ["out", "out/results.jsonl"])
def test_an_output_that_cannot_be_written_or_is_in_use_is_one_line(data, tmp_path, capsys, obstacle):
    path = tmp_path / obstacle
    path.mkdir(parents=True) if "/" in obstacle else path.write_bytes(b"")
    assert command(data, tmp_path, models(data)[2:]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: cannot be written: ") and error.count("\n") == 1
    if "/" in obstacle:
        with sole_user(tmp_path / "out", "busy"):
            assert command(data, tmp_path, models(data)[2:]) == 2
        assert "another run is working in this folder" in capsys.readouterr().err


def test_a_wrong_image_or_corner_of_the_figure_is_told_before_anything_runs(data, tmp_path):
    for entry, message in (
        ("test/drs/00", r"no image 'test/drs/00' .* Did you mean 'test/drs/0"),
        ("test/drs/000@900,0", "goes beyond the image"),
    ):
        with pytest.raises(OptionError, match=message):
            compare(data, tmp_path / "out", figure={"images": [entry]})
        assert not (tmp_path / "out" / "pictures").exists()


def test_a_missing_metric_is_told_and_the_others_are_computed(data, tmp_path, monkeypatch):
    find = scoring.importlib.util.find_spec
    monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None if name == "pyiqa" else find(name))
    outcome = compare(data, tmp_path, [models(data)[2]], metrics=["psnr", "musiq"])
    assert outcome.comparison.metrics == ["psnr"] and "pip install pyiqa" in outcome.failures[0]


def test_test_sets_without_clean_images(data, tmp_path):
    test_sets = [{"name": "real", "lq": str(data / "test/drs/input")}]
    outcome = compare(data, tmp_path, models(data)[:1], test_sets=test_sets)
    assert statuses(outcome) == {"input": "ok", "ours": "ok"}
    assert all(r.metrics == {} for r in outcome.comparison.results)
    assert list(outcome.comparison.arrays("real", "000")) == ["input", "ours"]


def test_a_metric_that_fails_once_is_told_and_tried_anew(data, tmp_path, monkeypatch):
    calls = []

    def flaky(image, target):
        calls.append(image.shape)
        if len(calls) == 2:
            raise DataError("flaky: no value for an image: out of memory")
        return float(10 + len(calls))

    def tried():
        found = compare(data, tmp_path, models(data)[:1], metrics=["psnr", "niqe"], include_input=False)
        return found.failures, found.summaries[0].values["ours"]["mean"]

    monkeypatch.setitem(scoring._MAKERS, "niqe", lambda name: scoring.Metric(name, False, False, flaky))
    failures, means = tried()
    assert any("1 of 4 images have no value: flaky" in line for line in failures)
    assert means["niqe"] is None and means["psnr"] > 0
    failures, means = tried()
    assert failures == [] and len(calls) == 5 and means["niqe"] is not None


def test_dry_run(data, tmp_path, capsys):
    assert command(data, tmp_path, None, "--dry-run") == 0
    assert "test: 4 images" in capsys.readouterr().out and not (tmp_path / "out").exists()
    gone = {"name": "gone", "weights": str(tmp_path / "gone.pth")}
    assert command(data, tmp_path, [models(data)[0], gone], "--dry-run") == 1
    assert "gone: weights: there is no" in capsys.readouterr().err
