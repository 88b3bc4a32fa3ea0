"""Every public layout as a tiny tree; orphans, lists, order, splits, images side by side; layouts of one's own."""

import json
import re

import cv2
import numpy as np
import pytest
from data_images import any_image, encode, index, plant, write_pair

from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.command import index_dataset
from unirain_plugin.preparation.layouts import RULES, load_layout, parse_layout, public_layout, public_layouts
from unirain_plugin.preparation.pairing import PairingOptions, find_pairs

TREES = {
    "rainrag": [("drs/input/a.png", "drs/target/a.png", "drs"), ("nrd/input/a.png", "nrd/target/a.png", "nrd")],
    "rain100l": [("rain-001.png", "norain-001.png", "drs"), ("rain-002.png", "norain-002.png", "drs")],
    "rain100h": [("test/rain/rain-1.png", "test/norain/norain-1.png", "drs"),
                 ("RainTrainH/rain-1.png", "RainTrainH/norain-1.png", "drs")],
    "rain200l": [("train/rain-1.png", "train/norain-1.png", "drs"),
                 ("test/rainy/rain-1.png", "test/norain-1.png", "drs")],
    "rain200h": [("rain/X2/norain-1x2.png", "norain/norain-1.png", "drs"),
                 ("rain/X2/norain-10x2.png", "norain/norain-10.png", "drs")],
    "rain1400": [(f"training/rainy_image/9_{j}.jpg", "training/ground_truth/9.jpg", "drs") for j in range(1, 15)],
    "rain13k": [("train/Rain13K/input/1.jpg", "train/Rain13K/target/1.jpg", "drs"),
                ("test/Test100/input/1.png", "test/Test100/target/1.png", "drs")],
    "rainds": [("RainDS_syn/train/rainstreak/rain-1.png", "RainDS_syn/train/gt/norain-1.png", "drs"),
               ("RainDS_syn/train/raindrop/rd-rain-1.png", "RainDS_syn/train/gt/norain-1.png", "drd"),
               ("RainDS_syn/train/rainstreak_raindrop/rain-drop-1.png", "RainDS_syn/train/gt/norain-1.png", "drd"),
               ("RainDS_real/train/raindrop/pie-rd-7.png", "RainDS_real/train/gt/pie-norain-7.png", "drd")],
    "raindrop": [("train/data/0_rain.png", "train/gt/0_clean.png", "drd"),
                 ("test_a/data/0_rain.png", "test_a/gt/0_clean.png", "drd")],
    "gt-rain": [(f"train/Winter/Webcam-R-00{n}.png", "train/Winter/Webcam-C-000.png", "drs") for n in range(3)]
    + [(f"train/Gurutto_1-2/G-R-00{n}.png", f"train/Gurutto_1-2/G-C-00{n}.png", "drs") for n in range(3)],
    "realrain-1k": [("RealRain-1k-L/training/input/1.png", "RealRain-1k-L/training/target/1.png", "drs")],
    "lhp-rain": [("input/a1.png", "gt/b1.png", "drs"), ("input/a2.png", "gt/b2.png", "drs")],
    "gtav-nightrain": [("set1/Train/Rainy/0000_00.png", "set1/Train/GT/0000.png", "nrs"),
                       ("set1/Train/Rainy/0000_09.png", "set1/Train/GT/0000.png", "nrs"),
                       ("set2/Test/Rainy/0000_00.png", "set2/Test/GT/0000.png", "nrs"),
                       ("set3/Rainy/0003_01.png", "set3/GT/0003.png", "nrs")],
    "hq-nightrain": [("RS/input/1.png", "RS/target/1.png", "nrs"),
                     ("RD/train/input/1.png", "RD/train/target/1.png", "nrd"),
                     ("SD/input/2.png", "SD/target/2.png", "nrd")],
    "raindrop-clarity": [("DayRainDrop_Train/Drop/00001/1.png", "DayRainDrop_Train/Clear/00001/7.png", "drd"),
                         ("DayRainDrop_Train/Drop/00001/2.png", "DayRainDrop_Train/Clear/00001/8.png", "drd"),
                         ("NightRainDrop_Train/Drop/00001/1.png", "NightRainDrop_Train/Clear/00001/1.png", "nrd")],
    "4k-rain13k": [("train/input/1.png", "train/target/1.png", "drs")],
    "raincityscapes": [
        (f"leftImg8bit_rain/train/aachen/aachen_0_1_leftImg8bit_rain_alpha_0.0{a}_beta_0.01_dropsize_0.01_pattern_6.png",
         "leftImg8bit/train/aachen/aachen_0_1_leftImg8bit.png", "drs") for a in (1, 2)]
    + [("x_1_rain_alpha_0.02_beta_0.01_dropsize_0.005_pattern_66.png", "x_1_leftImg8bit.png", "drs")],
    "outdoor-rain": [("in/im_0001_s80_a04.png", "gt/im_0001.png", "drs"),
                     ("in/im_0001_s95_a05.png", "gt/im_0001.png", "drs")],
    "weatherbench": [("rain/train/input/1.png", "rain/train/target/1.png", "drs"),
                     ("snow/train/input/1.png", "snow/train/target/1.png", "snow")],
    "uav-rain1k": [("train/input/1.png", "train/target/1.png", "drd")],
    "snow100k": [("all/synthetic/a_1.jpg", "all/gt/a_1.jpg", "snow"),
                 ("media/Snow100K-L/synthetic/b.jpg", "media/Snow100K-L/gt/b.jpg", "snow")],
    "csd": [("Train/Snow/1.tif", "Train/Gt/1.tif", "snow"), ("Test/Snow/1.tif", "Test/Gt/1.tif", "snow")],
    "reside": [("ITS/hazy/1_1_0.90179.png", "ITS/clear/1.png", "haze"),
               ("OTS/hazy/0005_0.8_0.2.jpg", "OTS/clear/0005.jpg", "haze"),
               ("SOTS/indoor/hazy/1400_1.png", "SOTS/indoor/gt/1400.png", "haze"),
               ("SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png", "haze")],
}  # fmt: skip


