"""File names that are not UTF-8, terminals that show ASCII only, and names that climb out of a folder."""

import io
import sys

import pytest
from data_images import any_image, data_set, encode, plant, write_pair

from unirain_plugin import __main__ as cli
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.preparation.layouts import parse_layout
from unirain_plugin.preparation.pairing import PairingOptions, find_pairs

ODD = "\udcff雨"


@pytest.fixture()
def run(monkeypatch):
    """Runs a command on a terminal that takes ASCII only; gives its status and what it says."""

    def run_it(*arguments):
        stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict", write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            return cli.main(list(arguments)), stream.buffer.getvalue().decode()

    return run_it


def odd_pairs(root):
    write_pair(root, "drs", f"{ODD}.png", encode(any_image()), encode(any_image(seed=1)))
    return str(root)


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("command", ["create-lmdb", "extract-subimages", "index-dataset"])
def test_names_that_are_not_utf8(tmp_path, run, command, spoiled):
    root, output = odd_pairs(tmp_path / f"in{ODD}"), str(tmp_path / f"out{ODD}")
    if spoiled:
        (tmp_path / f"in{ODD}/drs/input/{ODD}.png").write_bytes(b"")
    arguments = {
        "create-lmdb": ["--dataroot", root, "--output", output, "--verify"],
        "extract-subimages": ["--dataroot", root, "--output", output],
        "index-dataset": ["--layout", "rainrag", "--root", root, "--output", f"{output}/manifest.jsonl"],
    }[command]
    status, text = run(command, *arguments, "--workers", "1")
    if spoiled:
        assert status == 2 and r"input/\udcff\u96e8.png: the file is empty (0 bytes)" in text
        return
    assert status == 0, run()
    where = (output, "val", "lmdb") if command == "create-lmdb" else ()
    assert data_set(*where, manifest=f"{output}/manifest.jsonl")[0]["lq"].shape == (3, 48, 64)


def test_what_cannot_be_told_is_refused_before_anything_is_written(tmp_path, run):
    odd_pairs(tmp_path / "odd")
    plant(tmp_path / "in", "Day Rain/input/1.png", "Day Rain/target/1.png")
    untold, wrong = "cannot be told in a meta_info_file: a name that is not UTF-8", "'Day Rain' is no rain-type name"
    for command, root, told in (
        ("generate-meta-info", "odd", untold),
        ("generate-meta-info", "in", f"/in: rain_types: {wrong}"),
        ("create-lmdb", "in", f"/in: rain_types: {wrong}"),
        ("extract-subimages", "in", f"/in: rain_types: {wrong}"),
    ):
        status, text = run(command, "--dataroot", str(tmp_path / root), "--output", str(tmp_path / "out"))
        assert status == 2 and told in text
        assert not (tmp_path / "out").exists()


PART = {"rule": "same_name", "lq": "wet/{name}", "gt": "dry/{name}", "rain_type": "drs"}


@pytest.mark.parametrize(
    "part",
    [
        {"gt": "../out/{name}"},
        {"gt": "dry/../../out/{name}"},
        {"gt": "/tmp/out/{name}"},
        {"gt": "..\\out\\{name}"},
        {"lq": "../out/{name}"},
        {"rule": "list_file", "lq": "../out/*.txt"},
        {"rule": "list_file", "lq": "**/*.txt"},
    ],
)
def test_layouts_and_lists_do_not_lead_out_of_the_folder(tmp_path, part):
    root, outside = tmp_path / "data", tmp_path / "out"
    plant(root, "wet/1.png", "dry/1.png")
    plant(outside, "1.png")
    ways = [f"../out/1.png\t{outside}/1.png", "wet/../../out/1.png\tdry/1.png", "..\\out\\1.png\tdry/1.png"]
    (outside / "list.txt").write_text("wet/1.png\tdry/1.png\n")
    (root / "list.txt").write_text("\n".join(ways) + "\n")
    layout = parse_layout({"name": "x", "parts": [PART | part]}, "x.yml")
    try:
        found = find_pairs(str(root), layout, PairingOptions())
    except ValueError as error:  # nothing fits at all
        assert "no list file" in str(error)
        return
    assert not found.pairs and found.problems


def test_backslashes_in_a_manifest_stay_within_the_output(tmp_path, run):
    plant(tmp_path / "in", "..\\..\\a.png", "b.png")
    write_manifest(tmp_path / "in/m.jsonl", [ManifestRecord("..\\..\\a.png", "b.png", "drs")])
    for command in ("create-lmdb", "extract-subimages"):
        output = tmp_path / command
        base = ["--manifest", str(tmp_path / "in/m.jsonl"), "--output", str(output), "--workers", "1"]
        assert cli.main([command, *base]) == 0, run()
        (record,) = read_manifest(output / "manifest.jsonl")
        assert "%2E%2E%5C%2E%2E%5Ca" in record.lq and "\\" not in record.lq + record.gt
    assert {path.name for path in tmp_path.iterdir()} == {"in", "create-lmdb", "extract-subimages"}
