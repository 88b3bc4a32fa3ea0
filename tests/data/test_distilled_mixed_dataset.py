"""The data set: items, pixels equal to the toolbox's, determinism, loaders, options, bad input."""

import logging
import pickle

import cv2
import numpy as np
import pytest
import torch
from data_images import (
    any_image,
    broken_images,
    data_set,
    encode,
    make_lmdb,
    same,
    same_pixels,
    stock_data_set,
    write_pair,
)
from tiny_run import write_rainrag
from torch.utils.data import DataLoader

from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset, draw_augmentation
from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain_types import RAIN_TYPES


def build(root=None, phase="train", **kwargs):
    return data_set(root, phase, **{"gt_size": 24, "use_hflip": True, "use_rot": True} | kwargs)


def test_training_item_is_the_same_without_region_decoding(rainrag_root):
    data, without = build(rainrag_root), build(rainrag_root, decode_region=False)
    assert len(data) == 12 and data.rain_types == {"drs": 0, "drd": 1, "nrs": 2, "nrd": 3}
    item = data[11]
    assert item["lq"].shape == item["gt"].shape == (3, 24, 24)
    assert item["lq"].dtype == torch.float32 and item["lq"].is_contiguous()
    assert item["lq"].min() >= 0 and item["gt"].max() <= 1
    assert item["rain_type"] == 3
    assert item["lq_path"] == str(rainrag_root / "nrd/input/002.png")
    assert item["gt_path"] == str(rainrag_root / "nrd/target/002.png")
    assert all(same(data[SampleIndex(i, i)], without[SampleIndex(i, i)]) for i in range(12))


@pytest.mark.parametrize("phase", ["val", "test"])
def test_validation_gives_whole_images_in_order(rainrag_root, phase):
    data = build(rainrag_root, phase=phase, gt_size=None)
    assert [item["rain_type"] for item in data] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    expected = cv2.imread(str(rainrag_root / "drd/input/001.png"))[..., ::-1].astype(np.float32) / 255
    assert np.array_equal(data[4]["lq"].permute(1, 2, 0).numpy(), expected)


def test_types_are_found_by_their_folders_chosen_ones_keep_their_labels_and_training_balances(rainrag_root, tmp_path):
    data = build(rainrag_root, rain_types=["nrd", "drd"], phase="val")
    assert data.rain_types == {"nrd": 3, "drd": 1} and [i["rain_type"] for i in data] == [3] * 3 + [1] * 3
    data = build(write_rainrag(tmp_path / "other", 1, types=("snow", "drs", "haze")), phase="val")
    assert data.rain_types == {"drs": 0, "haze": 4, "snow": 5}
    write_pair(rainrag_root, "drs", "more.png", encode(any_image()), encode(any_image()))
    assert len(build(rainrag_root)) == 4 * 4
    assert len(build(rainrag_root, sampling="natural")) == len(build(rainrag_root, phase="val")) == 13


def stock(root, monkeypatch, plan=None, **kwargs):
    from basicsr.data import transforms

    if plan is not None:
        numbers, coins = iter([plan.top, plan.left]), iter([plan.hflip, plan.vflip, plan.rot90])
        monkeypatch.setattr(transforms.random, "randint", lambda low, high: next(numbers))
        monkeypatch.setattr(transforms.random, "random", lambda: 0.0 if next(coins) else 1.0)
    opt = {"phase": "train", "gt_size": 24, "use_hflip": True, "use_rot": True} | kwargs
    return stock_data_set(root / "input", root / "target", **opt)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("mean_std", [{}, {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}])
def test_pixels_are_the_stock_data_sets(tmp_path, monkeypatch, suffix, mean_std):
    write_pair(tmp_path, "drs", f"a{suffix}", encode(any_image(97, 71), suffix), encode(any_image(97, 71, 1), suffix))
    data = build(tmp_path, **mean_std)
    for draw in range(20):
        plan = draw_augmentation(np.random.default_rng((0, draw)), 97, 71, 24, True, True)
        expected = stock(tmp_path / "drs", monkeypatch, plan, **mean_std)[0]
        found = data[SampleIndex(0, draw)]
        assert torch.equal(found["lq"], expected["lq"]) and torch.equal(found["gt"], expected["gt"]), plan
    whole = build(tmp_path, phase="val", **mean_std)[0]
    expected = stock(tmp_path / "drs", monkeypatch, phase="val", **mean_std)[0]
    assert torch.equal(whole["lq"], expected["lq"]) and torch.equal(whole["gt"], expected["gt"])


