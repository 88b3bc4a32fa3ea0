"""Real references, clean photographs, public test sets: what is refused, what is made of them."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from study_images import write_windows_of_a_photograph

from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain.params import REAL_RAIN
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study import command, real
from unirain_plugin.study.data import distil_options, make_data
from unirain_plugin.study.options import DataFolder, load_options, parse_options
from unirain_plugin.study.planted import other_rain
from unirain_plugin.study.real import (
    check_references,
    check_test_sets,
    evenly,
    list_images,
    set_names,
    write_test_sets,
    write_windows,
)
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import plain

SMOKE = option_file("reproduce/smoke.yml")
REAL = option_file("reproduce/real.yml")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_windows_of_a_photograph(tmp_path_factory.mktemp("images"), 64, 64, right=20)


def sides(images, names=("rainy", "clean")):
    return [(f"{name}: {images / name}", list_images(name, images / name)) for name in names]


def test_rain_and_clean_photographs_pass_and_missing_and_too_few_are_told(images, tmp_path):
    assert len(check_references("references", images / "rainy", sides(images)[1])) == 8
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for name in ("00.png", "01.png"):
        shutil.copy(images / "rainy" / name, tmp_path / "few")
    for folder, told in (
        ("none", "no such folder; expected a folder of photographs"),
        ("empty", "holds no photographs; expected files ending in"),
        ("few", r"holds 2 image\(s\); at least 8 are needed"),
    ):
        with pytest.raises(DataError, match=f"references: .*{folder}: {told}"):
            check_references("references", tmp_path / folder, None)


@pytest.mark.parametrize(
    ("rainy", "clean", "message"),
    [
        ("clean", None, r"references: .*clean: shows no rain: found 0\.\d\d % on 8 images looked at; rain: the shipped "
         r"weights change more than 0\.25 %.*Expected photographs of rain"),
        ("rainy", "rainy", r"rainy: .*: \d+ of 8 images looked at seem to be rainy \(.*Expected clean photographs"),
        ("clean", "rainy", "references: .*clean and rainy: .* seem to be given the wrong way round"),
    ],
)  # fmt: skip
def test_images_of_the_wrong_kind_are_refused(images, rainy, clean, message):
    with pytest.raises(DataError, match=message):
        check_references("references", images / rainy, sides(images, [clean])[0] if clean else None)


def test_sets(images, folder):
    for name in ("Set-A", "b"):
        for side, source in (("input", "rainy"), ("target", "clean")):
            (folder / name / side).mkdir(parents=True)
            for number in (0, 1, 2):
                shutil.copy(images / source / f"{number:02d}.png", folder / name / side)
    return folder


test_sets.__test__ = False


def test_public_sets_are_listed_and_their_middles_written(images, tmp_path):
    sets, out = check_test_sets(test_sets(images, tmp_path / "sets")), tmp_path / "out"
    assert {name: len(pairs) for name, pairs in sets.items()} == {"set_a": 3, "b": 3}
    write_test_sets(sets, out, 2, 48)
    names = [f"{s}/{side}/{n:03d}.png" for s in ("b", "set_a") for side in ("input", "target") for n in (0, 1)]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == names
    middle = cv2.imread(str(images / "rainy" / "01.png"))[8:56, 8:56]
    assert (cv2.imread(str(out / "b" / "input" / "001.png")) == middle).all()


def swap(folder):
    (folder / "b" / "input").rename(folder / "b" / "other")
    (folder / "b" / "target").rename(folder / "b" / "input")
    (folder / "b" / "other").rename(folder / "b" / "target")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "b/target/01.png").unlink(),
            r"b: 1 image\(s\) in 'input' without a partner of the same name in 'target': 01\.png",
        ),
        (
            lambda folder: shutil.rmtree(folder / "b/target"),
            "test_sets: .*b: holds no folder 'target'; expected input and target in it",
        ),
        (swap, "test_sets: .*: b: 'input' and 'target' seem to be the wrong way round"),
        (
            lambda folder: shutil.copytree(folder / "Set-A", folder / "set_a"),
            "'Set-A' and 'set_a' would both be called set_a",
        ),
        (shutil.rmtree, "test_sets: .*: no such folder; expected NAME/input"),
    ],
)
def test_broken_sets_are_told(images, tmp_path, harm, message):
    folder = test_sets(images, tmp_path / "sets")
    harm(folder)
    with pytest.raises(DataError, match=message):
        check_test_sets(folder)


def test_a_name_that_is_no_rain_type_is_made_one_and_long_lists_are_taken_evenly(tmp_path):
    for name in ("4K-Rain", "Rain 100L"):
        for side in ("input", "target"):
            (tmp_path / name / side).mkdir(parents=True)
    assert set_names(tmp_path) == {"set_4k_rain": "4K-Rain", "rain_100l": "Rain 100L"}
    assert evenly(range(10), 3) == [0, 3, 6]
    assert evenly([1, 2], 3) == [1, 2]


def test_windows_are_cut_at_the_candidates_size_and_repeat(images, tmp_path):
    paths = list_images("references", images / "rainy")[:2]
    written = []
    for _ in range(2):
        write_windows(paths, tmp_path, 2, 128, seed=3)  # larger than the photographs
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["00000_0.png", "00000_1.png", "00001_0.png", "00001_1.png"]
        written.append([file.read_bytes() for file in files])
        assert cv2.imread(str(files[0])).shape == (128, 128, 3)
        files[3].unlink()
    assert written[0] == written[1]


def test_other_rain_stays_within_reach_and_shares_stay_shares():
    base = REAL_RAIN["drs"][0]
    draws = [other_rain(base, np.random.default_rng(seed), 6).streaks for seed in range(40)]
    for draw in draws:
        assert 8 / 6 <= draw.length[0] <= 8 * 6 and draw.length[1] == pytest.approx(draw.length[0] * 70 / 8)
        assert max(draw.opacity) <= 1 and draw.depths == base.streaks.depths
    assert max(draw.length[0] for draw in draws) > 16 and min(draw.length[0] for draw in draws) < 4
    assert other_rain(base, np.random.default_rng(0), 6).night is base.night


def test_the_data_are_made_of_the_users_folders(images, tmp_path):
    voters = plain(read_option_file(REAL).opt["data"]["distill"]["voters"])
    file = plain(read_option_file(SMOKE).opt)
    file["data"] |= {
        "rain_scale": 2,
        "reference_pairs": 1,
        "distill": {"voters": [{**voter, "strictness": 0.1} for voter in voters]},  # few images: nothing is rejected
        "bad_kinds": ["odd_rain"],
    }
    changes = {
        "references": str(images / "rainy"),
        "test_sets": str(test_sets(images, tmp_path / "sets")),
        "photographs": {"train": str(photos(tmp_path))},
        "questions": {"data": ["everything", "defaults"]},
        "seeds": [1],
        "workers": 1,
    }
    (tmp_path / "own.yml").write_text(yaml.safe_dump({**file, **changes, "name": "own"}))
    options = load_options(tmp_path / "own.yml")
    folder = DataFolder(tmp_path / "out")
    summary = make_data(folder, options)
    assert list(summary["rainy"]) == ["set_a", "b"]
    kept = sum(kinds["kept"] for of_type in summary["pairs"].values() for kinds in of_type.values())
    subset = {name: list(read_manifest(folder.subset(name, 0))) for name in ("distilled", "defaults", "everything")}
    assert len(subset["distilled"]) == len(subset["defaults"]) == kept <= len(subset["everything"])
    assert all("../defaults/" in record.lq for record in subset["defaults"])
    assert {record.source for record in subset["everything"]} == {"rendered", "odd_rain"}
    listed = (tmp_path / "out" / "references.txt").read_text().split()
    assert listed == [f"references/{number:05d}_0.png" for number in range(8)]


def photos(folder):
    (folder / "photos").mkdir()
    for path in sample_photos("train")[:2]:
        shutil.copy(path, folder / "photos")
    return folder / "photos"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--references", "none"], DataError, "references: none: no such folder"),
        (["--test-sets", "none"], DataError, "test_sets: none: no such folder"),
        (["--photographs", "a"], OptionError, "photographs.val: is missing: expected a folder of held-out photographs"),
        (["--photographs", "a", "b", "c"], OptionError, "--photographs: found 3 folders; expected one or two"),
    ],
)
def test_folders_named_on_the_command_line_are_checked_first(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        command.main(["-opt", str(SMOKE), "--output", "out", *arguments])
    assert not Path("out").exists()


def test_the_shipped_file_asks_for_the_users_folders(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(real, "rain_shown", lambda paths: np.array([0.0 if "clean" in str(paths[0]) else 9.0]))
    arguments = ["-opt", str(REAL), "--output", "out"]
    for key, folder, message in (
        ("--photographs", images / "clean", "photographs: train: datasets/clean: no such folder"),
        ("--references", images / "rainy", "references: datasets/real_rain: no such folder"),
        ("--test-sets", None, "test_sets: datasets/public: no such folder; expected NAME/input and NAME/target"),
    ):
        with pytest.raises(DataError, match=message):
            command.main(arguments)
        arguments += [key, str(folder)]


def test_a_wrong_voter_is_told_before_anything_is_made(tmp_path):
    data = {**read_option_file(SMOKE).opt["data"], "distill": {"voters": [{"type": "likenes"}]}}
    options = parse_options({**read_option_file(SMOKE).opt, "data": data}, "here")
    with pytest.raises(OptionError, match=r"unknown type 'likenes'\. Did you mean 'likeness'"):
        distil_options(tmp_path, "x", 1, options.data.distill)
