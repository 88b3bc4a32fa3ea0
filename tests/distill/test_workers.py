"""Killed runs, dying workers, Ray: the result is that of an undisturbed run, finished shards are not made anew."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from distill_helpers import contents, run
from tqdm import tqdm

from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import DistillError
from unirain_plugin.distill.workers import ShardMaker
from unirain_plugin.errors import OptionError


def shards(work):
    """Finished shards with the time at which they were made."""
    return {path: path.stat().st_mtime_ns for path in work.glob("*/[0-9]*") if path.is_dir()}


@pytest.fixture()
def calm(settings, tmp_path):
    """The results of an undisturbed run."""
    run({**settings, "output": str(tmp_path / "calm")})
    return contents(tmp_path / "calm")


def run_apart(options):
    """In a forked process: with a lock of its own for tqdm's bars; a killed one would never release the common one."""
    tqdm.set_lock(threading.RLock())
    run(options)


def test_killed_again_and_again(settings, calm, tmp_path):
    options = {**settings, "output": str(tmp_path / "killed"), "shard_size": 1}
    work, chance, kills, previous = tmp_path / "killed" / "work", random.Random(1), 0, {}
    for attempt in range(200):
        process = multiprocessing.get_context("fork").Process(target=run_apart, args=(options,))
        process.start()
        process.join(timeout=(0.03 + chance.random() * 0.12) * (1 + attempt / 20))  # a busy machine gets on, too
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        made = shards(work)
        assert {path: made.get(path) for path in previous} == previous, "a finished shard was made anew"
        previous = made
        if process.exitcode == 0:
            break
    assert process.exitcode == 0 and kills >= 3
    assert not list(work.glob("*/.tmp-*"))
    assert contents(tmp_path / "killed") == calm


def test_killed_with_workers_that_do_not_outlive_it(settings, calm, tmp_path):
    options = {**settings, "engine": {"workers": 2}, "shard_size": 1}
    (tmp_path / "o.yml").write_text(yaml.safe_dump(options))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SLOW_VOTER": "0.5", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unirain_plugin.distill", "-opt", str(tmp_path / "o.yml"), "--quiet"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    work = Path(settings["output"]) / "work"
    while process.poll() is None and len(list((work / "candidates").glob("[0-9]*"))) < 4:
        time.sleep(0.02)
    assert process.poll() is None
    process.kill()
    process.wait()
    before, end = shards(work), time.monotonic() + 20
    while any(_session_of(path) == process.pid for path in Path("/proc").glob("[0-9]*/stat")):
        assert time.monotonic() < end, "workers outlived the run"
        time.sleep(0.1)
    run({**options, "engine": {"workers": 0}})
    assert before.items() <= shards(work).items()
    assert contents(settings["output"]) == calm


def _session_of(stat):
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(fields[3]) if fields[0] != "Z" else None


@pytest.fixture(params=["local", "ray"])
def dying(request, settings, tmp_path, monkeypatch):
    """Runs whose worker dies while it votes on one candidate, so many times; in a Ray cluster that is there before."""
    if request.param == "ray":
        pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirain_plugin[ray]'")
        import ray

        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        handler = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
        request.addfinalizer(partial(signal.signal, signal.SIGTERM, handler))
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


def test_same_bytes_as_the_local_engine(settings, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'unirain_plugin[ray]'")
    settings["shard_size"] = 4
    run(settings, output=str(tmp_path / "local"))
    made = run(settings, output=str(tmp_path / "ray"), engine={"type": "ray", "workers": 2}).made
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # none of Ray's, which would end the run without a word
    assert made == {"references": 4, "candidates": 4, "duplicates": 1, "index": 1, "retrieval": 4, "votes": 4}
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    for path in sorted((tmp_path / "local" / "work").glob("*/*/*")):
        if path.name != "candidates.jsonl":  # names the other run's folder
            assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(tmp_path / "local")).read_bytes(), path


def test_a_user_s_mistake_comes_back_as_text(settings, tmp_path, monkeypatch):
    pytest.importorskip("ray.data")
    monkeypatch.chdir(tmp_path)  # an actor goes into the folder that it is told; here it comes back
    options = parse_options({**settings, "embedder": {"type": "BrokenEmbedder"}}, "t")
    pipeline = Pipeline(options, quiet=True)
    pipeline.workspace.root.mkdir(parents=True)
    maker = ShardMaker(pipeline._job(restart=False), str(tmp_path), [])
    answer = maker({"unit": np.array(['[["references", 0]]'], dtype=object)})
    assert answer["error"].tolist() == ["broken on purpose"] and answer["made"].tolist() == ["[]"]


def test_missing_ray_is_named_with_its_pip_name(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(OptionError, match=r"pip install 'ray\[data\]' \(or 'unirain_plugin\[ray\]'\)"):
        run(settings, engine={"type": "ray"})