OWN = """
name: mine
parts:
  - {rule: many_to_one, lq: "{dir}wet/{id}-{n}", gt: "{dir}dry/{id}", rain_type: "{dir}",
     types: {night/: nrd, "": snow}}
"""


def plant_tree(folder, name):
    plant(folder / "data", *dict.fromkeys(path for lq, gt, _ in TREES[name] for path in (lq, gt)))
    return folder / "data"


@pytest.mark.parametrize("name", TREES)
def test_public_layout(tmp_path, name, capsys):
    root = plant_tree(tmp_path, name)
    assert sorted(index(root, name)) == sorted(TREES[name])
    out = capsys.readouterr().out
    assert ("warning: the layout" in out) == (public_layout(name).status != "read")
    assert all(record.size == (8, 12) and record.source for record in read_manifest(tmp_path / "m.jsonl"))


def test_every_layout_is_listed_and_tested(capsys):
    assert set(public_layouts()) == {*TREES, "rain800", "spa"}
    used = {part.rule for layout in public_layouts().values() for part in layout.parts}
    assert used == set(RULES)
    assert index_dataset(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in public_layouts()) and all(rule in out for rule in RULES)
    assert "a guess" in out


def paired(root, layout, **options):
    found = find_pairs(str(root), layout, PairingOptions(**options))
    return [(pair.lq, pair.gt, pair.rain_type, pair.source) for pair in found.pairs], found.problems


