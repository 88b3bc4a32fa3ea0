"""The command: end to end, repeatable, resumable, and clear about what it cannot use."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_images import encode, encode_pil, photo, save

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain import pair_files
from unirain_plugin.rain.command import build_parser, main
from unirain_plugin.rain.pair_files import cut, output_names, read_photo
from unirain_plugin.rain.params import REAL_RAIN
from unirain_plugin.rain.scene import SCENES
from unirain_plugin.rain.variation import CHANGES, add_bars
from unirain_plugin.rain_types import KNOWN_TYPES
from unirain_plugin.support.files import _swept

SCRIPT = Path(__file__).parents[2] / "scripts" / "data_preparation" / "synthesize_rain.py"


@pytest.fixture()
def photos(tmp_path):
    folder = tmp_path / "photos"
    save(folder / "straße im regen.png", photo(seed=1))
    save(folder / "unterwegs" / "雨.jpg", photo(48, 56, seed=2))
    (folder / "notes.txt").write_text("no photograph")
    return folder


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def pairs_of(folder):
    """Rainy and clean images of one rain type, in the order of their names."""
    files = sorted((folder / "input").iterdir())
    return [(read_photo(file), read_photo(folder / "target" / file.name)) for file in files]


def made(source, out, rain_type, *arguments):
    """The pairs of one rain type that the command makes."""
    main(["--input", str(source), "--output", str(out), "--types", rain_type, *arguments])
    return pairs_of(out / rain_type)


def test_end_to_end_as_a_script_with_non_ascii_names(photos, tmp_path):
    out = tmp_path / "нова тека"
    arguments = ["--input", str(photos), "--output", str(out), "--per-image", "2", "--workers", "2", "--types"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments, *KNOWN_TYPES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "24 pairs of 2 photographs" in done.stdout and "24/24" in done.stderr  # the progress bar
    names = {f"{stem}_{k}.png" for stem in ("straße im regen", "unterwegs__雨") for k in range(2)}
    assert json.loads((out / "synthesis.json").read_text())["pairs"]["types"] == list(KNOWN_TYPES)
    for rain_type in KNOWN_TYPES:
        for side in ("input", "target"):
            assert {p.name for p in (out / rain_type / side).iterdir()} == names
        for name in names:
            lq, gt = (read_photo(out / rain_type / side / name) for side in ("input", "target"))
            assert lq.shape == gt.shape and not np.array_equal(lq, gt)
    clean = read_photo(out / "drd" / "target" / "straße im regen_1.png")
    np.testing.assert_array_equal(clean, photo(seed=1)[..., ::-1])


def test_result_depends_on_nothing_but_photo_type_seed(photos, tmp_path, capsys):
    base = ["--input", str(photos), "--size", "40", "--seed", "7"]
    main([*base, "--output", str(tmp_path / "a"), "--per-image", "2"])
    whole = tree(tmp_path / "a")
    main([*base, "--output", str(tmp_path / "b"), "--types", "nrd", "drs", "--workers", "2"])
    for name, data in tree(tmp_path / "b").items():
        assert whole[name] == data
    (photos / "straße im regen.png").unlink()
    save(photos / "another.png", photo(seed=3))
    main([*base, "--output", str(tmp_path / "c")])
    kept = {n: d for n, d in tree(tmp_path / "c").items() if "雨" in n}
    assert len(kept) == 8 and all(whole[n] == d for n, d in kept.items())
    main([*base[:-1], "8", "--output", str(tmp_path / "d")])
    assert all(data != whole.get(name) for name, data in tree(tmp_path / "d").items())
    assert "4 pairs of 2 photographs, 2 rain types" in capsys.readouterr().out.splitlines()[1]


def test_sizes_are_kept_and_recorded(photos, tmp_path):
    pairs = made(photos, tmp_path / "a", "drs", "--size", "36", "44", "--seed", "5")
    assert {image.shape for pair in pairs for image in pair} == {(36, 44, 3)}
    settings = json.loads((tmp_path / "a" / "synthesis.json").read_text())
    assert settings["seed"] == 5 and settings["size"] == [36, 44]
    with pytest.raises(DataError, match=r"雨.jpg: the photograph has 48×56 pixels, less than --size 50 50"):
        made(photos, tmp_path / "b", "drs", "--size", "50")
    whole = photo(100, 200)
    assert cut(whole, None, np.random.default_rng(0)) is whole
    fields = [cut(whole, (50, 50), np.random.default_rng(s)) for s in range(20)]
    assert all(field.shape == (50, 50, 3) for field in fields)
    np.testing.assert_array_equal(cut(whole, (100, 200), np.random.default_rng(0)), whole)  # never enlarged


def test_a_share_of_the_pairs_is_dry_whatever_was_done_to_the_photograph(tmp_path):
    source = save(tmp_path / "photos" / "a.png", photo(40, 40, seed=4)).parent
    for number, (arguments, least, most) in enumerate(
        [([], 0, 0.02), (["--vary-rain", "--dry-share", "0.25"], 0.1, 0.4), (["--vary-rain", "--dry-share", "1"], 1, 1)]
    ):
        pairs = made(source, tmp_path / str(number), "drd", "--per-image", "40", *arguments)
        assert least <= np.mean([np.array_equal(lq, gt) for lq, gt in pairs]) <= most
    plain = read_photo(source / "a.png")
    assert 0.5 < np.mean([not np.array_equal(gt, plain) for _, gt in pairs]) < 0.97


@pytest.mark.parametrize("rain_type", ["drs", "nrd"])
def test_most_rain_is_of_one_of_the_kinds_that_real_rain_shows(tmp_path, monkeypatch, rain_type):
    source = save(tmp_path / "photos" / "a.png", photo(40, 40, seed=4)).parent
    used, render = [], pair_files.render_rain
    monkeypatch.setattr(pair_files, "render_rain", lambda *args: used.append(args[3]) or render(*args))
    made(source, tmp_path / "out", rain_type, "--per-image", "60", "--vary-rain", "--dull-share", "0.8")
    real = [params for params in used if params is not None]
    assert 0.6 < len(real) / 60 < 0.95
    assert all(params.camera.dark_share == 0.8 for params in real)
    drawn = [[kind.streaks == params.streaks and kind.drops == params.drops for params in real].count(True)
             for kind in REAL_RAIN[rain_type]]  # fmt: skip
    assert sum(drawn) == len(real) and min(drawn) > 0


def test_the_manual_and_the_help_name_the_shares():
    manual = (Path(__file__).parents[2] / "unirain_plugin/docs/data.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `--vary-rain` .*", manual, re.M)
    assert [int(share) / 100 for share in re.findall(r"\((\d+) %\)", row)] == list(CHANGES.values())
    assert {params.camera.dark_share for params in REAL_RAIN["drs"]} == {0, 0.3, 0.9}
    assert "| 0.3, but 0.9 of smeared noise before more contrast and none of some others |" in manual
    told = " ".join(build_parser().format_help().split())
    assert "(default: 0.3, but 0.9 of smeared noise, none of some others)" in told


def test_bars_go_through_some_photographs_of_both_images(tmp_path, monkeypatch):
    source = save(tmp_path / "photos" / "a.png", photo(64, 64, seed=4)).parent
    monkeypatch.setattr(pair_files, "CHANGES", {add_bars: 0.3})
    monkeypatch.setattr(pair_files, "_REAL_SHARE", 0)  # real rain may be compressed, in both images
    plain, crossed = read_photo(source / "a.png"), []
    for pair in made(source, tmp_path / "out", "drd", "--per-image", "60", "--vary-rain"):
        lq, gt = (image.astype(int) for image in pair)
        bars = (gt != plain).any(axis=2)
        crossed.append(bars.any())
        strong = (np.abs(gt - plain).max(axis=2) > 60) & bars
        if strong.sum() > 50:  # drops cover a part of the bars, not all
            assert np.median(np.abs(lq - gt)[strong]) < np.median(np.abs(lq - plain)[strong])
    assert 0.15 < np.mean(crossed) < 0.45


def test_rain_of_larger_images(tmp_path):
    source = save(tmp_path / "photos" / "large.png", photo(320, 320, seed=4)).parent
    thickness = []
    for scale in ("1", "4"):
        thickest = []
        arguments = ["--per-image", "40", "--size", "64", "--rain-scale", scale]
        for lq, gt in made(source, tmp_path / scale, "drd", *arguments):
            assert lq.shape == gt.shape == (64, 64, 3)
            rain = (lq != gt).any(axis=2)
            thickest.append(cv2.distanceTransform(rain.astype(np.uint8), cv2.DIST_L2, 3).max())
        thickness.append(np.quantile(thickest, 0.9))
    assert thickness[1] > 1.5 * thickness[0]


def test_other_colours_same_forms(photos, tmp_path):
    (_, plain), *_ = made(photos, tmp_path / "a", "drd", "--per-image", "3")
    pairs = made(photos, tmp_path / "b", "drd", "--per-image", "3", "--vary-colours")[:3]  # of the first photograph
    with pytest.raises(DataError, match=r"vary_colours False → True"):
        made(photos, tmp_path / "a", "drd", "--per-image", "3", "--vary-colours", "--resume")
    assert all(np.abs(gt.astype(int) - plain).mean() > 3 for _, gt in pairs)
    assert (pairs[0][0] == pairs[0][1]).all(axis=2).mean() > 0.2  # the colours have changed in both images
    ranks = [np.argsort(np.argsort(gt.mean(axis=2).ravel())) for gt in (plain, *(gt for _, gt in pairs))]
    assert all(np.corrcoef(ranks[0], rank)[0, 1] > 0.4 for rank in ranks[1:])


def test_embedded_photographs_by_default(tmp_path):
    for split, names in (
        ("train", ("astronaut", "coffee", "motorcycle_left", "motorcycle_right")),
        ("held-out", ("chelsea", "rocket")),
    ):
        main(["--output", str(tmp_path / split), "--size", "64", "--types", "drs", "--split", split])
        assert {p.name for p in (tmp_path / split / "drs" / "input").iterdir()} == {f"{n}_0.png" for n in names}


def test_existing_output_is_refused_resumed_or_made_anew(photos, tmp_path):
    out = tmp_path / "out"
    base = ["--input", str(photos), "--output", str(out), "--types", "drs", "drd"]
    main(base)
    first = tree(out)
    with pytest.raises(DataError, match=r"is not empty. Name another folder, or add --overwrite"):
        main(base)
    assert tree(out) == first
    lost = out / "drd" / "input" / "unterwegs__雨_0.png"
    lost.unlink()
    (lost.parent / ".0123456789ab.tmp-unirain.png").write_bytes(b"left by a killed run")
    _swept.clear()
    kept = out / "drs" / "input" / "unterwegs__雨_0.png"
    before = kept.stat().st_mtime_ns
    main([*base, "--resume"])
    assert tree(out) == first and kept.stat().st_mtime_ns == before
    assert not list(out.rglob(".*"))
    with pytest.raises(DataError, match=r"made with other settings .seed 0 → 3"):
        main([*base, "--resume", "--seed", "3"])
    assert tree(out) == first
    others = tmp_path / "others"
    shutil.copytree(photos, others)
    moved = [*base, "--input", str(others), "--resume"]  # the same photographs elsewhere
    main(moved)
    assert tree(out) == first
    exchanged = next(path for path in others.rglob("*") if path.is_file())
    save(exchanged, photo(seed=7))
    with pytest.raises(DataError, match=rf"holds pairs of another photograph than {re.escape(str(exchanged))}; use"):
        main(moved)
    assert tree(out) == first
    main([*base[:-1], "--overwrite", "--seed", "3"])
    again = tree(out)
    assert set(again) == {name for name in first if name.startswith("drs")} and not set(again.values()) & set(
        data for name, data in first.items() if "input" in name
    )
    assert not (out / "drd").exists()


def test_a_renderer_of_ones_own_that_fails_is_told_with_the_photograph(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(SCENES, "drs", lambda *_: 1 / 0)
    told = r"renderer of 'drs' failed on .*\.\w+: ZeroDivisionError: division by zero \(.*synthesize_rain_command\.py:"
    with pytest.raises(OptionError, match=told):
        made(photos, tmp_path / "out", "drs")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_killed_in_the_middle_is_resumed(photos, tmp_path, number):
    base = ["--input", str(photos), "--types", "drs", "nrd", "--per-image", "20"]
    out = tmp_path / "killed"
    command = [sys.executable, str(SCRIPT), *base, "--output", str(out), "--workers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        while len(list(out.rglob("*.png"))) < 10:
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, number)  # as a terminal sends Ctrl-C: to the workers as well
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert number == signal.SIGKILL or ("go on with --resume" in errors and "Traceback" not in errors)
    assert 0 < len(tree(out)) < 160
    main([*base, "--output", str(out), "--resume"])
    main([*base, "--output", str(tmp_path / "whole")])
    assert tree(out) == tree(tmp_path / "whole") and not list(out.rglob(".*"))


def test_foreign_files_are_never_touched(photos, tmp_path):
    out = tmp_path / "out"
    precious = save(out / "drs" / "input" / "mine.png", photo())
    for option in ("--overwrite", "--resume"):
        with pytest.raises(DataError, match=r"was not made by this command .synthesis.json is missing"):
            made(photos, out, "drs", option)
    assert tree(out) == {"drs/input/mine.png": precious.read_bytes()}
    with pytest.raises(DataError, match="is a file; expected a folder"):
        made(photos, precious, "drs")
    out = tmp_path / "made"
    made(photos, out, "drs", "--size", "32")
    made(photos, out, "nrd", "--size", "32", "--per-image", "2", "--resume")
    for name in ("drs/input/mine.png", "nrd/target/mine_0.png"):
        save(out / name, photo())
    made(photos, out, "drd", "--size", "32", "--overwrite")
    kept = {name for name in tree(out) if not name.startswith("drd")}
    assert kept == {"drs/input/mine.png", "nrd/target/mine_0.png"}, "what was made goes, and nothing else"


WRONG = [
    (
        ["--types", "drs", "ndr"],
        "--types: 'ndr' is unknown; expected some of drs, drd, nrs, nrd, snow, haze. Did you mean",
    ),
    (["--types", "drs", "drs"], "--types: drs drs: something is listed twice"),
    (["--per-image", "0"], "--per-image: found 0; expected at least 1"),
    (["--seed", "-1"], "--seed: found -1; expected at least 0"),
    (["--workers", "0"], "--workers: found 0; expected at least 1"),
    (["--size", "16"], "--size: found 16; expected at least 32 pixels"),
    (["--size", "64", "64", "64"], "--size: found 3 numbers; expected height and width"),
    (["--dry-share", "1.5"], "--dry-share: found 1.5; expected a share from 0 to 1"),
    (["--dull-share", "0.5"], "--dull-share: needs --vary-rain"),
    (["--vary-rain", "--dull-share", "-0.1"], "--dull-share: found -0.1; expected a share from 0 to 1"),
    (["--rain-scale", "0.5", "--size", "64"], "--rain-scale: found 0.5; expected a number of at least 1"),
    (["--rain-scale", "nan", "--size", "64"], "--rain-scale: found nan; expected a number of at least 1"),
    (["--rain-scale", "2"], "--rain-scale: needs --size"),
    (["--split", "train"], "--split divides the embedded photographs"),
    (["--convert", "gray"], "--convert: 'gray' is unknown; .* Did you mean 'grey'"),
    (["--output", "photos/o"], "lies inside --input"),
    (["--output", ".", "--overwrite"], "--input .* lies inside --output"),
    (["--input", "absent"], "no such folder; expected a folder of photographs"),
    (["--input", "photos/notes.txt"], "is a file; expected a folder of photographs"),
    (["--input", "empty"], r"empty: holds no photographs; expected files ending in .*\.png"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(photos, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    error = DataError if "--input" in arguments else OptionError
    with pytest.raises(error, match=message):
        main(["--input", "photos", "--output", "o", *arguments])
    with pytest.raises(OptionError, match="Did you mean 'held-out'"):
        main(["--output", "o", "--split", "heldout"])
    assert not (tmp_path / "o").exists() and not (photos / "o").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("grey.png", encode(np.zeros((64, 64), np.uint8)), "is grey"),
        ("glass.png", encode(np.zeros((64, 64, 4), np.uint8)), "has an alpha channel"),
        ("tiny.png", encode(photo(20, 64)), "20×64 pixels; expected at least 32×32"),
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"no image at all", "cannot be decoded"),
        ("half.jpg", encode(photo(200, 200), ".jpg")[:4000], "truncated"),
    ],
)
def test_unusable_photographs_are_named(photos, tmp_path, capsys, name, data, message):
    (photos / name).write_bytes(data)
    arguments = ["--input", str(photos), "--output", str(tmp_path / "o"), "--types", "drs"]
    with pytest.raises(DataError, match=rf"(?s){name}.*{message}.*--skip-bad"):
        main(arguments)
    assert main([*arguments, "--resume", "--skip-bad"]) == 0
    text = capsys.readouterr()
    assert "2 pairs of 2 photographs, 1 rain types, 1 photographs left out" in text.out
    assert f"{name}:" in text.err.split("left out: ")[1]
    for path in photos.rglob("*.*g"):
        if path.name != name:
            path.unlink()
    with pytest.raises(DataError, match="none of the 1 photographs could be used"):
        main([*arguments, "--overwrite", "--skip-bad"])


def test_conversions(tmp_path):
    folder, out = tmp_path / "p", tmp_path / "o"
    save(folder / "deep.png", photo().astype(np.uint16) * 257)
    (folder / "turned.jpg").write_bytes(encode_pil(photo(40, 70), orientation=6))
    (_, deep), (_, turned) = made(folder, out, "drs")
    np.testing.assert_array_equal(deep, photo()[..., ::-1])
    assert turned.shape == (70, 40, 3)
    for name in ("deep.png", "turned.jpg"):
        with pytest.raises(DataError, match=name):
            made(folder, tmp_path / name, "drs", "--convert")
        (folder / name).unlink()
        save(folder / "good.png", photo())
    save(folder / "glass.png", np.dstack([photo(), np.full((60, 80), 255, np.uint8)]))
    (_, glass), _ = made(folder, tmp_path / "alpha", "drs", "--convert", "alpha")
    np.testing.assert_array_equal(glass, photo()[..., ::-1])


def test_output_names_are_unique():
    assert output_names(["a/b.jpg", "c.png"]) == ["a__b", "c"]
    assert output_names(["b.jpg", "b.png", "B.webp"]) == ["b_jpg", "b_png", "B_webp"]
    with pytest.raises(DataError, match=r"B.png and b.png would both be written as 'B_png'"):
        output_names(["b.png", "B.png"])
