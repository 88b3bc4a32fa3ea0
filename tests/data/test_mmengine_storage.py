"""mmengine's file backends as storage: local and LMDB, the same items as without."""

import pickle

import pytest
import torch
from tiny_run import write_rainrag
from torch.utils.data import DataLoader

from unirain_plugin.data import sources as mmengine_storage
from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.command import create_lmdb

pytest.importorskip("mmengine")


@pytest.fixture(autouse=True)
def _close():
    yield
    mmengine_storage._clients.clear()


def build(backend, **kwargs):
    return DistilledMixedPairedDataset({"name": "m", "phase": "val", "io_backend": backend} | kwargs)


@pytest.fixture()
def root(tmp_path):
    return write_rainrag(tmp_path / "rainrag", types=("drs", "nrd"))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a["lq"], b["lq"]) and torch.equal(a["gt"], b["gt"]) for a, b in zip(first, second, strict=True)
    )


def test_local_backend_with_folder_and_with_manifest(root):
    expected = build({"type": "disk"}, dataroot=str(root))
    local = {"type": "mmengine", "backend": "local"}
    assert same(build(local, dataroot=str(root)), expected)
    records = [
        ManifestRecord(f"{t}/input/00{n}.png", f"{t}/target/00{n}.png", t) for t in ("drs", "nrd") for n in range(3)
    ]
    write_manifest(root / "m.jsonl", records)
    assert same(build(local, manifest=str(root / "m.jsonl")), expected)
    assert same(build(local, manifest=str(root / "m.jsonl"), dataroot=str(root)), expected)


def test_lmdb_backend_reads_our_lmdbs_and_can_be_pickled(root, tmp_path):
    output = tmp_path / "lmdb"
    assert create_lmdb(["--dataroot", str(root), "--output", str(output)]) == 0
    backend = {"type": "mmengine", "backend": "lmdb", "db_path": f"{output}/{{rain_type}}/{{side}}.lmdb"}
    data = build(backend, manifest=str(output / "manifest.jsonl"))
    assert same(data, build({"type": "disk"}, dataroot=str(root)))
    assert same(pickle.loads(pickle.dumps(data)), data)
    again = build(backend, manifest=str(output / "manifest.jsonl"))
    batches = list(DataLoader(again, batch_size=1, num_workers=2))
    assert all(torch.equal(batch["lq"][0], item["lq"]) for batch, item in zip(batches, data, strict=True))


def test_missing_files_and_keys_are_named(root, tmp_path):
    write_manifest(root / "m.jsonl", [ManifestRecord("drs/input/9.png", "drs/target/9.png", "drs")])
    with pytest.raises(DataError, match=r"drs/input/9.png: cannot be read through mmengine"):
        build({"type": "mmengine", "backend": "local"}, manifest=str(root / "m.jsonl"))[0]
    output = tmp_path / "lmdb"
    create_lmdb(["--dataroot", str(root), "--output", str(output)])
    backend = {"type": "mmengine", "backend": "lmdb", "db_path": f"{output}/{{rain_type}}/{{side}}.lmdb"}
    with pytest.raises(DataError, match=r"drs/input/9.png: mmengine's backend 'lmdb' has no such entry"):
        build(backend, manifest=str(root / "m.jsonl"))[0]


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ({"type": "mmengine", "backend": "lokal"}, "mmengine refuses"),
        ({"type": "mmengine", "backend": "local", "colour": 1}, "mmengine refuses"),
    ],
)
def test_wrong_backends(root, backend, text):
    write_manifest(root / "m.jsonl", [ManifestRecord("drs/input/000.png", "drs/target/000.png", "drs")])
    with pytest.raises(OptionError, match=text):
        build(backend, manifest=str(root / "m.jsonl"))
