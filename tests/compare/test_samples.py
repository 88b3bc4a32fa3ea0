"""Test sets of every kind: what is listed, what is wrong with a broken one, and which finished images are theirs."""

import hashlib
import shutil

import cv2
import numpy as np
import pytest

from unirain_plugin.compare import run
from unirain_plugin.compare.options import ModelOptions, SetOptions, SynthesizeOptions
from unirain_plugin.compare.run import check_sample
from unirain_plugin.compare.samples import Sample, Source, list_samples, match_finished
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError, did_you_mean
from unirain_plugin.support.journal import Journal
from unirain_plugin.toolbox import prepare_import


def listed(tmp_path, **keys):
    return list_samples(SetOptions("s", **keys), tmp_path / "scratch")


def check_first(tmp_path, **keys):
    with Journal(tmp_path / "journal.jsonl") as journal:
        return check_sample(listed(tmp_path, **keys)[0], journal)


def write_lmdbs(root, folder):
    """A pair of LMDBs of a rain type's folder, by the toolbox."""
    prepare_import()
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    root.mkdir(parents=True, exist_ok=True)
    for side, files in (("lq", folder / "input"), ("gt", folder / "target")):
        names = sorted(path.name for path in files.iterdir())
        make_lmdb_from_imgs(str(files), str(root / f"{side}.lmdb"), names, [name[:-4] for name in names])


def test_rainrag_root(rainrag_root, tmp_path):
    samples = listed(tmp_path, dataroot=rainrag_root)
    assert [s.image for s in samples[:4]] == ["drs/000", "drs/001", "drs/002", "drd/000"]
    assert len(samples) == 12 and samples[-1].rain_type == "nrd" and samples[-1].stem == "002"
    expected = cv2.imread(str(rainrag_root / "drs/input/000.png"))[..., ::-1]
    assert np.array_equal(samples[0].lq.pixels(), expected)
    few = listed(tmp_path, dataroot=rainrag_root, rain_types=["nrs", "drs"], limit=1)
    assert [s.image for s in few] == ["nrs/000", "drs/000"]


def test_folders(rainrag_root, tmp_path):
    folder = rainrag_root / "drd"
    samples = listed(tmp_path, lq=folder / "input", gt=folder / "target", rain_type="drd")
    assert [(s.image, s.rain_type) for s in samples] == [("000", "drd"), ("001", "drd"), ("002", "drd")]
    assert all(s.gt is None and s.rain_type is None for s in listed(tmp_path, lq=folder / "input"))
    for where in ("lq", "dataroot"):
        with pytest.raises(DataError, match=r"nowhere: no such folder"):
            listed(tmp_path, **{where: tmp_path / "nowhere"})


@pytest.mark.parametrize(("side", "other"), [("input", "target"), ("target", "input")])
def test_images_without_a_partner_and_names_that_differ_in_case_only_are_named(rainrag_root, tmp_path, side, other):
    folder = rainrag_root / "drd"
    for name in ("001.png", "002.png"):
        (folder / other / name).unlink()
    message = f"test set 's': 2 of 3 images of .*{side} have no partner of their name in .*{other}: 001, 002"
    with pytest.raises(DataError, match=message):
        listed(tmp_path, lq=folder / "input", gt=folder / "target")
    for name in ("a", "A"):
        (folder / side / f"{name}.png").touch()
    with pytest.raises(DataError, match="two images have the name 'a'"):
        listed(tmp_path, lq=folder / side)


def test_lmdb_pairs_are_those_of_the_folder_alone_and_below_a_root(rainrag_root, tmp_path):
    for rain_type in ("drs", "nrd"):
        write_lmdbs(tmp_path / "root" / rain_type, rainrag_root / rain_type)
    from_files = listed(tmp_path, lq=rainrag_root / "drs/input", gt=rainrag_root / "drs/target")
    from_lmdb = listed(tmp_path, lq=tmp_path / "root/drs/lq.lmdb", gt=tmp_path / "root/drs/gt.lmdb")
    assert [s.image for s in from_lmdb] == [s.image for s in from_files]
    for one, other in zip(from_lmdb, from_files, strict=True):
        assert np.array_equal(one.lq.pixels(), other.lq.pixels())
        assert np.array_equal(one.gt.pixels(), other.gt.pixels())
    samples = listed(tmp_path, dataroot=tmp_path / "root", rain_types=["nrd"])
    assert [s.image for s in samples] == ["nrd/000", "nrd/001", "nrd/002"]
    expected = cv2.imread(str(rainrag_root / "nrd/target/001.png"))[..., ::-1]
    assert np.array_equal(samples[1].gt.pixels(), expected)
    assert len(listed(tmp_path, dataroot=tmp_path / "root")) == 6


