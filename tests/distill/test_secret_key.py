"""A server that repeats the key wherever it can: no file of a run holds it, however the run ends."""

import base64
import json

import pytest
from fake_vlm_server import serve

pytest.importorskip("openai", reason="needs openai: pip install openai")

from unirain_plugin.distill.options import parse_options
from unirain_plugin.distill.pipeline import Pipeline
from unirain_plugin.distill.records import DistillError

KEY = "sk-top/secret+123~x"
KEEP = json.dumps({"verdict": "keep", "reason": "AUTHORIZATION, https://h/?key=sk-top%2Fsecret%2B123~x"})


@pytest.mark.parametrize(
    "answers",
    [
        [KEEP],
        ["AUTHORIZATION", KEEP, (200, '{"error": "AUTHORIZATION"}', {}), KEEP, "<AUTHORIZATION>", KEEP],
        ["AUTHORIZATION"],
        [KEEP, (500, "AUTHORIZATION", {})],
        [KEEP, (400, "AUTHORIZATION", {})],
    ],
    ids=["votes", "some-useless", "useless", "500", "400"],
)
def test_no_file_holds_the_key(answers, settings, tmp_path, monkeypatch, warnings_of):
    monkeypatch.setenv("RAIN_KEY", KEY)
    with serve(*answers) as server:
        common = {"type": "vlm", "base_url": server.url, "model": "m", "api_key_env": "RAIN_KEY", "retries": 0}
        voters = [{**common, "name": f"v{i}", "seed": i, "cache": str(tmp_path / "cache"), "concurrency": 1}
                  for i in range(3)]  # fmt: skip
        options = {**settings, "voters": voters, "report": {"enabled": True}, "shard_size": 8}
        if answers == [KEEP]:
            options["captioner"] = {**common, "type": "vlm", "prompt": "say it"}
        said = ""
        try:
            Pipeline(parse_options(options, "t"), quiet=True).run()
        except DistillError as error:
            said = str(error)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert said or {"votes.jsonl", "manifest.jsonl", "report.html"} <= {path.name for path in files}
    assert any(b"***" in path.read_bytes() for path in files) or "***" in said  # the server's words are there
    code = base64.b64encode(KEY.encode()).rstrip(b"=")[:-1]
    for text in [said.encode(), *map(str.encode, warnings_of), *(path.read_bytes() for path in files)]:
        assert b"secret" not in text and code not in text
