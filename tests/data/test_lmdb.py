"""LMDBs: written, killed, taken up again, verified, read by the toolbox's data set and by ours."""

import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import lmdb
import numpy as np
import pytest
import torch
from data_images import any_image, data_set, encode, make_lmdb, same_pixels, stock_data_set, write_pair
from tiny_run import write_rainrag
from torch.utils.data import DataLoader

from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.data.names import make_key, unique_keys
from unirain_plugin.data.pairs import read_file
from unirain_plugin.data.sources import close_environments, read_meta, read_value
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation import lmdbs
from unirain_plugin.preparation.command import create_lmdb, extract_subimages
from unirain_plugin.support.files import sole_user


def build(root, phase="train", kind="lmdb", **kwargs):
    return data_set(root, phase, kind, gt_size=16, use_hflip=True, use_rot=True, **kwargs)


def pairs_of(*numbers, rain_type="drs", **more):
    """Lines of a manifest beside the folder of RainRAG's layout."""
    names = [f"00{n}.png" for n in numbers]
    side = f"rainrag/{rain_type}"
    return [ManifestRecord(f"{side}/input/{name}", f"{side}/target/{name}", rain_type, **more) for name in names]


SIDES = (("lq", "input"), ("gt", "target"))


def stored(path):
    close_environments()
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def assert_complete(output, root, rain_type="drs", above=""):
    """Both sides hold the bytes of their folder's files, and list them in order."""
    for side, folder in SIDES:
        path, files = output / rain_type / f"{side}.lmdb", (root / rain_type / folder).iterdir()
        expected = {f"{above}{rain_type}/input/{file.stem}": file.read_bytes() for file in files}
        assert stored(path) == expected and [e.key for e in read_meta(str(path))] == sorted(expected)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    make_lmdb(write_rainrag(root / "rainrag"), root / "lmdb")
    return root