def test_manifest_takes_what_was_kept(rainrag_root, tmp_path):
    records = [
        ManifestRecord(f"{t}/input/{i:03d}.png", f"{t}/target/{i:03d}.png", t, keep=keep)
        for t, i, keep in (("drs", 0, True), ("drs", 1, False), ("nrd", 0, None))
    ]
    manifest = rainrag_root / "pairs.jsonl"
    write_manifest(manifest, records)
    assert [s.image for s in listed(tmp_path, manifest=manifest)] == ["drs/input/000", "nrd/input/000"]
    assert len(listed(tmp_path, manifest=manifest, rejected=True)) == 3
    assert [s.rain_type for s in listed(tmp_path, manifest=manifest, rain_types=["nrd"])] == ["nrd"]
    with pytest.raises(DataError, match=r"no pair of rain type 'nrs'; found \['drs', 'nrd'\]"):
        listed(tmp_path, manifest=manifest, rain_types=["nrs"])
    moved = tmp_path / "pairs.jsonl"
    manifest.rename(moved)
    samples = listed(tmp_path, manifest=moved, dataroot=rainrag_root)
    assert samples[0].lq.pixels().shape == (48, 56, 3)


def test_several_manifests(rainrag_root, tmp_path):
    """Paths are relative to each; a pair that is named again counts once."""
    for rain_type, paths in (("drs", (0, 1)), ("nrd", (0,))):
        records = [ManifestRecord(f"input/{i:03d}.png", f"target/{i:03d}.png", rain_type) for i in paths]
        write_manifest(rainrag_root / rain_type / "m.jsonl", records)
    write_manifest(rainrag_root / "m.jsonl", [ManifestRecord("drs/input/001.png", "drs/target/001.png", "drs")])
    manifests = [rainrag_root / name for name in ("m.jsonl", "drs/m.jsonl", "nrd/m.jsonl")]
    samples = listed(tmp_path, manifest=manifests)
    assert [s.image for s in samples] == ["drs/input/001", "drs/input/000", "nrd/input/000"]
    assert [s.rain_type for s in samples] == ["drs", "drs", "nrd"]
    assert samples[2].gt.read() == (rainrag_root / "nrd/target/000.png").read_bytes()
    assert [s.rain_type for s in listed(tmp_path, manifest=manifests, rain_types=["nrd"])] == ["nrd"]


def test_rendered_set_is_made_once_and_belongs_to_its_settings(tmp_path):
    def rendered(**more):
        settings = SynthesizeOptions(rain_types=["drs", "nrd"], size=64, **more)
        samples = listed(tmp_path, synthesize=settings)
        return {s.image: (s.lq.path, s.lq.digest(), (tmp_path / s.lq.path).stat().st_mtime_ns) for s in samples}

    first = rendered()
    assert list(first) == ["drs/chelsea_0", "drs/rocket_0", "nrd/chelsea_0", "nrd/rocket_0"]
    assert rendered() == first
    (path, digest, _), (other, another, _) = first["drs/chelsea_0"], rendered(seed=1)["drs/chelsea_0"]
    assert path != other and digest != another


def test_rendered_set_belongs_to_its_photographs(tmp_path, rainrag_root):
    photos = tmp_path / "photos"
    shutil.copytree(rainrag_root / "drs/target", photos)

    def rendered():
        settings = SynthesizeOptions(input=photos, rain_types=["drs"], size=None)
        return {s.image: s.lq.digest() for s in listed(tmp_path, synthesize=settings)}

    first = rendered()
    assert list(first) == ["drs/000_0", "drs/001_0", "drs/002_0"] and rendered() == first
    shutil.move(photos / "002.png", photos / "000.png")
    second = rendered()
    assert list(second) == ["drs/000_0", "drs/001_0"]
    assert second["drs/000_0"] != first["drs/000_0"] and second["drs/001_0"] == first["drs/001_0"]


def test_a_sound_image_is_decoded_once(rainrag_root, tmp_path, monkeypatch):
    first = check_first(tmp_path, dataroot=rainrag_root)
    assert first.size == (48, 56) and first.sample.key == ("s", "drs/000")
    assert first.lq == hashlib.sha256((rainrag_root / "drs/input/000.png").read_bytes()).hexdigest()
    monkeypatch.setattr(run, "decode_strictly", None)
    assert check_first(tmp_path, dataroot=rainrag_root) == first
    (rainrag_root / "drs/input/000.png").write_bytes((rainrag_root / "drs/input/001.png").read_bytes())
    with pytest.raises(TypeError):  # other bytes are looked at again
        check_first(tmp_path, dataroot=rainrag_root)


