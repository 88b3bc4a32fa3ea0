"""Weights fitted to a user's own rain: from photographs and pairs to weights that are better, or none."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from study_images import write_windows_of_a_photograph

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import read_weights, write_weights
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.inference.loading import build_network
from unirain_plugin.rain.params import REAL_RAIN
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study import adapt
from unirain_plugin.study.adapt import Draw, choose

ARCHITECTURE = {
    "type": "UniRain", "dim": 8, "num_blocks": [1, 1], "decoder_blocks": [1], "refinement_blocks": 0, "heads": [1, 1]
}  # fmt: skip


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's folders: ``rainy``, ``clean``, ``pairs``; and weights of a small network that restores nothing yet."""
    root = write_windows_of_a_photograph(tmp_path_factory.mktemp("user"), 72, 96)
    for side, source in (("input", "rainy"), ("target", "clean")):
        (root / "pairs" / side).mkdir(parents=True)
        for number in range(3):
            shutil.copy(root / source / f"{number:02d}.png", root / "pairs" / side / f"{number}.png")
    torch.manual_seed(0)
    write_weights(root / "small.safetensors", build_network(ARCHITECTURE, "small").state_dict(), ARCHITECTURE)
    return root


def arguments(user, output, **more):
    chosen = {"rainy": user / "rainy", "clean": user / "clean", "output": output, **more}
    return ["adapt", *(f"--{key}={value}" for key, value in chosen.items() if value is not None)]


TINY = {"images": 16, "size": 64, "minutes": 0.001}


@pytest.fixture(scope="module")
def adapted(user):
    """A whole run with photographs and pairs, its output and status."""
    weights = user / "small.safetensors"
    output = user / "out"
    command = arguments(user, output, pairs=user / "pairs", weights=weights, imports="json", **TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt, "STRICTNESS", 0.1)  # in so small windows rain hides the scene
        return output, cli.main(command), command


def test_the_data_hold_rain_like_the_users_and_other_rain(adapted):
    output, _, _ = adapted
    records = list(read_manifest(output / "data" / "train.jsonl"))
    sources = {source: [r for r in records if r.source == source] for source in ("other", "fitted", "pairs")}
    assert len(sources["other"]) == 8 and len(sources["pairs"]) == 3
    assert 8 <= len(sources["fitted"]) <= 16
    assert {record.rain_type for record in sources["fitted"]} <= {"drs", "nrs"}, "as the user's streaks, dark or not"
    assert all((output / "data" / path).is_file() for record in records for path in (record.lq, record.gt))
    sides = {cv2.imread(str(output / "data" / record.lq)).shape[:2] for record in sources["pairs"]}
    strips = [cv2.imread(str(path)).shape[:2] for path in (output / "held_out/pairs").rglob("*.png")]
    assert sides == {(72, 72)} and strips == [(72, 24)] * 6, "a quarter of each of few pairs is held out"
    held = sorted(path.name for path in (output / "held_out").iterdir())
    assert held == ["fitted", "other", "pairs"]
    draws = json.loads((output / "data" / "draws.json").read_text())
    assert {draw["rain_type"] for draw in draws} <= {"drs", "nrs"}


def test_own_rain_takes_most_samples_and_the_report_tells_every_share(adapted):
    output, status, _ = adapted
    opt = yaml.safe_load((output / "options" / "adapt.yml").read_text())
    sampling = opt["datasets"]["train"]["sampling"]
    own = {r.rain_type for r in read_manifest(output / "data" / "train.jsonl") if r.source != "other"}
    assert sum(sampling["types"][t] for t in own) / sum(sampling["types"].values()) == pytest.approx(0.75)
    assert sampling["sources"] == {"other": 0.2, "fitted": 0.4, "pairs": 1.0}
    assert opt["train"]["total_iter"] >= 32 and opt["network_g"]["dim"] == 8 and opt["imports"] == ["json"]
    report = json.loads((output / "report.json").read_text())
    assert list(report["gains"]) == ["1.0", "0.75", "0.5", "0.25"]
    assert report["psnr_before"].keys() == {"fitted", "other", "pairs"}
    assert (status == 0) == (report["taken"] is not None) == (output / adapt.RESULT).is_file()


def test_called_again_it_trains_nothing_anew_and_an_output_of_other_options_is_refused(
    adapted, user, monkeypatch, capsys
):
    output, status, command = adapted
    monkeypatch.setattr("unirain_plugin.runs.training.TrainingRun.start", lambda run: pytest.fail("trained again"))
    monkeypatch.setattr(adapt, "render", lambda *args: pytest.fail("rendered again"))
    before = (output / "report.json").read_text()
    assert cli.main(command) == status
    assert json.loads((output / "report.json").read_text())["gains"] == json.loads(before)["gains"]
    assert cli.main(arguments(user, output, pairs=user / "pairs", **{**TINY, "images": 17})) == 2
    assert "was made with other images, weights or options; name another --output." in capsys.readouterr().err