@pytest.fixture()
def lmdb_root(made, tmp_path):
    """An LMDB of the folder ``rainrag`` beside it."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True) / "lmdb"


def test_ours_and_the_toolboxes_are_read_as_the_folder_is(rainrag_root, lmdb_root):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    from_lmdb, from_folder = build(lmdb_root), build(rainrag_root, kind="disk")
    assert from_lmdb.rain_types == from_folder.rain_types and len(from_lmdb) == 12
    one, other = ([data[SampleIndex(i, i)] for i in range(12)] for data in (from_lmdb, from_folder))
    assert same_pixels(one, other) and [a["rain_type"] for a in one] == [b["rain_type"] for b in other]
    assert from_lmdb[0]["lq_path"] == f"{lmdb_root}/drs/lq.lmdb/drs/input/000"
    names = [f"00{n}" for n in range(3)]
    for side, folder in SIDES:
        files, output = rainrag_root / "nrs" / folder, rainrag_root.with_name("theirs") / f"nrs/{side}.lmdb"
        output.parent.mkdir(exist_ok=True, parents=True)
        make_lmdb_from_imgs(str(files), str(output), [f"{name}.png" for name in names], names)
    theirs = build(rainrag_root.with_name("theirs"), "val")
    assert same_pixels(theirs, build(rainrag_root, "val", "disk", rain_types=["nrs"]))


def test_source_bytes_are_kept_under_safe_keys_and_the_stock_data_set_reads_them(tmp_path):
    root, names = tmp_path / "data", ["a.v1.jpg", "a.v2.jpg", "b c ö.jpg", "x" * 200 + ".jpg"]
    for seed, name in enumerate(names):  # one clean image is no JPEG
        clean = encode(any_image(seed=seed + 9), ".jpg" if seed else ".png")
        write_pair(root, "drs", name, encode(any_image(seed=seed), ".jpg"), clean)
    output = make_lmdb(root, tmp_path / "out")
    keys = ["drs/input/a%2Ev1", "drs/input/a%2Ev2", "drs/input/b%20c%20%C3%B6", "drs/input/" + "x" * 200]
    for side, folder in SIDES:
        path = output / f"drs/{side}.lmdb"
        sources = [(root / "drs" / folder / name).read_bytes() for name in names]
        assert stored(path) == dict(zip(keys, sources, strict=True))
        assert (path / "meta_info.txt").read_text() == "".join(f"{key}.png (48,64,3) 1\n" for key in keys)
        origin = json.loads((path / "made_from.json").read_text())
        assert origin["entries"] == "4" and origin["stored_as"] == "source bytes"
    stock = stock_data_set(output / "drs/lq.lmdb", output / "drs/gt.lmdb", kind="lmdb")
    found = {item["lq_path"]: item for item in (stock[i] for i in range(4))}
    assert sorted(found) == keys and same_pixels([found[key] for key in keys], build(root, "val", "disk"))


def test_recompressed_entries_are_png_of_the_level_with_the_same_pixels(tmp_path):
    write_pair(tmp_path / "data", "drs", "a.png", encode(any_image()), encode(any_image(seed=2), ".jpg"))
    folders = [make_lmdb(tmp_path / "data", tmp_path / f"level{n}", "--recompress", "png", "--level", n) for n in "09"]
    sizes = [sum(map(len, stored(folder / "drs/lq.lmdb").values())) for folder in folders]
    assert sizes[1] < 0.95 * sizes[0]
    assert same_pixels(build(folders[1], "val"), build(tmp_path / "data", "val", "disk"))
    for side in ("lq", "gt"):
        assert all(data[:4] == b"\x89PNG" for data in stored(folders[1] / f"drs/{side}.lmdb").values())
    assert (folders[1] / "drs/lq.lmdb/meta_info.txt").read_text().endswith(" 9\n")


def test_manifest_keys_types_and_keep(rainrag_root, tmp_path):
    both = [pairs_of(n, rain_type=t, source="syn", keep=n != 1)[0] for t in ("drs", "nrd") for n in range(3)]
    write_manifest(tmp_path / "m.jsonl", both)
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "out"), "--keep-only"]
    assert create_lmdb([*arguments, "--rain-type", "drs"]) == 0
    assert create_lmdb([*arguments, "--rain-type", "nrd"]) == 0
    made = list(read_manifest(tmp_path / "out/manifest.jsonl"))
    assert [(r.lq, r.gt, r.source, r.keep) for r in made if r.rain_type == "nrd"] == [
        (f"rainrag/nrd/input/00{n}", f"rainrag/nrd/input/00{n}", "syn", True) for n in (0, 2)
    ]
    data = build(tmp_path / "out", manifest=str(tmp_path / "out/manifest.jsonl"))
    assert len(data) == 4 and data[3]["rain_type"] == 3


def test_one_lmdb_for_training_and_validation_in_workers_too(lmdb_root):
    training, validation = build(lmdb_root), build(lmdb_root, "val")
    first = [validation[i]["lq"] for i in range(12)]
    indices = [SampleIndex(i, i) for i in range(12)]
    expected = [training[i]["lq"] for i in indices]
    for context, workers in (("fork", 2), ("fork", 2), ("forkserver", 1)):  # the last inherits nothing
        loader = DataLoader(training, 1, sampler=indices, num_workers=workers, multiprocessing_context=context)
        assert all(torch.equal(b["lq"][0], e) for b, e in zip(loader, expected, strict=True))
        assert all(torch.equal(validation[i]["lq"], f) for i, f in enumerate(first))
    sent = pickle.loads(pickle.dumps(training))  # as to a spawned worker
    assert all(torch.equal(sent[i]["lq"], e) for i, e in zip(indices, expected, strict=True))


def test_missing_keys_and_broken_meta_files_are_named(lmdb_root, rainrag_root):
    with pytest.raises(DataError, match=r"drs/lq.lmdb: the LMDB has no key 'drs/input/nine'; create-lmdb with all"):
        read_value(str(lmdb_root / "drs/lq.lmdb"), "drs/input/nine")
    with pytest.raises(DataError, match=r"input/nine: cannot be read: No such file .*Without a suffix it may be"):
        read_file(str(lmdb_root / "drs/input/nine"))
    meta, other = (lmdb_root / f"drs/{side}.lmdb/meta_info.txt" for side, _ in SIDES)
    good = meta.read_text()
    for text, message in [
        (good + "x.png 48,56,3 1\n", r"meta_info.txt:4: expected 'key.png"),
        (good + "x.png (48,99999999999,3) 1\n", r"meta_info.txt:4: expected 'key.png"),
        (good + good, r"meta_info.txt:4: the key 'drs/input/000' is listed twice"),
        (good.replace("48,56", "48,57", 1), r"'drs/input/000' is 48×57 in lq.lmdb, but 48×56 in gt.lmdb"),
        (good.partition("\n")[2], r"1 key.* in only one of lq.lmdb and gt.lmdb: drs/input/000"),
    ]:
        meta.write_text(text)
        with pytest.raises(DataError, match=message):
            build(lmdb_root)
    for file in (meta, other):
        file.write_text(good + "lie.png (48,56,3) 1\n")
    with pytest.raises(DataError, match="has no key 'lie'"):
        build(lmdb_root, "val")[3]
    meta.unlink()
    for use in (lambda: build(lmdb_root), lambda: make_lmdb(rainrag_root, lmdb_root)):
        with pytest.raises(DataError, match=r"meta_info.txt: cannot be read.*an LMDB without it is incomplete"):
            use()


def test_keys_are_safe_readable_short_and_unique():
    for path, key in {
        "drs/input/001.png": "drs/input/001",
        "../../other/a.b c.jpg": "other/a%2Eb%20c",
        "100%.png": "100%25",
        "ü.png": "%C3%BC",
        "\udcff.png": "%FF",
        "./a//b.png": "a/b",
    }.items():
        assert make_key(path) == key
    paths = [f"{'d' * 300}/{'ö' * 100}{n}.png" for n in range(50)] + ["a.png", "a.jpg", "../a.png", "b/a.png"]
    keys = list(unique_keys((path, "gt") for path in paths))
    assert len(set(keys)) == len(paths) and max(map(len, keys)) <= 511
    assert all(key.isascii() and "." not in key for key in keys)
    assert keys == list(unique_keys((path, "gt") for path in paths))
    with pytest.raises(DataError, match=r"the pair a.png / b.png is listed twice"):
        list(unique_keys([("a.png", "b.png")] * 3))
    assert len(set(unique_keys([("a.png", "b.png"), ("a.png", "c.png")]))) == 2


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdbs, "_FIRST_MAP_SIZE", 1 << 16)
    rng = np.random.default_rng(0)
    for n in range(12):
        noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        write_pair(tmp_path / "data", "drs", f"{n}.png", encode(noise), encode(noise))
    output = make_lmdb(tmp_path / "data", tmp_path / "out", "--commit-every", "5")
    assert len(stored(output / "drs/lq.lmdb")) == 12


def state_of(output):
    """When each data file, finished or not, was last written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("*/*lmdb*/data.mdb")}


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path):
    write_rainrag(tmp_path / "data", 150, types=("drs", "nrd"), size=(24, 32))
    command = [sys.executable, "-m", "unirain_plugin", "create-lmdb", "--dataroot", str(tmp_path / "data")]
    command += ["--output", str(tmp_path / "out"), "--commit-every", "3", "--workers", "2"]
    rng, held = random.Random(4), []
    for _ in range(6):
        before = state_of(tmp_path / "out")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline and state_of(tmp_path / "out") == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            held.append(len(state_of(tmp_path / "out")))
    assert len(held) >= 2, "the runs ended before they were killed"
    make_lmdb(tmp_path / "data", tmp_path / "out")
    for rain_type in ("drs", "nrd"):
        assert_complete(tmp_path / "out", tmp_path / "data", rain_type)
    assert not [*(tmp_path / "out").glob("*/.*")]


