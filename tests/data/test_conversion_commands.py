"""Sub-images and meta info files: cut, converted, read by the toolbox's data set."""

import json

import cv2
import numpy as np
import pytest
from data_images import any_image, data_set, encode, same_pixels, stock_data_set, write_pair

from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.command import extract_subimages, generate_meta_info
from unirain_plugin.preparation.subimages import CutPlan


def cut(root, output, *arguments):
    base = ["--dataroot", str(root), "--output", str(output), "--crop-size", "24", "--step", "16", "--workers", "1"]
    assert extract_subimages([*base, *arguments]) == 0


def test_sub_images_are_pieces_of_the_pair(tmp_path):
    plan = CutPlan(size=20, step=10, threshold=2)
    for length, positions in {
        10: [0], 20: [0], 30: [0, 10], 40: [0, 10, 20], 42: [0, 10, 20], 43: [0, 10, 20, 23], 5: [0],
    }.items():  # fmt: skip
        assert plan.positions(length) == positions
    lq, gt = any_image(40, 64, 1), any_image(40, 64, 2)
    write_pair(tmp_path / "data", "nrs", "a.b.png", encode(lq), encode(gt))
    cut(tmp_path / "data", tmp_path / "cut")
    records = list(read_manifest(tmp_path / "cut/manifest.jsonl"))
    corners = [(top, left) for top in (0, 16) for left in (0, 16, 32, 40)]
    assert [r.lq for r in records] == [f"nrs/input/nrs_input_a%2Eb_s{n:03d}.png" for n in range(1, 9)]
    for record, (top, left) in zip(records, corners, strict=True):
        for path, whole in ((record.lq, lq), (record.gt, gt)):
            assert np.array_equal(cv2.imread(str(tmp_path / "cut" / path)), whole[top : top + 24, left : left + 24])
        assert record.size == (24, 24) and record.rain_type == "nrs"


def test_an_interrupted_run_is_taken_up_others_are_not_mixed_in_and_both_results_train(tmp_path, rainrag_root, capsys):
    output, manifest = tmp_path / "cut", tmp_path / "cut/manifest.jsonl"
    cut(rainrag_root, output)
    files = sorted(output.rglob("*.png"))
    before = {path: path.read_bytes() for path in files}
    manifest.unlink()
    files[3].unlink()
    kept = files[-1].stat().st_mtime_ns
    cut(rainrag_root, output)
    assert {path: path.read_bytes() for path in sorted(output.rglob("*.png"))} == before
    assert files[-1].stat().st_mtime_ns == kept
    for data in (data_set(output, "train", gt_size=16), data_set(None, "train", gt_size=16, manifest=str(manifest))):
        assert len(data) == 12 * 9 and data[0]["lq"].shape == (3, 16, 16)
    with pytest.raises(DataError, match="holds sub-images of other data or with other sizes"):
        cut(rainrag_root, output, "--step", "8")
    with pytest.raises(DataError, match="the folder is not empty"):
        cut(rainrag_root, rainrag_root)
    for option, least, wrong in (("--step", 1, "0"), ("--crop-size", 1, "-1"), ("--thresh-size", 0, "x")):
        with pytest.raises(SystemExit, match="2"):
            cut(rainrag_root, tmp_path / "new", option, wrong)
        assert f"argument {option}: expected {least} or more, found {wrong}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_other_images_of_the_same_names_are_refused_and_moved_ones_are_not(tmp_path):
    for root, seed in (("a", 1), ("b", 3)):
        for n in (0, 1):
            write_pair(tmp_path / root, "drs", f"{n}.png", *(encode(any_image(30, 30, seed + k)) for k in (n, n + 9)))
    cut(tmp_path / "a", tmp_path / "cut")
    before = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="cut: holds sub-images of other data"):
        cut(tmp_path / "b", tmp_path / "cut")
    (tmp_path / "a").rename(tmp_path / "moved")
    cut(tmp_path / "moved", tmp_path / "cut")
    note = tmp_path / "cut/.made_from.json"
    assert {path: path.read_bytes() for path in before} == before
    noted = json.loads(note.read_text())
    del noted["sha256_of_ends"]  # as an earlier version wrote it
    note.write_text(json.dumps(noted))
    cut(tmp_path / "moved", tmp_path / "cut")
    with pytest.raises(DataError, match="cut: holds sub-images of other data"):
        cut(tmp_path / "moved", tmp_path / "cut", "--step", "8")
    (tmp_path / "moved/drs/target/1.png").unlink()
    write_manifest(tmp_path / "m.jsonl", [ManifestRecord("moved/drs/input/1.png", "moved/drs/target/1.png", "drs")])
    with pytest.raises(DataError, match=r"target/1\.png: cannot be read: No such file"):
        extract_subimages(["--manifest", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "new")])


def test_long_names_and_names_that_become_equal_are_cut(tmp_path):
    sizes = dict.fromkeys(("雨" * 28, "a/b", "a_b"), (30, 30)) | dict.fromkeys(("small/b", "small_b"), (16, 20))
    for name, size in sizes.items():
        write_pair(tmp_path / "data", "drs", f"{name}.png", *(encode(any_image(*size, seed)) for seed in (0, 1)))
    cut(tmp_path / "data", tmp_path / "out")
    records = list(read_manifest(tmp_path / "out/manifest.jsonl"))
    assert len({r.lq for r in records}) == len(records) == 3 * 4 + 2
    assert [r.size for r in records if "small" in r.lq] == [(16, 20)] * 2, "small images stay whole"
    assert len(data_set(tmp_path / "out")) == 14


