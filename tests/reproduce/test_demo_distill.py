"""The demo: planted pairs go, rendered ones stay, LMDBs hold what is kept; types that did not gain are told."""

import shutil
from dataclasses import replace

import pytest

from unirain_plugin.compare.run import run
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.study import demo
from unirain_plugin.study.data import GOOD
from unirain_plugin.study.demo import comparison, plant_and_distil, report_losers


def test_planted_pairs_are_distilled_away(tmp_path):
    arguments = ["--types", "drs", "nrs", "--split", "train", "--per-image", "2", "--size", "192", "--seed", "0"]
    synthesize_rain.main([*arguments, "--output", str(tmp_path / "train")])
    text = plant_and_distil(tmp_path / "train", tmp_path / "out", workers=0)
    records = list(read_manifest(tmp_path / "out" / "distilled" / "manifest.jsonl"))
    good = [record.keep for record in records if record.source == GOOD]
    planted = [record.keep for record in records if record.source != GOOD]
    assert len(planted) == 12 and sum(planted) <= 2
    assert sum(good) >= 0.7 * len(good)
    assert f"{GOOD:<18} {len(good):>6} {sum(good):>6}" in text
    kept = list(read_manifest(tmp_path / "out" / "lmdb" / "manifest.jsonl"))
    assert len(kept) == sum(good) + sum(planted)


def test_types_that_did_not_gain_are_told(rainrag_root, tmp_path, capsys):
    """'Restored' images that are the clean ones in drs, of which the mean is infinite, and the rainy ones in nrd."""
    (tmp_path / "demo").mkdir()
    shutil.copytree(rainrag_root, tmp_path / "demo/data/val")
    for rain_type, side in (("drs", "target"), ("nrd", "input")):
        (tmp_path / "results" / rain_type).mkdir(parents=True)
        for path in (rainrag_root / rain_type / side).iterdir():
            shutil.copy(path, tmp_path / "results" / rain_type / f"{path.stem}_restored.png")
    options = comparison(tmp_path / "demo", tmp_path / "results", ["drs", "nrd"])
    alone = replace(options, models=options.models[:1], figure=replace(options.figure, enabled=False))
    assert report_losers(run(alone, bar=False)) == 1
    assert "restored PSNR does not beat the rainy input on: nrd\n" in capsys.readouterr().err
    shutil.copytree(rainrag_root / "nrd/target", tmp_path / "results/nrd", dirs_exist_ok=True)
    for path in (tmp_path / "results/nrd").glob("???.png"):
        path.replace(path.with_stem(f"{path.stem}_restored"))
    assert report_losers(run(alone, bar=False)) == 0 and not capsys.readouterr().err


@pytest.mark.parametrize(("types", "relative"), [(["drs", "haze"], True), (["drs", "nrd"], False)])
def test_with_haze_errors_count_relative_to_the_images_own(tmp_path, monkeypatch, types, relative):
    trained = []
    for name in ("make_data", "plant_and_distil", "comparison", "run", "markdown"):
        monkeypatch.setattr(demo, name, lambda *_, **__: "")
    monkeypatch.setattr(demo, "_run", lambda module, options, root, overrides: trained.extend(overrides))
    with pytest.raises(AttributeError):  # there is no outcome to print
        demo.main(["--output", str(tmp_path / "demo"), "--types", *types])
    assert ("train:pixel_opt:base:type=LogMSELoss" in trained) == relative