def test_lists_of_pairs(tmp_path, capsys):
    """They may tell the split, but not lead out of the folder."""
    root = tmp_path / "data"
    plant(root, "wet/a b.png", "wet/2.png", "dry/1.png", "test/x.png", "test/y.png", "../out.png")
    (root / "real_world.txt").write_text("/wet/a b.png,/dry/1.png\nwet/2.png dry/1.png\n\n")
    (root / "README.txt").write_text("hello world of lists\n")
    assert index(root, "spa") == [("wet/a b.png", "dry/1.png", "drs"), ("wet/2.png", "dry/1.png", "drs")]
    out = capsys.readouterr().out
    assert "README.txt is no list of pairs" in out and "2 image(s) fit no pattern" in out
    lines = ["wet/2.png dry/1.png", "wet/3.png dry/3.png", "only.png", "wet/2.png dry/1.png", "../out.png dry/1.png"]
    (root / "real_world.txt").rename(root / "train.txt").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        index(root, "spa")
    for text in (
        "2: wet/3.png does not exist", "3: expected 'rainy clean'", "4: wet/2.png is listed twice",
        "5: ../out.png does not exist",
    ):  # fmt: skip
        assert f"train.txt:{text}" in str(error.value)
    assert index(root, "spa", "--on-error", "skip") == [("wet/2.png", "dry/1.png", "drs")]
    (root / "train.txt").write_text("wet/2.png dry/1.png\n")
    (root / "test.txt").write_text("wet/a b.png,dry/1.png\nwet/2.png ../out.png\n")
    for split, lq, problems in (
        ("train", "wet/2.png", []),
        ("test", "wet/a b.png", [("missing", "test.txt:2: ../out.png does not exist.")]),
    ):
        pairs, found = paired(root, public_layout("spa"), split=split)
        assert [pair[0] for pair in pairs] == [lq] and found == problems


def test_split(tmp_path):
    root, pairs = plant_tree(tmp_path, "raindrop"), TREES["raindrop"]
    for split, found in (("train", pairs[:1]), ("test", pairs[1:]), ("test_a", pairs[1:])):
        assert index(root, "raindrop", "--split", split) == found
    (found,) = index(root / "train", "raindrop", "--split", "train", output=root / "m.jsonl")
    assert found[0] == "data/0_rain.png"
    told = r"--split val: no folder .* found \['data', 'gt', 'test', 'test_a', 'train'\]"
    with pytest.raises(OptionError, match=told):
        index(root, "raindrop", "--split", "val")
    root = plant_tree(tmp_path / "untold", "gtav-nightrain")  # a part whose folders do not tell the split
    assert [len(index(root, "gtav-nightrain", "--split", split)) for split in ("train", "test")] == [3, 1]
    for folder, split in (
        ("training", "train"), ("RainTrainL", "train"), ("Testing", "test"), ("test_a", "test"), ("valid", "val"),
        ("validation", "val"), ("mine", "mine"),
    ):  # fmt: skip
        root = tmp_path / f"of_{folder}"
        plant(root, *(f"{name}/{side}/1.png" for name in (folder, "other") for side in ("input", "target")))
        pairs, problems = paired(root, public_layout("rain13k"), split=split)
        assert [lq for lq, *_ in pairs] == [f"{folder}/input/1.png"] and not problems


def test_order_warns_unless_names_are_equal_and_never_shifts(tmp_path, capsys):
    plant(tmp_path / "equal", "input/1.png", "gt/1.png")
    index(tmp_path / "equal", "lhp-rain")
    assert "are paired by sorted order" not in capsys.readouterr().out
    root = plant_tree(tmp_path, "lhp-rain")
    index(root, "lhp-rain")
    assert "are paired by sorted order" in capsys.readouterr().out
    plant(root, "input/a3.png")
    with pytest.raises(DataError, match=r"unequal: input: 3 rainy and 2 clean images"):
        index(root, "lhp-rain")


