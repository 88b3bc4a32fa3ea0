"""Names that climb out of the folder: whatever tells them, a comparison writes below its output only."""

import cv2
import lmdb
import numpy as np
import pytest
from tiny_run import TINY_NETWORK

from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.compare.options import parse_options
from unirain_plugin.compare.run import run
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.inference.loading import build_network
from unirain_plugin.preparation.command import create_lmdb, extract_subimages
from unirain_plugin.preparation.pairing import prepare_halves, split_halves

KEYS = ["../../out", "../../../out", "/tmp/out", "a/../../../../out", "..\\..\\out", "out"]


class Copier:
    """In place of a network's process: hands the rainy image back."""

    def __init__(self, spec):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def receive(self):
        return None

    def send(self, order, source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read())


def image(width=32, seed=0):
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 256, (32, width, 3), dtype=np.uint8))[
        1
    ].tobytes()


def write_lmdb(path, keys):
    environment = lmdb.open(str(path))
    with environment.begin(write=True) as transaction:
        for seed, key in enumerate(keys):
            transaction.put(key.encode(), image(seed=seed))
    environment.close()
    (path / "meta_info.txt").write_text("".join(f"{key}.png (32,32,3) 1\n" for key in keys))


def everything(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_keys_of_an_lmdb(tmp_path, monkeypatch):
    monkeypatch.setattr("unirain_plugin.compare.evaluate.NetworkProcess", Copier)
    weights = tmp_path / "ours.safetensors"
    write_weights(weights, build_network(TINY_NETWORK, "t").state_dict(), TINY_NETWORK)
    for side in ("lq", "gt"):
        (tmp_path / f"{side}.lmdb").mkdir()
        write_lmdb(tmp_path / f"{side}.lmdb", KEYS)
    output = tmp_path / "deep/er/c"
    options = {
        "name": "c",
        "models": [{"name": "ours", "weights": str(weights)}],
        "test_sets": [{"name": "s", "lq": str(tmp_path / "lq.lmdb"), "gt": str(tmp_path / "gt.lmdb")}],
        "metrics": ["psnr"],
        "output": str(output),
        "cost": {"enabled": False},
        "figure": {"enabled": False},
        "device": "cpu",
    }
    before = everything(tmp_path)
    outcome = run(parse_options(options, "c.yml"), bar=False)
    assert {model.status for model in outcome.comparison.models} == {"ok"}
    written = everything(tmp_path) - before
    assert all(path.is_relative_to(output) and ".." not in path.parts for path in written)
    assert len([path for path in written if path.suffix == ".png"]) == len(KEYS)


@pytest.mark.parametrize("command", ["lmdb", "subimages"])
def test_paths_of_a_manifest(tmp_path, command):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "out.png").write_bytes(image())
    (home / "out.png").write_bytes(image(seed=1))
    paths = ["../out.png", "out.png", str(tmp_path / "out.png"), "../home/../home/out.png"]
    write_manifest(home / "m.jsonl", [ManifestRecord(path, path, "drs") for path in paths])
    before = everything(tmp_path)
    main = create_lmdb if command == "lmdb" else extract_subimages
    assert main(["--manifest", str(home / "m.jsonl"), "--output", str(home / "o"), "--workers", "1"]) == 0
    assert all(path.is_relative_to(home / "o") for path in everything(tmp_path) - before)
    if command == "subimages":
        assert len(list((home / "o/drs/input").iterdir())) == len(paths)


def test_halves_of_a_joint_image(tmp_path):
    (tmp_path / "out.png").write_bytes(image(64))
    (tmp_path / "root").mkdir()
    output = tmp_path / "halves"
    prepare_halves(str(tmp_path / "root"), str(output), "right")
    pair = split_halves(str(tmp_path / "root"), ("../out.png", "drs", "s"), str(output), "right")
    assert ".." not in pair.lq and (output / pair.lq).is_file() and (output / pair.gt).is_file()
    assert not (tmp_path / "halves/out.png").exists() and len(everything(tmp_path)) == 4
