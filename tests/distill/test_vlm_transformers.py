"""The wire format against a server that is not ours: ``transformers serve`` with a tiny model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from distill_helpers import make_task

from unirain_plugin.distill.vlm.voter import Vlm

REPLY = '{"verdict": "reject", "reason": "drawn lines"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    for package in ("openai", "transformers", "fastapi", "uvicorn", "accelerate"):
        pytest.importorskip(package, reason=f"needs {package}: pip install openai 'transformers[serving]' accelerate")
    from tiny_vlm import build_tiny_vlm

    folder = tmp_path_factory.mktemp("tiny_vlm")
    build_tiny_vlm(folder, REPLY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder),
               "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.parametrize("mode", ["several", "sheet"])
def test_a_real_server_answers(server, mode, tmp_path):
    url, model = server
    voter = Vlm(url, model, images=mode, cache=str(tmp_path), retries=0, timeout=60)
    vote = voter.vote([make_task()])[0]
    assert vote.verdict is False, vote
    assert vote.reason == "drawn lines"
    assert json.loads(vote.details["raw"]) == json.loads(REPLY)


def test_a_reply_cut_off_by_a_real_server_is_an_abstention(server):
    url, model = server
    voter = Vlm(url, model, cache=False, retries=0, timeout=60, max_tokens=16)
    voter.max_tokens = 1
    vote = voter.vote([make_task()])[0]
    assert vote.verdict is None
    assert "cut off" in vote.reason
