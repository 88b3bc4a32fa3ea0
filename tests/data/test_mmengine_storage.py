"""mmengine's file backends as storage: local and LMDB, the same items as without."""

import pickle

import pytest
import torch
from data_images import data_set, make_lmdb, same_pixels
from tiny_run import write_rainrag
from torch.utils.data import DataLoader

from unirain_plugin.data import sources as mmengine_storage
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError, OptionError

pytest.importorskip("mmengine")


@pytest.fixture(autouse=True)
def _close():
    yield
    mmengine_storage._clients.clear()


@pytest.fixture()
def root(tmp_path):
    return write_rainrag(tmp_path / "rainrag", types=("drs", "nrd"))


LOCAL = {"type": "mmengine", "backend": "local"}


def build(backend, **kwargs):
    return data_set(io_backend=backend, **kwargs)


def in_lmdb(root, output):
    """The backend that reads an LMDB of a folder."""
    make_lmdb(root, output)
    return {"type": "mmengine", "backend": "lmdb", "db_path": f"{output}/{{rain_type}}/{{side}}.lmdb"}


def manifest_of(root, *numbers):
    names = [(t, f"{n:03d}.png") for t in ("drs", "nrd") for n in numbers]
    write_manifest(
        root / "m.jsonl", [ManifestRecord(f"{t}/input/{name}", f"{t}/target/{name}", t) for t, name in names]
    )
    return str(root / "m.jsonl")


def test_local_backend_with_folder_and_with_manifest(root):
    expected, manifest = data_set(root), manifest_of(root, 0, 1, 2)
    for where in ({"dataroot": str(root)}, {"manifest": manifest}, {"manifest": manifest, "dataroot": str(root)}):
        assert same_pixels(build(LOCAL, **where), expected)


def test_lmdb_backend_reads_our_lmdbs_and_can_be_pickled(root, tmp_path):
    backend, manifest = in_lmdb(root, tmp_path / "lmdb"), str(tmp_path / "lmdb/manifest.jsonl")
    data = build(backend, manifest=manifest)
    assert same_pixels(data, data_set(root))
    assert same_pixels(pickle.loads(pickle.dumps(data)), data)
    batches = list(DataLoader(build(backend, manifest=manifest), batch_size=1, num_workers=2))
    assert all(torch.equal(batch["lq"][0], item["lq"]) for batch, item in zip(batches, data, strict=True))


def test_missing_files_and_keys_are_named_and_wrong_backends_refused(root, tmp_path):
    manifest = manifest_of(root, 9)
    for backend, message in (
        (LOCAL, r"drs/input/009.png: cannot be read through mmengine"),
        (in_lmdb(root, tmp_path / "lmdb"), r"drs/input/009.png: mmengine's backend 'lmdb' has no such entry"),
    ):
        with pytest.raises(DataError, match=message):
            build(backend, manifest=manifest)[0]
    for wrong in ({"backend": "lokal"}, {"colour": 1}):
        with pytest.raises(OptionError, match="mmengine refuses"):
            build(LOCAL | wrong, manifest=manifest)