def test_meta_info_is_read_by_the_stock_data_set_and_comes_back(tmp_path, rainrag_root, capsys):
    assert generate_meta_info(["--dataroot", str(rainrag_root), "--output", str(tmp_path / "meta")]) == 0
    path = tmp_path / "meta/meta_info_drd.txt"
    assert path.read_text() == "000.png (48,56,3)\n001.png (48,56,3)\n002.png (48,56,3)\n"
    assert f"dataroot_lq: {rainrag_root}/drd/input" in capsys.readouterr().out
    folders = (str(rainrag_root / "drd/input"), str(rainrag_root / "drd/target"))
    stock = stock_data_set(*folders, meta_info_file=str(path))
    assert len(stock) == 3 and same_pixels(stock, data_set(rainrag_root, rain_types=["drd"]))
    back = ["--from-meta-info", str(path), "--lq-folder", folders[0], "--gt-folder", folders[1]]
    assert generate_meta_info([*back, "--rain-type", "drd", "--output", str(tmp_path / "m.jsonl")]) == 0
    assert [r.lq for r in read_manifest(tmp_path / "m.jsonl")] == [f"rainrag/drd/input/00{n}.png" for n in range(3)]
    assert next(read_manifest(tmp_path / "m.jsonl")).size == (48, 56)
    (tmp_path / "m.jsonl").write_text("mine")
    again = [*back, "--rain-type", "drd", "--output", str(tmp_path / "m.jsonl")]
    with pytest.raises(OptionError, match=r"m\.jsonl: this file exists; name another, or give --overwrite\.$"):
        generate_meta_info(again)
    assert (tmp_path / "m.jsonl").read_text() == "mine"
    assert generate_meta_info([*again, "--overwrite"]) == 0 and len(list(read_manifest(tmp_path / "m.jsonl"))) == 3


@pytest.mark.parametrize("side", ["input", "target"])
def test_meta_info_of_other_kinds_of_images_needs_their_conversion(tmp_path, side):
    write_pair(tmp_path / "data", "drs", "0.png", *(encode(any_image(30, 40, seed)) for seed in (0, 1)))
    (tmp_path / "data/drs" / side / "0.png").write_bytes(encode(any_image(30, 40)[..., 0]))
    arguments = ["--dataroot", str(tmp_path / "data"), "--output", str(tmp_path / "meta")]
    for wrong in ([], ["--convert", "alpha", "exif"]):
        with pytest.raises(DataError, match=rf"{side}/0\.png: the image is grey, .* convert: \[grey\]"):
            generate_meta_info([*arguments, *wrong])
    assert generate_meta_info([*arguments, "--convert", "grey"]) == 0
    assert (tmp_path / "meta/meta_info_drs.txt").read_text() == "0.png (30,40,3)\n"


def test_rejected_pairs_do_not_come_back_through_meta_info(tmp_path, capsys):
    records = [ManifestRecord(f"r/{n}_rain.png", f"g/{n}.png", "drs", size=(4, 5), keep=n != 1) for n in range(3)]
    write_manifest(tmp_path / "m.jsonl", records)
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "meta")]
    assert generate_meta_info(arguments) == 0
    assert (tmp_path / "meta/meta_info_drs.txt").read_text() == "0.png (4,5,3)\n2.png (4,5,3)\n"
    out = capsys.readouterr().out
    assert "left out: 1 of 3 pairs" in out and "filename_tmpl: '{}_rain'" in out
    (tmp_path / "meta/meta_info_drs.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"meta_info_drs\.txt: this file exists and differs"):
        generate_meta_info(arguments)
    assert generate_meta_info([*arguments, "--overwrite"]) == 0
    write_manifest(tmp_path / "m.jsonl", records[1:2])
    with pytest.raises(DataError, match="distillation has rejected all 1 pairs"):
        generate_meta_info(arguments)


def test_what_the_toolbox_cannot_express_is_an_error(tmp_path):
    for pairs, text in (
        ([("r/1_a.png", "g/1.png"), ("r/1_b.png", "g/1.png")], "the toolbox would look for 1_a.png"),
        ([("r/1.jpg", "g/1.png")], "the toolbox would look for 1.png"),
        ([("r/a b.png", "g/a b.png")], "a name with a blank"),
    ):
        write_manifest(tmp_path / "m.jsonl", [ManifestRecord(lq, gt, "drs", size=(4, 5)) for lq, gt in pairs])
        with pytest.raises(DataError, match=text):
            generate_meta_info(["--manifest", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "meta")])


def test_wrong_meta_info_lines(tmp_path, rainrag_root):
    back = ["--lq-folder", str(rainrag_root / "drd/input"), "--gt-folder", str(rainrag_root / "drd/target")]
    back += ["--rain-type", "drd", "--output", str(tmp_path / "m.jsonl"), "--from-meta-info", str(tmp_path / "i.txt")]
    for text, message in [
        ("000.png (48,56,3)\nnine.png (48,56,3)\n", r"i.txt:2: .*input/nine.png does not exist"),
        ("000.png 48\n", r"i.txt:1: expected 'name.png"),
    ]:
        (tmp_path / "i.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            generate_meta_info(back)
    assert not (tmp_path / "m.jsonl").exists()
    for arguments, message in (
        (["--from-meta-info", "x"], "--from-meta-info needs --lq-folder"),
        ([], "give --manifest or --dataroot"),
    ):
        with pytest.raises(OptionError, match=message):
            generate_meta_info([*arguments, "--output", "y"])
