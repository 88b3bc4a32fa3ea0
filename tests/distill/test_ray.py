"""Ray Data gives the local engine's bytes: a Ray cluster of two workers is really started."""

import numpy as np
import pytest
from runs import contents, run

from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.errors import OptionError


def test_same_bytes_as_the_local_engine(settings, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirain_plugin[ray]'")
    settings["shard_size"] = 4
    run(settings, output=str(tmp_path / "local"))
    made = run(settings, output=str(tmp_path / "ray"), engine={"type": "ray", "workers": 2}).made
    assert made == {"references": 4, "candidates": 4, "duplicates": 1, "index": 1, "retrieval": 4, "votes": 4}
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    for path in sorted((tmp_path / "local" / "work").glob("*/*/*")):
        if path.name != "candidates.jsonl":  # names the other run's folder
            assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(tmp_path / "local")).read_bytes(), path


def test_a_user_s_mistake_comes_back_as_text(settings, tmp_path, monkeypatch):
    pytest.importorskip("ray.data")
    monkeypatch.chdir(tmp_path)  # an actor goes into the folder that it is told; here it comes back
    from unirain_plugin.distill.workers import ShardMaker

    options = parse_options({**settings, "embedder": {"type": "BrokenEmbedder"}}, "t")
    pipeline = Pipeline(options, quiet=True)
    pipeline.workspace.root.mkdir(parents=True)
    maker = ShardMaker(pipeline._job(restart=False), str(tmp_path), [])
    answer = maker({"unit": np.array(['[["references", 0]]'], dtype=object)})
    assert answer["error"].tolist() == ["broken on purpose"] and answer["made"].tolist() == ["[]"]


def test_missing_ray_is_named_with_its_pip_name(settings, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match=r"pip install 'ray\[data\]' \(or 'unirain_plugin\[ray\]'\)"):
        run(settings, engine={"type": "ray"})
