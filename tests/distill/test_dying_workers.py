"""A worker that dies on a shard: tried again a few times, then the run ends and names the shard."""

from pathlib import Path

import pytest
from runs import run

from unirain_plugin.distill.records import DistillError


@pytest.fixture(params=["local", "ray"])
def dying(request, settings, tmp_path, monkeypatch):
    """Runs whose worker dies while it votes on one candidate, so many times; in a Ray cluster that is there before."""
    if request.param == "ray":
        pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirain_plugin[ray]'")
        import ray

        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
        request.addfinalizer(ray.shutdown)
    left = tmp_path / "left"
    third = {"type": "DyingVoter", "name": "third", "victim": "drd/input/coffee0", "left": str(left)}
    engine = {"type": request.param, "workers": 2}
    changes = {"voters": [*settings["voters"][:2], third], "shard_size": 1, "engine": engine}
    return lambda deaths: left.write_text(str(deaths)) and run(settings, **changes)


def test_the_shard_is_named_after_three_tries(dying, settings, tmp_path):
    with pytest.raises(DistillError, match=r"a worker died .*votes/\d{6}, 3 times") as caught:
        dying(deaths=99)
    assert (tmp_path / "left").read_text() == "96"
    votes = Path(settings["output"]) / "work" / "votes"
    finished = {path.name for path in votes.glob("[0-9]*")}
    shard = str(caught.value).partition("votes/")[2][:6]
    assert shard not in finished
    outcome = dying(deaths=0)  # the reason is gone: what is finished is kept
    assert outcome.made["candidates"] == 0 and outcome.made["votes"] == 16 - len(finished)
    assert "drd/input/coffee0" in Path(settings["output"], "votes.jsonl").read_text().splitlines()[int(shard)]


@pytest.mark.parametrize("dying", ["local"], indirect=True)
def test_a_worker_that_dies_twice_costs_nothing(dying, settings, tmp_path):
    assert dying(deaths=2).statistics["candidates"] == 16
    assert (tmp_path / "left").read_text() == "0"
    assert not list((Path(settings["output"]) / "work").glob("*/.tmp-*"))