def test_new_pairs_are_added_wherever_they_stand_in_the_list(rainrag_root, tmp_path):
    pairs = pairs_of(*range(3))
    output, manifest = tmp_path / "out", tmp_path / "m.jsonl"
    command = ["--manifest", str(manifest), "--output", str(output), "--workers", "1", "--verify"]
    for listed in (pairs[1:2], pairs):
        write_manifest(manifest, listed)
        assert create_lmdb(command) == 0
    assert_complete(output, rainrag_root, above="rainrag/")
    assert [record.lq for record in read_manifest(output / "manifest.jsonl")] == [
        f"rainrag/drs/input/00{n}" for n in range(3)
    ]
    (tmp_path / "elsewhere").mkdir()
    moved = [ManifestRecord(f"../{pair.lq}", f"../{pair.gt}", "drs") for pair in pairs]
    command[1] = str(tmp_path / "elsewhere/m.jsonl")
    write_manifest(command[1], moved)
    assert create_lmdb(command) == 0  # the same files, told from another folder
    write_manifest(command[1], [moved[0], ManifestRecord("../rainrag/drs/input/001.png", pairs[2].gt, "drs"), moved[2]])
    with pytest.raises(DataError, match=r"gt.lmdb: exists already and was made from other data"):
        create_lmdb(command)