def test_what_the_user_says_of_types_and_source_wins(tmp_path, capsys):
    plant(tmp_path / "data", "Drop/1/1.png", "Clear/1/1.png")
    with pytest.raises(OptionError, match="does not tell the rain type; give --rain-type"):
        index(tmp_path / "data", "raindrop-clarity")
    assert index(tmp_path / "data", "raindrop-clarity", "--rain-type", "nrd")[0][2] == "nrd"
    root = plant_tree(tmp_path / "kinds", "rainds")
    types = {lq: t for lq, _, t in index(root, "rainds", "--map", "rainstreak_raindrop=drs", "rainstreaks=nrs")}
    told = "warning: --map: no pair is of the kind rainstreaks. Did you mean 'rainstreak'?"
    assert told in capsys.readouterr().out
    assert types["RainDS_syn/train/rainstreak_raindrop/rain-drop-1.png"] == "drs"
    root = plant_tree(tmp_path / "sources", "rain13k")
    for arguments, told in (
        ((), {("rain13k/Rain13K", "drs"), ("rain13k/Test100", "drs")}),
        (("--source", "mine", "--rain-type", "nrs"), {("mine", "nrs")}),
    ):
        index(root, "rain13k", *arguments)
        assert {(r.source, r.rain_type) for r in read_manifest(tmp_path / "sources/m.jsonl")} == told
    (tmp_path / "mine.yml").write_text(OWN)
    plant(tmp_path / "own", "night/wet/a-1.png", "night/dry/a.png")
    for options, told in (
        ({}, ("nrd", "mine")),
        ({"types": {"night/": "drd"}}, ("drd", "mine")),
        ({"rain_type": "haze", "types": {"night/": "drd"}, "source": "own"}, ("haze", "own")),
    ):
        ((*_, rain_type, source),), _ = paired(tmp_path / "own", load_layout(str(tmp_path / "mine.yml")), **options)
        assert (rain_type, source) == told


def test_orphans_strangers_sizes_duplicates_and_broken_files(tmp_path, capsys):
    root = tmp_path / "data"
    plant(root, *(f"{side}/{n}.png" for side in ("input", "target") for n in range(6)), "other/z.png")
    (root / "target/0.png").unlink()
    (root / "input/1.png").unlink()
    plant(root, "input/2.png", size=(8, 16))
    (root / "input/3.png").write_bytes(b"")
    (root / "input/4.png").write_bytes((root / "input/5.png").read_bytes())
    plant(root, "input/6.png")
    (root / "target/6.png").write_bytes((root / "input/6.png").read_bytes())
    plant(root, "input/7.jpg", "target/7.jpg", size=(64, 64))
    damaged = bytearray((root / "input/7.jpg").read_bytes())
    damaged[-400:-2] = bytes(398)
    (root / "input/7.jpg").write_bytes(damaged)
    with pytest.raises(DataError) as error:
        index(root, "rain13k")
    text = str(error.value)
    assert "input/7.jpg: the image is damaged: Corrupt JPEG data" in text  # found by decoding only
    assert "6 problem(s), so no manifest was written" in text and "--on-error skip" in text
    assert "orphan_lq: input/0.png: no clean image target/0" in text
    assert "orphan_gt: target/1.png: no rainy image belongs to this clean one" in text
    assert "size: input/2.png is 8×16 (height × width), but target/2.png is 8×12" in text
    assert f"unreadable: {root}/input/3.png: the file is empty" in text
    assert "identical: input/6.png and target/6.png have the same bytes" in text
    assert not (tmp_path / "m.jsonl").exists()
    by_header = ["--on-error", "skip", "--check", "header"]
    assert [lq for lq, _, _ in index(root, "rain13k", *by_header)][2:] == ["input/7.jpg"]
    assert [lq for lq, _, _ in index(root, "rain13k", "--on-error", "skip")] == ["input/4.png", "input/5.png"]
    report = json.loads((tmp_path / "m.jsonl.report.json").read_text())
    assert report["problems_by_kind"] == {"identical": 1, "orphan_gt": 1, "orphan_lq": 1, "size": 1, "unreadable": 2}
    assert report["duplicates"] == ["input/5.png has the same bytes as input/4.png."]
    assert report["pairs"] == 2 and "other/z.png" in " ".join(report["warnings"])