def test_crops_and_flips_cover_all_positions():
    plans = [draw_augmentation(np.random.default_rng((1, draw)), 10, 12, 8, True, True) for draw in range(400)]
    assert {(p.top, p.left) for p in plans} == {(y, x) for y in range(3) for x in range(5)}
    assert {(p.hflip, p.vflip, p.rot90) for p in plans} == {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    still = [draw_augmentation(np.random.default_rng((1, draw)), 10, 12, 8, False, False) for draw in range(20)]
    assert not any(p.hflip or p.vflip or p.rot90 for p in still)
    assert [(p.top, p.left) for p in still] == [(p.top, p.left) for p in plans[:20]]


def test_a_draw_is_the_same_for_any_number_of_workers_and_can_be_pickled(rainrag_root):
    data = build(rainrag_root, seed=5)
    indices = [SampleIndex(i % 12, draw) for draw, i in enumerate(range(5, 29))]
    epochs = [list(DataLoader(data, batch_size=3, sampler=indices, num_workers=n)) for n in (0, 1, 2)]
    assert all(same(a, b) for other in epochs[1:] for a, b in zip(epochs[0], other, strict=True))
    item = data[SampleIndex(0, 0)]
    assert same(item, pickle.loads(pickle.dumps(data))[SampleIndex(0, 0)])
    assert not same(item, data[SampleIndex(0, 1)])
    assert not same(item, build(rainrag_root, seed=6)[SampleIndex(0, 0)])


def test_with_plain_indices_epochs_and_workers_differ_but_a_seeded_run_repeats(rainrag_root):
    def run():
        torch.manual_seed(3)
        loader = DataLoader(build(rainrag_root), batch_size=12, num_workers=2)
        return [next(iter(loader))["lq"] for _ in range(2)]

    first, second = run(), run()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("prefetch", [{}, {"prefetch_mode": "cpu", "num_prefetch_queue": 2}])
def test_toolbox_builds_and_feeds_it(rainrag_root, prefetch):
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler

    opt = {"name": "mixed", "type": "DistilledMixedPairedDataset", "phase": "train", "scale": 1, "gt_size": 16}
    opt |= {"dataroot": str(rainrag_root), "io_backend": {"type": "disk"}, "batch_size_per_gpu": 4} | prefetch
    opt |= {"num_worker_per_gpu": 2, "use_shuffle": True, "dataset_enlarge_ratio": 2, "persistent_workers": True}
    assert {"dataroot", "manifest", "sampling", "batch_size_per_gpu"} <= DistilledMixedPairedDataset.OPTIONS
    before = repr(opt)
    data = build_dataset(opt)
    assert data.opt["name"] == "mixed" and repr(opt) == before
    loader = build_dataloader(data, opt, num_gpu=0, sampler=EnlargedSampler(data, 1, 0, 2), seed=1)
    batches = list(loader)
    assert len(batches) == 6 and batches[0]["lq"].shape == (4, 3, 16, 16)
    assert batches[0]["rain_type"].dtype == torch.int64
    counts = torch.bincount(torch.cat([b["rain_type"] for b in batches]), minlength=4)
    assert counts.tolist() == [6, 6, 6, 6]


def test_small_images_are_reflect_padded_and_it_is_said_once(tmp_path, warnings_of):
    """By the workers of all epochs, too."""
    write_pair(tmp_path, "drs", "a.png", encode(any_image(10, 40)), encode(any_image(10, 40)))
    data = build(tmp_path, use_hflip=False, use_rot=False)
    lq = torch.stack([data[SampleIndex(0, draw)]["lq"] for draw in range(3)])[0]
    assert warnings_of == [
        f"mixed: {tmp_path}/drs/input/a.png is 10×40, smaller than gt_size 24: it is reflect-padded, as are all such "
        "images (said once)."
    ]
    assert lq.shape == (3, 24, 24)
    assert torch.equal(lq[:, 10:19], lq[:, :9].flip(1)) and torch.equal(lq[:, 19:24], lq[:, 1:6])
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger("basicsr").addHandler(handler)
    try:
        loader = DataLoader(build(tmp_path), num_workers=1, multiprocessing_context="fork")
        assert [len(list(loader)) for _ in range(2)] == [1, 1]
    finally:
        logging.getLogger("basicsr").removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().count("reflect-padded") == 1


@pytest.mark.parametrize("name", broken_images())
@pytest.mark.parametrize("side", ["lq", "gt"])
def test_bad_images_stop_training_by_name(tmp_path, name, side):
    bad, text = broken_images()[name]
    good = encode(any_image(), "." + name.rpartition(".")[2])
    write_pair(tmp_path, "drs", name, bad if side == "lq" else good, bad if side == "gt" else good)
    folder = "input" if side == "lq" else "target"
    for phase in ("train", "val"):
        with pytest.raises(DataError, match=f"(?s)drs/{folder}/{name}.*({text})"):
            build(tmp_path, phase=phase, gt_size=48)[0]


def test_what_is_wrong_with_a_folder_is_named(tmp_path, rainrag_root):
    write_pair(tmp_path / "unequal", "drs", "a.png", encode(any_image(48, 64)), encode(any_image(48, 72)))
    (tmp_path / "empty").mkdir()
    for root, options, message in (
        (tmp_path / "unequal", {}, r"input/a.png is 48×64 .*target/a.png is 48×72; expected equal sizes"),
        (rainrag_root, {"rain_types": ["nrx"]}, r"no folder 'nrx' for this rain type.*Did you mean"),
        (tmp_path / "nowhere", {}, "nowhere: no such folder"),
        (tmp_path / "empty", {}, r"no rain type found.*an empty folder"),
    ):
        with pytest.raises(DataError, match=message):
            build(root, **options)[0]


def test_partners_may_differ_in_suffix_but_not_be_missing_or_ambiguous(tmp_path):
    inputs, targets = tmp_path / "drs/input", tmp_path / "drs/target"
    for folder, name in ((inputs, "a.JPG"), (targets, "a.png")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(encode(any_image(), "." + name[2:]))
    assert build(tmp_path, phase="val")[0]["lq_path"].endswith("a.JPG")
    (targets / "a.bmp").write_bytes(encode(any_image(), ".bmp"))
    with pytest.raises(DataError, match=r"a.bmp.*a.png|a.png.*a.bmp"):
        build(tmp_path)
    (targets / "a.bmp").rename(targets / "001.bmp")
    with pytest.raises(DataError, match=r"1 image.* in 'target' without a partner of the same name in 'input': 001"):
        build(tmp_path)
    (inputs / "a.JPG").unlink()
    with pytest.raises(DataError, match="drs/input: the folder holds no images"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gtsize": 3}, r"datasets \(mixed\).gtsize: unknown key. Did you mean 'gt_size'"),
        ({"gt_size": None}, "gt_size: is missing"),
        ({"gt_size": 0}, "gt_size: found 0; expected an integer ≥ 1"),
        ({"gt_size": "128"}, "gt_size: found the text '128'; expected an integer ≥ 1.*Write 128, without quotes"),
        ({"scale": 2}, "scale: found 2; expected 1"),
        ({"phase": "trian"}, "phase: found the text 'trian'; expected one of train, val, test. Did you mean 'train'"),
        ({"use_rot": "yes"}, "use_rot: found the text 'yes'; expected true or false"),
        ({"rain_types": "drs"}, "rain_types: found the text .drs.; expected a list of names"),
        ({"rain_types": ["drs", "drs"]}, "'drs' is listed twice"),
        ({"mean": [1, 2]}, r"mean: found the list \[1, 2\]; expected three numbers \(R, G, B\)"),
        ({"std": [1, 0, 1]}, r"std\[1\]: found 0; expected a number other than 0"),
        ({"seed": -1}, "seed: found -1; expected an integer ≥ 0"),
        ({"convert": ["gray"]}, r"convert\[0\]: found the text 'gray'; expected one of .* Did you mean 'grey'"),
        ({"io_backend": {"type": "disc"}}, "type: expected disk, lmdb, mmengine, found 'disc'. Did you mean 'disk'"),
        ({"io_backend": {"type": "disk", "client": 3}}, r"io_backend: unknown key\(s\) client; disk takes none"),
        ({"phase": "val", "pyramid": {"distilled": 1}}, "pyramid: is for training only"),
        ({"io_backend": {"type": "mmengine", "backend": "http"}}, "manifest: is missing"),
        ({"io_backend": {"type": "mmengine"}}, "manifest: is missing|needs the key backend"),
        ({"dataroot": 3}, "dataroot: found 3; expected a text"),
        ({"manifest": "m.jsonl"}, "dataroot and manifest are both given"),
        ({"sampling": "uniform"}, "sampling: expected balanced, natural"),
        ({"dataroot": None}, r"neither dataroot .* nor manifest"),
    ],
)  # fmt: skip
def test_wrong_options_say_key_found_and_expected(rainrag_root, change, text):
    with pytest.raises(OptionError, match=text):
        build(**({"dataroot": str(rainrag_root)} | change))


def manifest_of(root, **changes):
    records = [
        ManifestRecord(f"rainrag/{t}/input/{n:03d}.png", f"rainrag/{t}/target/{n:03d}.png", t, size=(48, 56), **changes)
        for t in ("nrd", "drs")
        for n in range(3)
    ]
    write_manifest(root.parent / "m.jsonl", records)
    return str(root.parent / "m.jsonl")


def test_manifest_gives_the_same_items_as_the_folder_or_says_why_not(rainrag_root):
    manifest = manifest_of(rainrag_root)
    data, from_folder = build(manifest=manifest), build(rainrag_root, rain_types=["nrd", "drs"])
    assert data.rain_types == {"drs": 0, "nrd": 3}
    assert all(same(data[SampleIndex(i, i)], from_folder[SampleIndex(i, i)]) for i in range(6))
    for side in ("input", "target"):
        (rainrag_root / f"nrd/{side}/000.png").write_bytes(encode(any_image(48, 64)))
    (rainrag_root / "nrd/input/001.png").unlink()
    for number, lie in enumerate([r"0.png is 48×64 .*m.jsonl says 48×56", "1.png: cannot be read: No such file"]):
        with pytest.raises(DataError, match=f"nrd/input/00{lie}"):
            data[number]
    with pytest.raises(DataError, match=r"no pair of rain type 'drd'; found \['drs', 'nrd'\]"):
        build(manifest=manifest, rain_types=["drd"])
    manifest_of(rainrag_root, keep=False)
    with pytest.raises(DataError, match="rejected every pair"):
        build(manifest=manifest)
    assert len(build(manifest=manifest, pyramid={"distilled": 4, "rest": 1})) == 6


@pytest.mark.parametrize(
    ("flags", "turned"),
    [
        ({"use_hflip": True, "use_rot": False}, lambda x: [x, x.flip(2)]),
        ({"use_hflip": False, "use_rot": True}, lambda x: [x, x.flip(1), x.mT, x.flip(1).mT]),
        ({"use_hflip": False, "use_rot": False}, lambda x: [x]),
    ],
)
def test_each_flag_allows_its_own_flips(tmp_path, flags, turned):
    write_pair(tmp_path, "drs", "a.png", encode(any_image(24, 24)), encode(any_image(24, 24, 1)))
    data, whole = build(tmp_path, **flags), build(tmp_path, phase="val")[0]
    items = [data[SampleIndex(0, draw)] for draw in range(40)]
    for side in ("lq", "gt"):
        found = {tuple(item[side].flatten().tolist()) for item in items}
        assert found == {tuple(x.flatten().tolist()) for x in turned(whole[side])}


@pytest.mark.parametrize(("given", "values"), [("mean", (0.1, 1.0)), ("std", (0.0, 0.1))])
def test_mean_or_std_alone(rainrag_root, given, values):
    plain = build(rainrag_root, phase="val")[0]["lq"]
    found = build(rainrag_root, phase="val", **{given: [0.1] * 3})[0]["lq"]
    torch.testing.assert_close(found, (plain - values[0]) / values[1])


def test_mmengine_s_backends_give_the_same_items_and_name_what_is_missing_or_wrong(rainrag_root, tmp_path):
    pytest.importorskip("mmengine")
    local, manifest = {"type": "mmengine", "backend": "local"}, str(rainrag_root / "m.jsonl")
    output = make_lmdb(rainrag_root, tmp_path / "lmdb")
    lmdb = {"type": "mmengine", "backend": "lmdb", "db_path": f"{output}/{{rain_type}}/{{side}}.lmdb"}
    names = [(t, f"00{n}.png") for t in RAIN_TYPES for n in range(3)]
    write_manifest(manifest, [ManifestRecord(f"{t}/input/{name}", f"{t}/target/{name}", t) for t, name in names])
    expected, root = data_set(rainrag_root), str(rainrag_root)
    for where in ({"dataroot": root}, {"manifest": manifest}, {"manifest": manifest, "dataroot": root}):
        assert same_pixels(data_set(io_backend=local, **where), expected)
    data = data_set(io_backend=lmdb, manifest=f"{output}/manifest.jsonl")
    assert same_pixels(data, expected) and same_pixels(pickle.loads(pickle.dumps(data)), data)
    batches = DataLoader(data, batch_size=1, num_workers=2)
    assert all(torch.equal(batch["lq"][0], item["lq"]) for batch, item in zip(batches, data, strict=True))
    write_manifest(manifest, [ManifestRecord("drs/input/009.png", "drs/target/009.png", "drs")])
    for backend, message in (
        (local, r"drs/input/009.png: cannot be read through mmengine"),
        (lmdb, r"drs/input/009.png: mmengine's backend 'lmdb' has no such entry"),
    ):
        with pytest.raises(DataError, match=message):
            data_set(io_backend=backend, manifest=manifest)[0]
    for wrong in ({"backend": "lokal"}, {"colour": 1}):
        with pytest.raises(OptionError, match="mmengine refuses"):
            data_set(io_backend=local | wrong, manifest=manifest)