LISTS = {
    "lq": "1f8848d4e69737924c356f36a899b47e526d4996f8a1f3a5b7065633f9840411",
    "gt": "0e03cff5ab2735655f803a4feb8d3c287419bfbc230ba2dbd891221ed4357374",
}
"""What the version before sources.jsonl noted of the three pairs of ``drs``."""


def as_of_earlier_versions(folder, side):
    (folder / "sources.jsonl").unlink()
    noted = {"entries": "3", "sha256_of_list": LISTS[side], "stored_as": "source bytes"}
    (folder / "made_from.json").write_text(json.dumps(noted))


def test_a_finished_lmdb_is_left_alone_or_added_to_and_a_different_one_refused(rainrag_root, lmdb_root):
    """One of an earlier version, too."""
    folders = {side: lmdb_root / f"drs/{side}.lmdb" for side in LISTS}
    before = {side: (folder / "data.mdb").stat().st_mtime_ns for side, folder in folders.items()}
    for earlier, more in ((False, False), (True, False), (True, True)):
        for side, folder in folders.items():
            if earlier:
                as_of_earlier_versions(folder, side)
        if more:
            write_pair(rainrag_root, "drs", "0001.png", encode(any_image(seed=3)), encode(any_image(seed=8)))
        make_lmdb(rainrag_root, lmdb_root, "--rain-type", "drs", "--verify")
        for side, folder in folders.items():
            assert more or (folder / "data.mdb").stat().st_mtime_ns == before[side]
            assert len((folder / "sources.jsonl").read_text().splitlines()) == len(stored(folder)) == 3 + more
    for folder in ("input", "target"):
        (rainrag_root / "drs" / folder / "002.png").rename(rainrag_root / "drs" / folder / "009.png")
    told = r"drs/lq.lmdb: exists already and was made from other data"
    with pytest.raises(DataError, match=told):
        make_lmdb(rainrag_root, lmdb_root, "--rain-type", "drs")
    for side, folder in folders.items():
        as_of_earlier_versions(folder, side)
    with pytest.raises(DataError, match=rf"{told} .* An earlier version made it"):
        make_lmdb(rainrag_root, lmdb_root, "--rain-type", "drs")


