"""Ray Data gives the local engine's bytes: a Ray cluster of two workers is really started."""

from pathlib import Path

import pytest

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.errors import OptionError

RESULTS = ("manifest.jsonl", "votes.jsonl", "statistics.json", "meta_info/index.json")


def test_same_bytes_as_the_local_engine_and_errors_come_through(settings, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirain_plugin[ray]'")
    settings["shard_size"] = 4
    Pipeline(parse_options({**settings, "output": str(tmp_path / "local")}, "t"), quiet=True).run()
    options = {**settings, "output": str(tmp_path / "ray"), "engine": {"type": "ray", "workers": 2}}
    bad = {**options, "embedder": {"type": "BrokenEmbedder"}}
    with pytest.raises(DistillError, match="broken on purpose"):
        Pipeline(parse_options(bad, "t"), quiet=True).run()
    made = Pipeline(parse_options(options, "t"), quiet=True).run(restart=True).made
    assert made == {"references": 4, "candidates": 4, "duplicates": 1, "index": 1, "retrieval": 4, "votes": 4}
    for name in RESULTS:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    for path in sorted((tmp_path / "local" / "work").glob("*/*/*")):
        if path.name != "candidates.jsonl":  # names the other run's folder
            assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(tmp_path / "local")).read_bytes(), path
    assert Path(tmp_path / "ray").is_dir()


def test_missing_ray_is_named_with_its_pip_name(settings, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match=r"pip install 'ray\[data\]' \(or 'unirain_plugin\[ray\]'\)"):
        Pipeline(parse_options({**settings, "engine": {"type": "ray"}}, "t"), quiet=True).run()
