"""Pairs of ``synthesize-rain --vary-rain``: what is drawn, dull, soft or crossed by bars, and what its target is."""

from __future__ import annotations

import numpy as np
import pytest
from photo_files import picture, save

from unirain_plugin.rain import pair_files
from unirain_plugin.rain.command import main
from unirain_plugin.rain.light import to_codes, to_linear
from unirain_plugin.rain.pair_files import read_photo


def dull_pairs(tmp_path, monkeypatch, *options, rain_type="drs") -> tuple[float, list]:
    """Share of the pairs whose target is not the photograph; light of photograph, rainy picture and target of each."""
    for other in ("_BARS_SHARE", "_SOFT_SHARE", "_DRAWN_SHARE", "_SOFT_RAIN_SHARE"):
        monkeypatch.setattr(pair_files, other, 0)
    photo = picture(64, 64, seed=4) // 3 + 80  # of little contrast, so that blurring changes little
    save(tmp_path / "photos" / "a.png", photo[..., ::-1])
    arguments = ["--input", str(tmp_path / "photos"), "--types", rain_type, "--per-image", "60", "--vary-rain"]
    main([*arguments, *options, "--output", str(tmp_path / "out")])
    files = sorted((tmp_path / "out" / rain_type / "input").iterdir())
    pairs = [(read_photo(f), read_photo(tmp_path / "out" / rain_type / "target" / f.name)) for f in files]
    dull = [(to_linear(photo), to_linear(lq), to_linear(gt)) for lq, gt in pairs if not np.array_equal(gt, photo)]
    return len(dull) / len(pairs), dull


def test_some_streaks_of_wider_ranges_are_dull_and_their_targets_without_rain_and_lighter(tmp_path, monkeypatch):
    share, dull = dull_pairs(tmp_path, monkeypatch)
    assert 0.22 < share < 0.48
    for photo, lq, gt in dull:
        ratio = gt / photo
        assert 1.6 * 0.34 < ratio.mean() < 1.6 * 0.66
        assert np.abs(np.median(ratio) / ratio - 1).mean() < 0.05, "rain is left in a target"
        assert np.quantile(lq / gt, 0.02) == pytest.approx(1 / 1.6, abs=0.12), "where there is least rain"


def test_some_streaks_of_wider_ranges_are_soft_before_a_dark_picture_and_only_to_become_a_tenth_brighter(tmp_path):
    save(tmp_path / "photos" / "a.png", picture(120, 120, seed=4))
    arguments = ["--input", str(tmp_path / "photos"), "--types", "drs", "drd", "--per-image", "60", "--size", "64"]
    main([*arguments, "--vary-rain", "--output", str(tmp_path / "out")])
    lifted = {}
    for kind in ("drs", "drd"):
        files = sorted((tmp_path / "out" / kind / "input").iterdir())
        pairs = [(read_photo(f), read_photo(tmp_path / "out" / kind / "target" / f.name)) for f in files]
        assert not any(np.array_equal(lq, gt) for lq, gt in pairs)
        lifted[kind] = sum(np.array_equal(to_codes(to_linear(lq) * np.float32(1.1)), gt) for lq, gt in pairs) / 60
    assert 0.15 < lifted["drs"] < 0.35 and lifted["drd"] == 0


def test_drops_are_not_made_dull(tmp_path, monkeypatch):
    assert dull_pairs(tmp_path, monkeypatch, rain_type="drd") == (0, [])


@pytest.mark.parametrize(("given", "least", "most"), [(0, 0, 0), (1, 0.35, 0.65)])
def test_the_share_of_dull_pictures_is_given(tmp_path, monkeypatch, given, least, most):
    share, _ = dull_pairs(tmp_path, monkeypatch, "--dull-share", str(given))
    assert least <= share <= most


@pytest.mark.parametrize(("rain_type", "draw"), [("nrs", "draw_lines"), ("drd", "draw_drops")])
def test_some_rain_of_wider_ranges_is_drawn_on_the_clean_picture(tmp_path, monkeypatch, rain_type, draw):
    monkeypatch.setattr(pair_files, "_SOFT_RAIN_SHARE", 0)
    original, drawn = getattr(pair_files, draw), []
    monkeypatch.setattr(pair_files, draw, lambda clean, rng: drawn.append(clean) or original(clean, rng))
    save(tmp_path / "photos" / "a.png", picture(64, 64, seed=4))
    arguments = ["--input", str(tmp_path / "photos"), "--types", rain_type, "--per-image", "60", "--dull-share", "0"]
    main([*arguments, "--vary-rain", "--dry-share", "0.3", "--output", str(tmp_path / "out")])
    targets = {read_photo(file).tobytes() for file in (tmp_path / "out" / rain_type / "target").iterdir()}
    assert 0.05 < len(drawn) / 60 < 0.25  # of the 0.35 that are rainy and wide
    assert all(clean.tobytes() in targets for clean in drawn)


def test_some_dry_pictures_of_wider_ranges_are_dull(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "_BARS_SHARE", 0)  # they change a picture's light as well
    photo = picture(64, 64, seed=4)
    save(tmp_path / "photos" / "a.png", photo)
    arguments = ["--input", str(tmp_path / "photos"), "--types", "drd", "--per-image", "60", "--dry-share", "1"]
    main([*arguments, "--vary-rain", "--output", str(tmp_path / "out")])
    light = []
    for file in sorted((tmp_path / "out/drd/input").iterdir()):
        lq = read_photo(file)
        np.testing.assert_array_equal(lq, read_photo(tmp_path / "out/drd/target" / file.name))
        light.append(to_linear(lq).mean() / to_linear(photo).mean())
    assert 0.2 < np.mean(np.array(light) < 0.7) < 0.5
    assert all(value < 0.7 or value > 0.95 for value in light)


def test_bars_go_through_some_photographs_of_both_pictures(tmp_path, monkeypatch):
    save(tmp_path / "photos" / "a.png", picture(64, 64, seed=4))
    photo = read_photo(tmp_path / "photos" / "a.png")
    monkeypatch.setattr(pair_files, "_SOFT_SHARE", 0)
    arguments = ["--input", str(tmp_path / "photos"), "--types", "drd", "--per-image", "60"]
    main([*arguments, "--vary-rain", "--output", str(tmp_path / "out")])
    crossed = []
    for file in sorted((tmp_path / "out/drd/input").iterdir()):
        lq, gt = (read_photo(f).astype(int) for f in (file, tmp_path / "out/drd/target" / file.name))
        bars = (gt != photo).any(axis=2)
        crossed.append(bars.any())
        strong = (np.abs(gt - photo).max(axis=2) > 60) & bars
        if strong.sum() > 50:  # drops cover a part of the bars, not all
            assert np.median(np.abs(lq - gt)[strong]) < np.median(np.abs(lq - photo)[strong])
    assert 0.15 < np.mean(crossed) < 0.45