def test_duplicates_can_be_dropped_and_pairs_without_rain_are_a_problem_unless_allowed(tmp_path):
    root = tmp_path / "data"
    plant(root, "input/1.png", "target/1.png", "target/3.png")
    for copy in ("input/2.png", "target/2.png", "input/3.png"):
        (root / copy).write_bytes((root / copy[:-5] / "1.png").read_bytes())
    assert len(index(root, "rain13k")) == 3
    kept = [lq for lq, _, _ in index(root, "rain13k", "--drop-duplicates")]
    assert kept == ["input/1.png", "input/3.png"]  # one rainy image with another clean one is no duplicate
    write_pair(tmp_path / "dry", "drs", "a.png", encode(any_image()), encode(any_image()))
    with pytest.raises(DataError, match=r"no rain to remove .--allow-dry accepts this"):
        index(tmp_path / "dry", "rainrag")
    assert len(index(tmp_path / "dry", "rainrag", "--allow-dry")) == 1
    check = ["--check-manifest", str(tmp_path / "m.jsonl")]
    with pytest.raises(DataError, match=r"identical: .*no rain to remove"):
        index_dataset(check)
    assert index_dataset([*check, "--allow-dry"]) == 0


def test_two_processes_give_the_same_and_a_manifest_in_another_folder_leads_to_the_files(tmp_path):
    root, output = tmp_path / "data", tmp_path / "lists/deep/m.jsonl"
    plant(root, *(f"{side}/{n}.png" for side in ("input", "target") for n in range(300)))
    found = index(root, "rain13k", "--workers", "2", output=output)
    assert found == index(root, "rain13k", output=output)
    assert found[0][0] == "../../data/input/0.png" and (output.parent / found[0][0]).is_file()