def test_weights_that_are_better_are_saved_and_load(adapted, user, monkeypatch):
    figures = iter([{"other": 20, "pairs": 20}, {"other": 19.8, "pairs": 22}, *[{"other": 20, "pairs": 21}] * 3])
    monkeypatch.setattr(adapt, "measure", lambda net, folder: next(figures))
    task = adapt.Adaptation(adapted[0], weights=user / "small.safetensors")
    assert adapt.judge(task) == 0
    new = read_weights(adapted[0] / adapt.RESULT).state_for(read_weights(user / "small.safetensors").state)
    trained = adapted[0] / "experiments" / "adapt" / "models" / "net_g_latest.pth"
    expected = torch.load(trained, weights_only=True)["params_ema"]
    assert all(torch.equal(new[name], expected[name]) for name in new)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ({1.0: {"other": -0.2, "fitted": 1.0}, 0.5: {"other": 0.0, "fitted": 0.6}}, 1.0),
        ({1.0: {"other": -0.4, "fitted": 1.0}, 0.5: {"other": -0.1, "fitted": 0.6}}, 0.5),
        ({1.0: {"other": 0.0, "fitted": 1.0, "pairs": -0.6}, 0.5: {"other": 0.0, "fitted": 0.4, "pairs": 0.2}}, 0.5),
        ({1.0: {"other": 0.0, "fitted": 0.04}}, None),
        ({1.0: {"other": -0.31, "fitted": 2.0}}, None),
    ],
)
def test_the_best_share_that_loses_little_is_taken(found, best):
    assert choose(found) == best


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rainy": None}, "--rainy, --pairs: neither is given"),
        ({"rainy": "none"}, "--rainy: none: no such folder; expected a folder of photographs"),
        ({"clean": "none"}, "--clean: none: no such folder"),
        ({"pairs": "none"}, "--pairs: none: no such folder; expected input and target in it"),
        ({"minutes": 0}, "--minutes: found 0.0; expected a time above 0"),
        ({"images": 3}, "--images: found 3; expected at least 16"),
        ({"size": 80}, "is smaller than --size 80"),
        ({"size": 72, "pairs": "small"}, "0.png: has 95×72 pixels; at least 96×72 are needed"),
        ({"weights": "none.pth"}, "--weights none.pth: cannot be read"),
        ({"imports": "no_such_net"}, "imports: cannot import 'no_such_net'"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_is_made(user, tmp_path, monkeypatch, capsys, more, message):
    for side in ("input", "target"):
        (tmp_path / "small" / side).mkdir(parents=True)
        for number in (0, 1):
            cv2.imwrite(str(tmp_path / "small" / side / f"{number}.png"), np.zeros((72, 95, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    shown = "unirain_plugin.study.real.rain_shown"
    monkeypatch.setattr(shown, lambda paths: np.array([9.0 if "rainy" in str(paths[0]) else 0.0]))
    assert cli.main(arguments(user, tmp_path / "out", **{**TINY, **more})) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rainy": "clean", "clean": "rainy"}, "seem to be given the wrong way round"),
        ({"rainy": "clean"}, "--rainy: .*shows no rain"),
        ({"clean": "rainy"}, "--clean: .*seem to be rainy"),
        ({"pairs": "swapped"}, "--pairs: .*'input' and 'target' seem to be the wrong way round"),
        ({"pairs": "lonely"}, r"lonely: 1 image\(s\) in 'input' without a partner"),
        ({"pairs": "single"}, "holds 1 pair; at least 2 are needed"),
    ],
)
def test_folders_of_the_wrong_kind_are_told(user, tmp_path, capsys, more, message):
    for name in ("swapped", "lonely", "single"):
        for side, other in (("input", "target"), ("target", "input")):
            shutil.copytree(user / "pairs" / (other if name == "swapped" else side), tmp_path / name / side)
    (tmp_path / "lonely" / "target" / "1.png").unlink()
    for side in ("input", "target"):
        for number in (1, 2):
            (tmp_path / "single" / side / f"{number}.png").unlink()
    folders = {key: tmp_path / name if key == "pairs" else user / name for key, name in more.items()}
    assert cli.main(arguments(user, tmp_path / "out", **{**TINY, **folders})) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_draw_is_one_days_rain():
    photo = cv2.imread(str(sample_photos("train")[0]))[..., ::-1]
    draw = Draw("drs", 1, 5)
    first, again = (draw.render(photo, 96, np.random.default_rng(3)) for _ in range(2))
    assert (first[0] == again[0]).all() and first[0].shape == (96, 96, 3)
    other = Draw("drs", 1, 6).render(photo, 96, np.random.default_rng(3))
    assert (other[1] == first[1]).all() and (other[0] != first[0]).any()
    assert len(REAL_RAIN["drs"]) > 1
