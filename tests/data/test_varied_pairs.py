"""Pairs of ``synthesize-rain --vary-rain``: kinds of real rain, and photographs changed first in both images."""

import numpy as np
import pytest
from data_images import photo, save

from unirain_plugin.rain import pair_files
from unirain_plugin.rain.command import main
from unirain_plugin.rain.pair_files import read_photo
from unirain_plugin.rain.params import REAL_RAIN
from unirain_plugin.rain.variation import add_bars


def pairs_of(tmp_path, rain_type, *options) -> list[tuple[np.ndarray, np.ndarray]]:
    """60 pairs of one photograph: rainy and clean image."""
    save(tmp_path / "photos" / "a.png", photo(64, 64, seed=4))
    arguments = ["--input", str(tmp_path / "photos"), "--types", rain_type, "--per-image", "60", "--vary-rain"]
    main([*arguments, *options, "--output", str(tmp_path / "out")])
    files = sorted((tmp_path / "out" / rain_type / "input").iterdir())
    return [(read_photo(f), read_photo(tmp_path / "out" / rain_type / "target" / f.name)) for f in files]


@pytest.mark.parametrize("rain_type", ["drs", "nrd"])
def test_most_rain_is_of_one_of_the_kinds_that_real_rain_shows(tmp_path, monkeypatch, rain_type):
    used, render = [], pair_files.render_rain
    monkeypatch.setattr(pair_files, "render_rain", lambda *args: used.append(args[3]) or render(*args))
    pairs_of(tmp_path, rain_type, "--dull-share", "0.8")
    real = [params for params in used if params is not None]
    assert 0.6 < len(real) / 60 < 0.95
    assert all(params.camera.dark_share == 0.8 for params in real)
    drawn = [[kind.streaks == params.streaks and kind.drops == params.drops for params in real].count(True)
             for kind in REAL_RAIN[rain_type]]  # fmt: skip
    assert sum(drawn) == len(real) and min(drawn) > 0


def test_dry_images_are_their_own_targets_whatever_was_done_to_the_photograph(tmp_path):
    pairs = pairs_of(tmp_path, "drd", "--dry-share", "1")
    assert all(np.array_equal(lq, gt) for lq, gt in pairs)
    plain = read_photo(tmp_path / "photos" / "a.png")
    assert 0.5 < np.mean([not np.array_equal(gt, plain) for _, gt in pairs]) < 0.97


def test_bars_go_through_some_photographs_of_both_images(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "CHANGES", {add_bars: 0.3})
    monkeypatch.setattr(pair_files, "_REAL_SHARE", 0)  # real rain may be compressed, in both images
    crossed, pairs = [], pairs_of(tmp_path, "drd")
    plain = read_photo(tmp_path / "photos" / "a.png")
    for lq, gt in ((lq.astype(int), gt.astype(int)) for lq, gt in pairs):
        bars = (gt != plain).any(axis=2)
        crossed.append(bars.any())
        strong = (np.abs(gt - plain).max(axis=2) > 60) & bars
        if strong.sum() > 50:  # drops cover a part of the bars, not all
            assert np.median(np.abs(lq - gt)[strong]) < np.median(np.abs(lq - plain)[strong])
    assert 0.15 < np.mean(crossed) < 0.45