@pytest.mark.parametrize(
    ("files", "layout", "text"),
    [
        ((), "rain13k", "data: the folder holds no images"),
        (None, "rain13k", "data: no such folder"),
        (("x/1.png",), "spa", r"no list file .* found none"),
        (("x/1.png",), "rain1400", r"no image fits the layout rain1400.* Found such as x/1.png"),
        (("x/1.png",), "rain14k", r"no layout 'rain14k'. Did you mean"),
        (("input/1.png", "input/1.jpg", "target/1.png"), "rain13k", r"shared: target/1.png: the clean image of both"),
        (None, "none.yml", "none.yml: no such option file"),
        (("broken.yml",), "broken.yml", "broken.yml:1"),
        (("code.yml",), "code.yml", "code.yml:1"),
    ],
)
def test_folders_that_do_not_fit_and_wrong_layouts(tmp_path, monkeypatch, files, layout, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yml").write_text("a: [")
    (tmp_path / "code.yml").write_text("!!python/object/apply:os.system [echo]")
    if files is not None:
        (tmp_path / "data").mkdir()
        plant(tmp_path / "data", *(file for file in files if file.endswith("g")))
    with pytest.raises((DataError, OptionError), match=text):
        index(tmp_path / "data", layout)


def test_manifests_are_checked_alone_and_together(tmp_path, capsys):
    both = [str(tmp_path / name / "m.jsonl") for name in "ab"]

    def problems(*manifests):
        with pytest.raises(DataError) as error:
            index_dataset(["--check-manifest", *manifests, "--workers", "1"])
        return str(error.value)

    for name in "ab":
        sides = [f"{side}/{n}.png" for side in ("input", "target") for n in range(3)]
        plant(tmp_path / name / "data", *sides, "target/other.png")
        index(tmp_path / name / "data", "rain13k", "--on-error", "skip")
    assert index_dataset(["--check-manifest", *both, "--workers", "1"]) == 0
    assert f"{both[0]}, {both[1]}: every line" in capsys.readouterr().out
    plant(tmp_path / "b/data", "input/1.png", "target/1.png", size=(16, 16))
    (tmp_path / "b/data/target/2.png").unlink()
    for text in (problems(both[1]), problems(*both)):
        assert "2 problem(s)" in text
        assert "m.jsonl:2: data/input/1.png is 16×16 (height × width), but the line says 8×12" in text
        assert "b/m.jsonl:3: " in text and "target/2.png: cannot be read" in text
    write_manifest(both[1], [ManifestRecord("../a/data/input/1.png", "../a/data/target/other.png", "drs")])
    told = r"b/m\.jsonl: .*its clean image is .*other\.png' here and .* in .*a/m\.jsonl"
    assert re.search(told, problems(*both))


def test_layout_of_ones_own(tmp_path):
    with pytest.raises(OptionError, match="--root is missing"):
        index_dataset(["--layout", str(tmp_path / "mine.yml"), "--output", "m.jsonl"])
    (tmp_path / "mine.yml").write_text(OWN)
    plant(tmp_path / "data", "wet/a-1.png", "wet/a-2.png", "dry/a.png", "night/wet/a-1.png", "night/dry/a.png")
    assert sorted(index(tmp_path / "data", tmp_path / "mine.yml")) == [
        ("night/wet/a-1.png", "night/dry/a.png", "nrd"),
        ("wet/a-1.png", "dry/a.png", "snow"),
        ("wet/a-2.png", "dry/a.png", "snow"),
    ]


PART = {"rule": "same_name", "lq": "{name}", "gt": "b"}
SORTED = {"rule": "sorted", "lq": "{name}", "gt": "{name}"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"parts": []}, r"x.yml.parts: found the list \[\]; expected a list, .* \(not empty\)"),
        ({"name": ""}, r"x.yml.name: found the text ''; expected a text \(not empty\)"),
        ({"name": 7}, "x.yml.name: found 7; expected a text"),
        ({"part": []}, "x.yml.part: unknown key. Did you mean 'parts'"),
        ({"status": "sure"}, "status: found the text 'sure'; expected one of read, recalled, guess, custom"),
        ({"parts": [{"rule": "same_nam", "lq": "a", "gt": "b"}]}, r"parts\[0\].rule: .* Did you mean 'same_name'"),
        ({"parts": [{"rule": "same_name", "lq": "{name}"}]}, "missing key 'gt'"),
        ({"parts": [{"rule": "same_name", "gt": "b"}]}, r"x.yml.parts\[0\].lq: is missing"),
        ({"parts": [PART | {"lq": 5}]}, r"x.yml.parts\[0\].lq: found 5; expected a text"),
        ({"parts": [PART | {"lq": ""}]}, r"parts\[0\].lq: found the text ''; expected a text \(not empty\)"),
        ({"parts": [PART | {"gt": {"a": "b"}}]}, r"parts\[0\].gt: found a section .*; expected a text or a list"),
        ({"parts": [PART | {"fields": ["a"]}]}, r"parts\[0\].fields: found the list"),
        ({"parts": [PART | {"types": {"a": 1}}]}, r"parts\[0\].types.a: found 1; expected a text"),
        ({"parts": [PART | {"gt": "{nam}"}]}, "{nam} is no field of lq .* Did you mean 'name'"),
        ({"parts": [PART | {"lq": "{n}", "gt": "x", "fields": {"n": "("}}]}, "a pattern is wrong"),
        ({"parts": [PART | {"lq": "{n", "gt": "x"}]}, "a pattern is wrong"),
        ({"parts": [PART | {"gt": "{name:3}"}]}, "gt: '{name:3}': a field is a name in braces and nothing else"),
        ({"parts": [PART | {"rain_type": "{}"}]}, "rain_type: {} is no field of lq"),
        ({"parts": [PART | {"source": "{"}]}, "a pattern is wrong"),
        ({"parts": [{"rule": "list_file", "lq": "*.txt", "rain_type": "{kind}"}]}, "{kind} is no field of lq"),
        ({"parts": [PART | {"types": {"a": "X Y"}}]}, "'X Y' is no rain-type name"),
        (
            {"parts": [SORTED | {"lq": "{dir}in/{n}"}]},
            r"parts\[0\]: the rule sorted needs the field {name} in lq and in gt",
        ),
        ({"parts": [SORTED | {"gt": ["{name}", "out/{n}"]}]}, "the rule sorted needs the field {name} in lq and in gt"),
        ({"parts": ["same_name"]}, "expected a section of 'key: value' lines"),
    ],
)
def test_wrong_layouts_say_what_is_wrong(change, text):
    with pytest.raises(OptionError, match=text):
        parse_layout({"name": "x", "parts": [{"rule": "same_name", "lq": "a", "gt": "b"}]} | change, "x.yml")