@pytest.mark.parametrize("side", ["input", "target"])
def test_an_image_that_is_cut_short_destroyed_in_the_middle_or_of_another_size_is_named(rainrag_root, tmp_path, side):
    path = rainrag_root / "drs" / side / "000.png"
    data = path.read_bytes()
    for spoilt in (data[:200], data[:900] + bytes(400) + data[1300:]):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match=f"drs/{side}/000.png"):
            check_first(tmp_path, dataroot=rainrag_root)
    cv2.imwrite(str(path), np.zeros((40, 56, 3), np.uint8))
    sizes = {"input": "48×56", "target": "48×56", side: "40×56"}
    with pytest.raises(DataError, match=rf"input/000\.png is {sizes['input']} .*target/000\.png is {sizes['target']}"):
        check_first(tmp_path, dataroot=rainrag_root)


def test_sixteen_bits_and_alpha_are_read_as_the_toolbox_does(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (8, 9, 4), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    expected = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(Source(str(tmp_path / "a.png")).pixels(), expected)


def sample(image, rain_type=None, test_set="set"):
    return Sample(test_set, image, rain_type, Source(f"{image}.png"), None)


def match(tmp_path, files, samples, **keys):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = match_finished(ModelOptions("m", results=tmp_path, **keys), samples)
    sources = {key: source.path.removeprefix(f"{tmp_path}/") for key, source in found.sources.items()}
    return sources, found.problems, found.others


def test_finished_images_are_found_by_stem_with_suffix_and_folders_decide_between_equal_stems(tmp_path):
    files = ["deep/down/a_ours.jpg", "b_ours.png", "b.png", "notes.txt"]
    sources, problems, others = match(tmp_path / "one", files, [sample("a"), sample("b")], suffix="_ours")
    assert sources == {("set", "a"): "deep/down/a_ours.jpg", ("set", "b"): "b_ours.png"}
    assert not problems and others == ["b.png"]
    samples = [sample("drs/0", "drs"), sample("nrd/0", "nrd"), sample("0", "nrd", "other")]
    files = ["set/drs/0.png", "set/nrd/0.png", "other/0.png"]
    sources, problems, _ = match(tmp_path / "two", files, samples)
    assert list(sources.values()) == files and not problems
    sources, problems, _ = match(tmp_path / "three", ["0.png"], samples[:2])  # not the result of both
    assert not sources and len(problems) == 2
    assert "could be its result or that of set/nrd/0" in problems["set", "drs/0"]
    sources, problems, _ = match(tmp_path / "four", ["drs/0.png"], samples[:2])
    assert sources == {("set", "drs/0"): "drs/0.png"} and list(problems) == [("set", "nrd/0")]


def test_two_files_for_one_image_are_told_and_missing_ones_name_the_nearest(tmp_path):
    _, problems, _ = match(tmp_path, ["x/a.png", "y/a.png"], [sample("a")])
    assert "x/a.png and y/a.png" in problems["set", "a"] and "`pattern`" in problems["set", "a"]
    _, problems, others = match(tmp_path / "one", ["picture_1_x1.png"], [sample("picture_1")])
    assert "no image named 'picture_1'" in problems["set", "picture_1"]
    assert "Did you mean 'picture_1_x1'?" in problems["set", "picture_1"] and others == ["picture_1_x1.png"]
    told = did_you_mean("cafe\u0301", ["caf\u00e9"])  # they look alike
    assert told == " Did you mean 'caf\u00e9' (the same letters, coded otherwise in Unicode)?"


def test_finished_images_by_pattern_and_empty_and_missing_folders(tmp_path):
    samples, pattern = [sample("drs/0", "drs"), sample("drs/1", "drs")], "{rain_type}-{stem}-r.png"
    sources, problems, others = match(tmp_path / "one", ["drs-0-r.png", "drs-1.png"], samples, pattern=pattern)
    assert sources == {("set", "drs/0"): "drs-0-r.png"} and others == ["drs-1.png"]
    assert "drs-1-r.png is missing. Did you mean" in problems["set", "drs/1"]
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "holds no images"), ("nowhere", "no such folder of results")):
        with pytest.raises(DataError, match=message):
            match(tmp_path / folder, [], [sample("a")])
