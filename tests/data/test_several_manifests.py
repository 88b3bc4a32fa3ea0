"""``manifest: [a.jsonl, b.jsonl]``: paths relative to each; what they say of one image must agree."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_images import data_set

from unirain_plugin.compare.options import SetOptions
from unirain_plugin.compare.samples import list_samples
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, read_manifests, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.options import check_options, checked_loader, load_options
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.preparation.command import create_lmdb, extract_subimages, generate_meta_info, index_dataset
from unirain_plugin.preparation.layouts import public_layouts
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.resources import options_root


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


def greys(data):
    return [round(float(item["lq"].mean()) * 255) for item in data]


def test_paths_are_relative_to_each_manifest_and_lmdbs_and_sub_images_are_made_of_several(manifests, tmp_path):
    data = data_set(manifest=manifests)
    assert greys(data) == [10, 20] and [int(item["rain_type"]) for item in data] == [0, 4]
    assert create_lmdb(["--manifest", *manifests, "--output", str(tmp_path / "lmdb"), "--workers", "1"]) == 0
    assert greys(data_set(tmp_path / "lmdb", kind="lmdb", manifest=str(tmp_path / "lmdb/manifest.jsonl"))) == [10, 20]
    assert extract_subimages(["--manifest", *manifests, "--output", str(tmp_path / "cut"), "--workers", "1"]) == 0
    assert {r.rain_type for r in read_manifest(tmp_path / "cut/manifest.jsonl")} == {"drs", "snow"}


def test_manifests_that_disagree_on_a_file_are_named(manifests, tmp_path):
    both = [manifests[0], str(tmp_path / "more.jsonl")]
    told = r"lq\.png: {} in .*set1"
    for more, text in (
        (("set1/gt.png", "nrs", "x"), "its rain type is 'nrs' here and 'drs'"),
        (("set1/gt.png", "drs", "x", None, False), "its keep is False here and True"),
        (("set2/gt.png", "drs", "x"), r"its clean image is '../set2/gt\.png' here and 'gt\.png'"),
    ):
        write_manifest(both[1], [ManifestRecord("set1/lq.png", *more)])
        with pytest.raises(DataError, match=rf"more\.jsonl: {told.format(text)}"):
            data_set(manifest=both)
    for command in (create_lmdb, extract_subimages, generate_meta_info):
        with pytest.raises(DataError, match=told.format(text)):
            command(["--manifest", *both, "--output", str(tmp_path / "out")])


def test_a_pair_that_is_listed_again_counts_once_and_is_told_once(manifests, tmp_path, warnings_of):
    again = ManifestRecord("set1/lq.png", "set1/gt.png", "drs", "x")
    one, several = [str(tmp_path / "again.jsonl")], [*manifests, str(tmp_path / "again.jsonl")]
    write_manifest(one[0], [again, replace(again, lq="./set1/lq.png", keep=False)])  # as distillation writes
    for _ in range(2):
        assert [(r.lq, r.gt, r.source) for r in read_manifests(several)] == [
            ("lq.png", "gt.png", "source1"),
            ("../set2/lq.png", "../set2/gt.png", "source2"),
        ]
        assert [r.lq for r in read_manifests(one)] == [r.lq for r in read_manifests(one * 2)] == ["set1/lq.png"]
    assert warnings_of == [
        f"{', '.join(several)}: 2 of 4 pairs are listed again; each counts once.",
        f"{one[0]}: 1 of 2 pairs are listed again; each counts once.",
        f"{one[0]}, {one[0]}: 3 of 4 pairs are listed again; each counts once.",
    ]
    assert len(data_set(manifest=one)) == 1
    assert len(list_samples(SetOptions("s", manifest=Path(one[0])), tmp_path)) == 1
    assert create_lmdb(["--manifest", *one, "--output", str(tmp_path / "lmdb"), "--workers", "1"]) == 0
    assert extract_subimages(["--manifest", *one, "--output", str(tmp_path / "cut"), "--workers", "1"]) == 0
    assert [len(list(read_manifest(tmp_path / f"{made}/manifest.jsonl"))) for made in ("lmdb", "cut")] == [1, 1]
    assert [r.lq for r in read_manifests(manifests, files=False)] == ["lq.png", "lq.png"]  # as of keys of LMDBs


def test_index_adds_to_a_manifest(tmp_path):
    for name in ("rain-1.png", "norain-1.png", "rain-2.png", "norain-2.png"):
        (tmp_path / "a").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "a" / name), np.full((8, 8, 3), 10 * len(name) + int(name[-5]), np.uint8))
    output = tmp_path / "m.jsonl"
    write_manifest(output, [ManifestRecord("a/rain-1.png", "a/norain-1.png", "drs", "x", keep=False)])
    arguments = ["--layout", "rain100l", "--root", str(tmp_path / "a"), "--output", str(output), "--workers", "1"]
    with pytest.raises(OptionError, match="this file exists; name another, or give --overwrite or --append"):
        index_dataset(arguments)
    for _ in range(2):
        assert index_dataset([*arguments, "--append"]) == 0
        found = [(r.lq, r.source, r.keep) for r in read_manifest(output)]
        assert found == [("a/rain-1.png", "x", False), ("a/rain-2.png", "rain100l", None)]
    with pytest.raises(DataError, match=r"a/rain-1\.png: its rain type is 'nrs' here and 'drs' in .*m\.jsonl"):
        index_dataset([*arguments, "--append", "--rain-type", "nrs"])
    assert len(list(read_manifest(output))) == 2


def test_missing_manifests_stop_or_are_told(manifests, warnings_of):
    paths = [*manifests, "/gone/a.jsonl", "/gone/b.jsonl"]
    with pytest.raises(DataError, match=r"/gone/a\.jsonl: the manifest cannot be read"):
        data_set(manifest=paths)
    assert len(data_set(manifest=paths, missing_manifests="skip")) == 2
    assert warnings_of == ["mixed: 2 of 4 manifests are missing and left out: /gone/a.jsonl, /gone/b.jsonl."]
    with pytest.raises(DataError, match=r"mixed: none of the 1 manifests is there: /gone/a\.jsonl"):
        data_set(manifest=paths[2:3], missing_manifests="skip")


def test_the_papers_mixture_names_every_layout_of_rain(tmp_path, monkeypatch, warnings_of):
    document = read_option_file(options_root() / "train/train_UniRain_mixture.yml")
    named = {Path(path).stem for path in document.opt["datasets"]["train"]["manifest"]}
    types = {name: {part.rain_type for part in layout.parts} for name, layout in public_layouts().items()}
    told = {None, "{kind}", *RAIN_TYPES}
    assert named == {name for name, of_layout in types.items() if of_layout & told}
    monkeypatch.chdir(tmp_path)
    write_manifest("datasets/spa.jsonl", [ManifestRecord("a", "b", rain_type) for rain_type in RAIN_TYPES])
    write_manifest("datasets/raindrop-test.jsonl", [ManifestRecord("a", "b", "drd")])
    missing = [text for text in check_options(document.opt) if "are missing and left out: datasets/" in text]
    assert len(missing) == 2 and "datasets.train.manifest: 21 are missing" in missing[0]
    load_options(options_root() / "train/train_UniRain_mixture.yml")
    assert sum("left out" in text for text in warnings_of) == 2
    checked_loader(options_root() / "train/train_UniRain_mixture.yml")
    assert sum("left out" in text for text in warnings_of) == 2, "in a run the data set itself tells"
    (tmp_path / "datasets/spa.jsonl").unlink()
    with pytest.raises(OptionError, match=r"there is no file 'datasets/rainrag\.jsonl'"):
        check_options(document.opt)
