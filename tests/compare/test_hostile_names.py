"""Names that climb out of the folder: whatever tells them, a comparison writes below its output only."""

import json
import os
from contextlib import nullcontext

import cv2
import lmdb
import numpy as np
import pytest
import yaml
from comparison_data import option_dict
from tiny_run import TINY_NETWORK

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.compare.options import parse_options
from unirain_plugin.compare.run import run
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.inference.loading import build_network
from unirain_plugin.preparation.command import create_lmdb, extract_subimages
from unirain_plugin.preparation.pairing import prepare_halves, split_halves

KEYS = ["../../out", "../../../out", "/tmp/out", "a/../../../../out", "..\\..\\out", "out"]


class Copier(nullcontext):
    """In place of a network's process: hands the rainy image back."""

    def __init__(self, spec):
        super().__init__(self)

    def receive(self):
        return None

    def send(self, order, source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read())


def image(width=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, width, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_lmdb(path, keys):
    environment = lmdb.open(str(path))
    with environment.begin(write=True) as transaction:
        for seed, key in enumerate(keys):
            transaction.put(key.encode(), image(seed=seed))
    environment.close()
    (path / "meta_info.txt").write_text("".join(f"{key}.png (32,32,3) 1\n" for key in keys))


def everything(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def climbing_lmdbs(root):
    for side in ("lq", "gt"):
        (root / f"{side}.lmdb").mkdir()
        write_lmdb(root / f"{side}.lmdb", KEYS)
    return {"lq": str(root / "lq.lmdb"), "gt": str(root / "gt.lmdb")}, len(KEYS)


def climbing_manifest(root):
    (root / "home").mkdir()
    for seed, name in enumerate(("out.png", "home/out.png")):
        (root / name).write_bytes(image(seed=seed))
    paths = ["../out.png", "out.png", str(root / "out.png"), "../home/../home/out.png"]
    write_manifest(root / "home/m.jsonl", [ManifestRecord(path, path, "drs") for path in paths])
    return {"manifest": str(root / "home/m.jsonl")}, len(paths)


@pytest.mark.parametrize("make", [climbing_lmdbs, climbing_manifest])
def test_a_comparison_writes_below_its_output_only(tmp_path, monkeypatch, make):
    monkeypatch.setattr("unirain_plugin.compare.run.NetworkProcess", Copier)
    weights = tmp_path / "ours.safetensors"
    write_weights(weights, build_network(TINY_NETWORK, "t").state_dict(), TINY_NETWORK)
    test_set, count = make(tmp_path)
    (tmp_path / "finished/below").mkdir(parents=True)
    (tmp_path / "finished/below/other.png").write_bytes(image())
    output = tmp_path / "deep/er/c"
    finished = {"results": str(tmp_path / "finished")}
    models = [
        {"name": "ours", "weights": str(weights)},
        {"name": "stems", **finished},
        {"name": "pattern", "pattern": "below/../../{image}.png", **finished},
    ]
    options = option_dict(output, models, test_set, metrics=["psnr"], figure={"crop": 16})
    before = everything(tmp_path)
    outcome = run(parse_options(options, "c.yml"), bar=False)
    statuses = {model.name: model.status for model in outcome.comparison.models}
    assert statuses["ours"] == "ok"
    assert f"{count} of {count} images have no result" in statuses["stems"]
    assert f"{count} of {count} images have no result" in statuses["pattern"], "a file outside is no result"
    written = everything(tmp_path) - before
    assert all(path.is_relative_to(output) and ".." not in path.parts for path in written)
    assert len([path for path in written if path.is_relative_to(output / "pictures")]) == count
    own = {output / ".lock", output / "results.jsonl"}
    assert set(outcome.files) == {path for path in written if path.parent == output} - own
    assert {path.name for path in outcome.files} >= {"figure.png", "page.html", "tables.md"}


def test_names_that_are_not_utf_8(tmp_path, capsys):
    for side in ("lq", "gt", "finished"):
        (tmp_path / side).mkdir()
        for seed, name in enumerate((b"caf\xe9.png", b"line\nbreak.png", "größe.png".encode())):
            (tmp_path / side / os.fsdecode(name)).write_bytes(image(seed=seed + (side == "lq")))
    (tmp_path / "lq" / os.fsdecode(b"broken\xff.png")).write_bytes(b"")
    (tmp_path / "gt" / os.fsdecode(b"broken\xff.png")).write_bytes(image())
    done = [{"name": "done", "results": str(tmp_path / "finished")}]
    sides = {side: str(tmp_path / side) for side in ("lq", "gt")}
    figure = {"crop": 16, "images": ["s/line\nbreak", "s/größe"]}
    options = option_dict(tmp_path / "out", done, sides, metrics=["psnr"], figure=figure, cost={})
    (tmp_path / "c.yml").write_text(yaml.safe_dump(options))
    assert cli.main(["compare", "-opt", str(tmp_path / "c.yml"), "--quiet"]) == 1
    told = capsys.readouterr()
    assert "left out for all models" in told.err and r"broken\udcff.png" in told.err
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    texts = {name: data.decode("utf-8") for name, data in files.items() if name not in ("figure.png", "results.jsonl")}
    assert r"s,,caf\udce9,done,inf" in texts["per_image.csv"]
    assert "broken\udcff.png" in json.loads(texts["summary.json"])["failures"][0]
    assert r"caf\udce9" in texts["page.html"] and "größe" in texts["per_image.csv"] and "figure.png" in files


@pytest.mark.parametrize("command", [create_lmdb, extract_subimages])
def test_paths_of_a_manifest(tmp_path, command):
    test_set, count = climbing_manifest(tmp_path)
    before, output = everything(tmp_path), tmp_path / "home/o"
    assert command(["--manifest", test_set["manifest"], "--output", str(output), "--workers", "1"]) == 0
    assert all(path.is_relative_to(output) for path in everything(tmp_path) - before)
    if command is extract_subimages:
        assert len(list((output / "drs/input").iterdir())) == count


def test_halves_of_a_joint_image(tmp_path):
    (tmp_path / "out.png").write_bytes(image(64))
    (tmp_path / "root").mkdir()
    output = tmp_path / "halves"
    prepare_halves(str(tmp_path / "root"), str(output), "right")
    pair = split_halves(str(tmp_path / "root"), ("../out.png", "drs", "s"), str(output), "right")
    assert ".." not in pair.lq and (output / pair.lq).is_file() and (output / pair.gt).is_file()
    assert not (tmp_path / "halves/out.png").exists() and len(everything(tmp_path)) == 4
