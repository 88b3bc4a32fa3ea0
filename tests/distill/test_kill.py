"""SIGKILL at any moment, then again: the result is that of an undisturbed run, finished shards are not made anew."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from runs import contents, run


def shards(work):
    """Finished shards with the time at which they were made."""
    return {path: path.stat().st_mtime_ns for path in work.glob("*/[0-9]*") if path.is_dir()}


def test_killed_again_and_again(settings, tmp_path):
    run({**settings, "output": str(tmp_path / "calm")})
    options = {**settings, "output": str(tmp_path / "killed"), "shard_size": 1}
    work, chance, kills, previous = tmp_path / "killed" / "work", random.Random(1), 0, {}
    for attempt in range(200):
        process = multiprocessing.get_context("fork").Process(target=run, args=(options,))
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
    assert contents(tmp_path / "killed") == contents(tmp_path / "calm")


def test_killed_with_workers_that_do_not_outlive_it(settings, tmp_path):
    run({**settings, "output": str(tmp_path / "calm")})
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
    assert contents(settings["output"]) == contents(tmp_path / "calm")


def _session_of(stat):
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(fields[3]) if fields[0] != "Z" else None
