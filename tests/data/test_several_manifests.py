"""``manifest: [a.jsonl, b.jsonl]``: paths relative to each; what they say of one image must agree."""

import cv2
import numpy as np
import pytest

from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError


@pytest.fixture()
def manifests(tmp_path):
    """Two folders with a manifest and an image of their own: of grey 10 in the first, of grey 20 in the second."""
    paths = []
    for number, rain_type in enumerate(("drs", "snow"), 1):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        for name in ("lq.png", "gt.png"):
            cv2.imwrite(str(folder / name), np.full((8, 8, 3), 10 * number, np.uint8))
        write_manifest(folder / "pairs.jsonl", [ManifestRecord("lq.png", "gt.png", rain_type, f"source{number}")])
        paths.append(str(folder / "pairs.jsonl"))
    return paths


def test_paths_are_relative_to_each_manifest(manifests):
    dataset = DistilledMixedPairedDataset({"name": "t", "phase": "val", "manifest": manifests})
    items = [dataset[index] for index in range(len(dataset))]
    assert [round(float(item["lq"].mean()) * 255) for item in items] == [10, 20]
    assert [int(item["rain_type"]) for item in items] == [0, 4]


def test_manifests_that_disagree_on_a_file_are_named(manifests, tmp_path):
    write_manifest(tmp_path / "more.jsonl", [ManifestRecord("set1/lq.png", "set1/gt.png", "nrs", "x")])
    options = {"name": "t", "phase": "val", "manifest": [manifests[0], str(tmp_path / "more.jsonl")]}
    with pytest.raises(DataError, match=r"more\.jsonl: lq\.png: its rain type is 'nrs' here and 'drs' in .*set1"):
        DistilledMixedPairedDataset(options)
