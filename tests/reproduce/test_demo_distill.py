"""The demo's distillation step: planted pairs go, rendered ones stay, LMDBs hold what is kept."""

from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.rain import command as synthesize_rain
from unirain_plugin.study.data import GOOD
from unirain_plugin.study.demo import plant_and_distil


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
