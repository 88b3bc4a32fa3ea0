"""Test sets of every kind: what is listed, and what is wrong with a broken one."""

import hashlib

import cv2
import numpy as np
import pytest
from tiny_run import write_rainrag

from unirain_plugin.compare import run
from unirain_plugin.compare.options import SetOptions, SynthesizeOptions
from unirain_plugin.compare.run import check_sample
from unirain_plugin.compare.samples import Source, list_samples
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError
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
def test_images_without_a_partner_are_named(rainrag_root, tmp_path, side, other):
    folder = rainrag_root / "drd"
    for name in ("001.png", "002.png"):
        (folder / other / name).unlink()
    message = f"test set 's': 2 of 3 images of .*{side} have no partner of their name in .*{other}: 001, 002"
    with pytest.raises(DataError, match=message):
        listed(tmp_path, lq=folder / "input", gt=folder / "target")


def test_names_that_differ_in_case_only_are_refused(rainrag_root, tmp_path):
    folder = rainrag_root / "drd" / "input"
    for name in ("a", "A"):
        (folder / f"{name}.png").write_bytes((folder / "000.png").read_bytes())
    with pytest.raises(DataError, match="two images have the name 'a'"):
        listed(tmp_path, lq=folder)


def test_lmdb_pairs_are_those_of_the_folder_alone_and_below_a_root(rainrag_root, tmp_path):
    write_lmdbs(tmp_path, rainrag_root / "drs")
    from_files = listed(tmp_path, lq=rainrag_root / "drs/input", gt=rainrag_root / "drs/target")
    from_lmdb = listed(tmp_path, lq=tmp_path / "lq.lmdb", gt=tmp_path / "gt.lmdb")
    assert [s.image for s in from_lmdb] == [s.image for s in from_files]
    for one, other in zip(from_lmdb, from_files, strict=True):
        assert np.array_equal(one.lq.pixels(), other.lq.pixels())
        assert np.array_equal(one.gt.pixels(), other.gt.pixels())
    for rain_type in ("drs", "nrd"):
        write_lmdbs(tmp_path / "root" / rain_type, rainrag_root / rain_type)
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
    settings = {"rain_types": ["drs", "nrd"], "size": 64}
    first = listed(tmp_path, synthesize=SynthesizeOptions(**settings))
    assert [s.image for s in first] == ["drs/chelsea_0", "drs/rocket_0", "nrd/chelsea_0", "nrd/rocket_0"]
    before = {s.image: (s.lq.digest(), (tmp_path / s.lq.path).stat().st_mtime_ns) for s in first}
    again = listed(tmp_path, synthesize=SynthesizeOptions(**settings))
    assert {s.image: (s.lq.digest(), (tmp_path / s.lq.path).stat().st_mtime_ns) for s in again} == before
    other = listed(tmp_path, synthesize=SynthesizeOptions(**settings, seed=1))
    assert other[0].lq.path != first[0].lq.path and other[0].lq.digest() != first[0].lq.digest()


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
@pytest.mark.parametrize("spoil", [lambda data: data[:200], lambda data: data[:900] + bytes(400) + data[1300:]])
def test_a_image_that_is_cut_short_or_destroyed_in_the_middle_is_named(rainrag_root, tmp_path, side, spoil):
    path = rainrag_root / "drs" / side / "000.png"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=f"drs/{side}/000.png"):
        check_first(tmp_path, dataroot=rainrag_root)


def test_sizes_of_a_pair_must_agree(rainrag_root, tmp_path):
    write_rainrag(rainrag_root, 1, (40, 56), ["drs"])
    write_rainrag(tmp_path / "other", 1, (48, 56), ["drs"])
    (tmp_path / "other/drs/target/000.png").replace(rainrag_root / "drs/target/000.png")
    with pytest.raises(DataError, match=r"input/000\.png is 40×56 .*target/000\.png is 48×56"):
        check_first(tmp_path, dataroot=rainrag_root)


def test_sixteen_bits_and_alpha_are_read_as_the_toolbox_does(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (8, 9, 4), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    expected = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(Source(str(tmp_path / "a.png")).pixels(), expected)