def test_an_unfinished_lmdb_is_taken_up_unless_it_is_damaged_of_something_else_or_in_use(rainrag_root, tmp_path):
    output, arguments = tmp_path / "out", ("--rain-type", "drs", "--commit-every", "1")
    for earlier in (False, True):
        (rainrag_root / "drs/input/002.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"drs/input/002.png: the file is empty"):
            make_lmdb(rainrag_root, output, *arguments)
        write_rainrag(rainrag_root)
        assert (output / "drs/.lq.lmdb.partial").is_dir() and not (output / "drs/lq.lmdb").exists()
        with pytest.raises(DataError, match=r"\.lq.lmdb.partial: is an unfinished LMDB made from other data"):
            make_lmdb(rainrag_root, output, *arguments, "--recompress", "png")
        for side in LISTS if earlier else ():
            as_of_earlier_versions(output / f"drs/.{side}.lmdb.partial", side)
        with sole_user(output, "busy"), pytest.raises(DataError, match="another process is writing"):
            make_lmdb(rainrag_root, output, *arguments)
        data = output / "drs/.lq.lmdb.partial/data.mdb"
        whole = data.read_bytes()
        data.write_bytes(whole[:5000])
        with pytest.raises(DataError, match=r"\.lq.lmdb.partial/data.mdb: the LMDB is damaged"):
            make_lmdb(rainrag_root, output, *arguments)
        data.write_bytes(whole)
        make_lmdb(rainrag_root, output, *arguments, "--verify")
        assert_complete(output, rainrag_root)
        shutil.rmtree(output)


@pytest.mark.parametrize("how", [(), ("--recompress", "png"), ("--seekable",)])
def test_other_images_of_the_same_names_are_refused_and_moved_ones_are_not(tmp_path, rainrag_root, how):
    """Finished, unfinished, and of an earlier version."""
    arguments, moved, other = (*how, "--rain-type", "drs"), tmp_path / "moved", tmp_path / "other"
    output = make_lmdb(rainrag_root, tmp_path / "out", *arguments)
    before = {side: stored(output / f"drs/{side}.lmdb") for side, _ in SIDES}
    shutil.copytree(rainrag_root, other)
    (other / "drs/target/001.png").write_bytes(encode(any_image(48, 56, seed=77)))
    rainrag_root.rename(moved)
    told = r"gt.lmdb(.partial)?: (exists already and was|is an unfinished LMDB) made from other data"
    for state in ("finished", "unfinished", *([] if how else ["earlier"])):
        for side, _ in SIDES:
            if state == "unfinished":
                (output / f"drs/{side}.lmdb").rename(output / f"drs/.{side}.lmdb.partial")
            elif state == "earlier":
                as_of_earlier_versions(output / f"drs/{side}.lmdb", side)
        with pytest.raises(DataError, match=told):
            make_lmdb(other, output, *arguments)
        make_lmdb(moved, output, *arguments, "--verify")
        assert {side: stored(output / f"drs/{side}.lmdb") for side, _ in SIDES} == before
        shutil.copytree(moved, rainrag_root)
        make_lmdb(rainrag_root, output, *arguments, "--verify")
        shutil.rmtree(rainrag_root)


def test_adding_that_was_killed_goes_on(rainrag_root, lmdb_root, monkeypatch):
    for n in "34":
        write_pair(rainrag_root, "drs", f"00{n}.png", encode(any_image(seed=int(n))), encode(any_image(seed=8)))
    finish = lmdbs.LmdbWriter.finish
    for finished in ("nothing", "lq"):

        def finish_some(self, *arguments, finished=finished):
            return finish(self, *arguments) if f"/{finished}." in self.path else 1 / 0

        with monkeypatch.context() as patch:
            patch.setattr(lmdbs.LmdbWriter, "finish", finish_some)
            with pytest.raises(ZeroDivisionError):
                make_lmdb(rainrag_root, lmdb_root, "--rain-type", "drs")
        listed = [len(list(read_meta(str(lmdb_root / f"drs/{side}.lmdb")))) for side in ("lq", "gt")]
        assert listed == [5 if finished == "lq" else 3, 3], "readers see what is whole"
    make_lmdb(rainrag_root, lmdb_root, "--rain-type", "drs", "--verify")
    assert len(build(lmdb_root, "val")) == 14


@pytest.mark.parametrize("recompress", [(), ("--recompress", "png")])
def test_verification_notices_exchanged_sources(rainrag_root, tmp_path, recompress):
    output = make_lmdb(rainrag_root, tmp_path / "out", *recompress, "--rain-type", "drs")
    (rainrag_root / "drs/target/001.png").write_bytes(encode(any_image(48, 56, seed=77)))
    for arguments in (["--dataroot", str(rainrag_root), *recompress, "--rain-type", "drs"], []):
        with pytest.raises(DataError, match=r"1 problem.*\n.*gt.lmdb: key 'drs/input/001': its source .*exchanged"):
            create_lmdb([*arguments, "--output", str(output), "--verify", "--workers", "1"])
    (rainrag_root / "drs/target/001.png").unlink()
    assert create_lmdb(["--output", str(output), "--verify"]) == 0, "sources that have gone are no damage"


DAMAGE = {
    "empty": (lambda data: b"", "the file is empty"),
    "header only": (lambda data: data[:100], "its 100 bytes are too few for a header"),
    "one page": (lambda data: data[:4096], "its 4096 bytes|are too few for a header"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "it is cut short: found .* expected"),
    "last byte lost": (lambda data: data[:-1], "it is cut short: found .* expected"),
    "overwritten": (lambda data: bytes(8192) + data[8192:], "header page 0 holds no LMDB header"),
    "second header": (lambda data: data[:4096] + b"x" * 4096 + data[8192:], "header page 1 holds no LMDB header"),
    "version": (lambda data: data[:20] + b"\x02" + data[21:], "header page 0 names version 2 of the format"),
    "page size": (lambda data: data[:40] + b"\x01" + data[41:], "header page 0 names pages of 4097 bytes"),
    "other page size": (lambda data: data[:41] + b"\x20" + data[42:], "header page 1 holds no LMDB header"),
    "index": (lambda data: data[:8192] + bytes(len(data) - 8192), "points at page .*, which is no page of the index"),
    "text": (lambda data: b"not found\n", "its 10 bytes are too few"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_told_before_lmdb_opens_them(lmdb_root, rainrag_root, name, monkeypatch):
    spoil, message = DAMAGE[name]
    close_environments()
    data = lmdb_root / "drs/gt.lmdb/data.mdb"
    data.write_bytes(spoil(data.read_bytes()))
    opened, whole = [], lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda path, *a, **k: opened.append(str(path)) or whole(path, *a, **k))
    message = rf"drs/gt.lmdb/data.mdb: the LMDB is damaged: .*({message})"
    for use in (
        lambda: build(lmdb_root),
        lambda: read_value(str(lmdb_root / "drs/gt.lmdb"), "drs/input/000"),
        lambda: create_lmdb(["--output", str(lmdb_root), "--rain-type", "drs", "--verify", "--workers", "1"]),
        lambda: make_lmdb(rainrag_root, lmdb_root),
    ):
        with pytest.raises(DataError, match=message):
            use()
    assert not [path for path in opened if path.endswith("drs/gt.lmdb")]


def test_verification_finds_damage_and_outlives_it(lmdb_root, capsys, monkeypatch):
    verify = ["--output", str(lmdb_root), "--verify", "--workers", "1"]
    assert create_lmdb(verify) == 0
    assert "24 entries verified" in capsys.readouterr().out
    for program, reason in (
        ("import os; os.kill(os.getpid(), 7)", "Bus error"),
        ("raise SystemExit('MDB_CORRUPTED')", "MDB_CORRUPTED"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(lmdbs, "_READ_ALL", program)
            told = rf"drs/lq.lmdb: the LMDB is damaged: reading its entries ends with '{reason}'"
            with pytest.raises(DataError, match=told):
                create_lmdb(verify)
    jpeg = bytearray(encode(any_image(48, 56), ".jpg"))
    jpeg[len(jpeg) // 2 : -2] = bytes(len(jpeg) - 2 - len(jpeg) // 2)
    close_environments()
    with lmdb.open(str(lmdb_root / "drs/lq.lmdb")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"drs/input/000", bytes(jpeg))
        transaction.put(b"drs/input/001", encode(any_image(8, 8)))
        transaction.put(b"extra", b"x")
        transaction.delete(b"drs/input/002")
        transaction.put(b"more", b"x")
    with pytest.raises(DataError) as error:
        create_lmdb(verify)
    for text in (
        "4 entries are stored, but meta_info.txt lists 3",
        "key 'drs/input/000': the image is damaged: Corrupt JPEG data",
        "key 'drs/input/001' is 8×8 (height × width), but meta_info.txt says 48×56",
        "no key 'drs/input/002'",
    ):
        assert text in str(error.value)


def test_pairs_of_different_size_and_wrong_arguments_are_refused(tmp_path):
    write_pair(tmp_path / "data", "drs", "a.png", encode(any_image()), encode(any_image(40, 40)))
    for command in (create_lmdb, extract_subimages):
        with pytest.raises(DataError, match=r"a.png is 48×64 .* is 40×40; expected equal sizes"):
            command(
                ["--dataroot", str(tmp_path / "data"), "--output", str(tmp_path / command.__name__), "--workers", "1"]
            )
    for arguments, text in (
        ([], "give --manifest or --dataroot"),
        (["--dataroot", "d", "--keep-only"], "--keep-only needs --manifest"),
    ):
        with pytest.raises(OptionError, match=text):
            create_lmdb(["--output", "o", *arguments])