def test_of_several_clean_images_that_with_the_same_suffix_or_of_the_first_pattern_is_taken(tmp_path):
    plant(tmp_path, "input/1.png", "target/1.jpg", "target/1.png", "input/2.webp", "target/2.jpg", "target/2.png")
    pairs, problems = paired(tmp_path, public_layout("rain13k"))
    assert pairs[0][:2] == ("input/1.png", "target/1.png")
    assert [text for kind, text in problems if kind == "ambiguous"] == [
        "input/2.webp: several clean images: target/2.jpg, target/2.png."
    ]
    plant(tmp_path, "wet/1.png", "wet/2.png", "best/1.png", "good/1.png", "good/2.png")
    part = {"rule": "same_name", "lq": "wet/{name}", "gt": ["best/{name}", "good/{name}"], "rain_type": "drs"}
    pairs, _ = paired(tmp_path, parse_layout({"name": "x", "parts": [part]}, "x.yml"))
    assert [(lq, gt) for lq, gt, *_ in pairs] == [("wet/1.png", "best/1.png"), ("wet/2.png", "good/2.png")]


def test_images_side_by_side(tmp_path):
    root = tmp_path / "data"
    clean, rainy = any_image(8, 12, 1), any_image(8, 12, 2)
    (root / "training").mkdir(parents=True)
    (root / "training/1.png").write_bytes(encode(np.hstack([clean, rainy])))
    with pytest.raises(OptionError, match="give --halves DIR"):
        index(root, "rain800")
    assert index(root, "rain800", "--halves", str(tmp_path / "h")) == [
        ("h/input/training/1.png", "h/target/training/1.png", "drs")
    ]
    assert np.array_equal(cv2.imread(str(tmp_path / "h/input/training/1.png")), rainy)
    assert np.array_equal(cv2.imread(str(tmp_path / "h/target/training/1.png")), clean)
    assert index(root, "rain800", "--halves", str(tmp_path / "h"))
    index(root, "rain800", "--halves", str(tmp_path / "l"), "--rainy-half", "left")
    assert np.array_equal(cv2.imread(str(tmp_path / "l/input/training/1.png")), clean)
    plant(root, "odd.png", size=(8, 11))
    with pytest.raises(DataError, match=r"odd.png: 11 columns cannot be two halves"):
        index(root, "rain800", "--halves", str(tmp_path / "h"))


def test_halves_never_take_the_place_of_others(tmp_path):
    plant(tmp_path / "train", "x/a.png", "x_a.png", "b.png", "b.jpg", size=(8, 12))
    pairs = index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "h"))
    assert len({lq for lq, _, _ in pairs}) == len(list((tmp_path / "h/input").rglob("*.png"))) == 4
    (tmp_path / "test").mkdir()
    (tmp_path / "test/b.png").write_bytes(encode(any_image(8, 12, seed=1)))
    before = (tmp_path / "h/input/b.png").read_bytes()
    for arguments in (["test"], ["train", "--rainy-half", "left"]):
        with pytest.raises(DataError, match="/h: holds the halves of other images or the other way round"):
            index(tmp_path / arguments[0], "rain800", "--halves", str(tmp_path / "h"), *arguments[1:])
    assert (tmp_path / "h/input/b.png").read_bytes() == before
    with pytest.raises(OptionError, match=r"--halves .*train/h: lies inside --root"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "train/h"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="full: the folder is not empty"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "full"))
    plant(tmp_path / "train", "b.jpg.png", size=(8, 12))
    with pytest.raises(DataError, match=r"b\.jpg: b\.jpg\.png is there too"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "h"))
