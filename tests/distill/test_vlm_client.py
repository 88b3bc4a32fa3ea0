"""The client against a misbehaving server."""

import base64
import logging
import pickle
import sys
import time

import cv2
import numpy as np
import pytest
from fake_vlm_server import VERDICT, completion, serve

pytest.importorskip("openai", reason="needs openai: pip install openai")

from unirain_plugin.distill.errors import ServiceError
from unirain_plugin.distill.vlm_client import UnusableReplyError, VlmClient, data_url
from unirain_plugin.errors import OptionError

IMAGE = np.zeros((8, 8, 3), np.uint8)


def client(url, **keys):
    return VlmClient(url, "rain-judge-8b", **{"retries": 2, "backoff": 0.01, "timeout": 5, **keys})


def ask(url, **keys):
    return client(url, **keys).ask("look", [IMAGE], ["A:"])


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_the_request_is_what_the_protocol_asks_for():
    schema = {"type": "object"}
    with serve() as server:
        text = client(server.url, extra_body={"top_k": 1}, seed=7).ask(
            "look", [IMAGE, IMAGE], ["A:", "B:"], schema, "sys", "well?"
        )
    assert text == VERDICT
    request = server.requests[0]
    system, user = request["messages"]
    assert system == {"role": "system", "content": "sys"}
    assert [part["type"] for part in user["content"]] == ["text", "text", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in user["content"] if part["type"] == "text"] == ["look", "A:", "B:", "well?"]
    assert request["model"] == "rain-judge-8b"
    assert (request["temperature"], request["seed"], request["max_tokens"], request["top_k"]) == (0.0, 7, 256, 1)
    assert request["response_format"]["json_schema"]["schema"] == schema
    url = user["content"][2]["image_url"]["url"]
    sent = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition("base64,")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert url.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(sent, IMAGE)


def test_pictures_are_shrunk_to_768_pixels_and_keep_their_colours():
    image = np.zeros((1000, 500, 3), np.uint8)
    image[..., 0] = 200
    code = base64.b64decode(data_url(image, 768).partition("base64,")[2])
    sent = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR)
    assert sent.shape == (768, 384, 3)
    assert sent[0, 0].tolist() == [0, 0, 200]  # BGR of the decoder: red stayed red


@pytest.mark.parametrize(
    "failure",
    [(408, "", {}), (409, "", {}), (425, "", {}), (429, "slow down", {}), (500, "oops", {}),
     (503, "<html>busy</html>", {"Content-Type": "text/html"}), ("drop", "", {}), (200, "dribble", {})],
    ids=["408", "409", "425", "429", "500", "503-html", "connection-lost", "too-slow"],
)  # fmt: skip
def test_passing_failures_are_tried_again(failure):
    with serve(failure, failure, VERDICT) as server:
        assert ask(server.url, timeout=0.5) == VERDICT
        assert len(server.requests) == 3


def test_retry_after_is_respected():
    with serve((429, "{}", {"Retry-After": "0.4"}), VERDICT) as server:
        start = time.monotonic()
        assert ask(server.url) == VERDICT
        assert time.monotonic() - start >= 0.4


def test_the_pauses_double_and_jitter(monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with serve((500, "{}", {})) as server, pytest.raises(ServiceError, match="Tried 5 times"):
        ask(server.url, retries=4, backoff=1)
    assert len(pauses) == 4
    for i, pause in enumerate(pauses):
        assert 0.5 * 2**i <= pause <= 2**i
    assert len({pause / 2**i for i, pause in enumerate(pauses)}) > 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "86400"}])
def test_no_pause_is_longer_than_a_minute(monkeypatch, headers):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with serve((503, "{}", headers)) as server, pytest.raises(ServiceError):
        ask(server.url, retries=3, backoff=50)
    assert len(pauses) == 3 and 25 <= min(pauses) <= max(pauses) <= 60
    assert not headers or pauses == [60] * 3


def test_a_server_that_is_down_is_named():
    with serve() as server:
        url = server.url
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1.*does not answer.*Tried 3 times.*run again"):
        ask(url)


def test_a_server_that_never_answers_in_time_is_named():
    def sleep(request):
        time.sleep(1)
        return VERDICT

    with serve(sleep) as server, pytest.raises(ServiceError, match="does not answer"):
        ask(server.url, timeout=0.2, retries=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "<html>Welcome</html>", {"Content-Type": "text/html"}), "HTML"),
        ((200, "", {}), "no JSON"),
        ((200, '{"choices": []}', {}), "no chat completion"),
        ((200, "[1, 2]", {}), "no chat completion"),
        ((200, '{"error": "loading"}', {}), "no chat completion"),
        ("", "empty"),
        ((200, b"\xff\xfe\x00", {}), "no JSON"),
        ((200, "endless", {}), "longer than"),
        ((400, '{"error": {"message": "at most 1 image"}}', {}), "at most 1 image"),
        ((413, "too large", {}), "413"),
    ],
    ids=["html", "nothing", "no-choice", "list", "error-200", "empty", "bytes", "endless", "400", "413"],
)
def test_one_useless_reply_is_told_apart_and_not_tried_again(answer, words):
    with serve(answer) as server, pytest.raises(UnusableReplyError, match=words) as caught:
        ask(server.url)
    assert len(server.requests) == 1
    assert len(caught.value.raw) <= 4000


def test_a_reply_cut_off_is_useless():
    import json

    with serve((200, json.dumps(completion('{"verdict": "ke', "length")), {})) as server:
        with pytest.raises(UnusableReplyError, match="cut off") as caught:
            ask(server.url)
        assert caught.value.raw == '{"verdict": "ke'


def test_a_wrong_model_name_lists_what_the_server_has():
    answer = (404, '{"error": {"message": "The model `rain-juge` does not exist"}}', {})
    with serve(answer) as server, pytest.raises(ServiceError, match=r"'rain-juge'.*'rain-judge-8b'.*It serves"):
        VlmClient(server.url, "rain-juge", retries=0).ask("look", [], [])


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch, caplog):
    monkeypatch.setenv("RAIN_KEY", "sk-topsecret-123")
    caplog.set_level(logging.DEBUG)
    echo = (401, '{"error": {"message": "bad key sk-topsecret-123"}}', {})
    with serve(VERDICT, echo, (500, "sk-topsecret-123 is broken", {})) as server:
        connection = client(server.url, api_key_env="RAIN_KEY", retries=0)
        connection.ask("look", [], [])
        assert server.headers[0]["authorization"] == "Bearer sk-topsecret-123"
        messages = []
        for _ in range(2):
            with pytest.raises(ServiceError) as caught:
                connection.ask("look", [], [])
            messages.append(str(caught.value))
    assert "RAIN_KEY" in messages[0]
    assert "topsecret" not in "".join(messages) + caplog.text + repr(connection)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UnusableReplyError),
        (422, UnusableReplyError),
        (404, ServiceError),
        (429, ServiceError),
        (500, ServiceError),
    ],
)
def test_a_key_that_a_server_repeats_is_hidden(monkeypatch, status, kind):
    monkeypatch.setenv("RAIN_KEY", "sk-topsecret-123")
    answer = (status, '{"error": {"message": "sk-topsecret-123 is broken, I say sk-topsecret-123"}}', {})
    with serve(answer) as server, pytest.raises(kind) as caught:
        client(server.url, api_key_env="RAIN_KEY", retries=0).ask("look", [], [])
    assert "topsecret" not in str(caught.value) + getattr(caught.value, "raw", "")
    assert status == 404 or "*** is broken, I say ***" in str(caught.value)


@pytest.mark.parametrize("kind", ["TimeoutError", "OpenAIError"])
def test_a_key_in_any_other_error_is_hidden(monkeypatch, kind):
    import builtins

    import openai

    def fail(*_):
        raise getattr(builtins, kind, getattr(openai, kind, None))("header sk-topsecret-123 broke")

    monkeypatch.setenv("RAIN_KEY", "sk-topsecret-123")
    monkeypatch.setattr(VlmClient, "_receive", fail)
    with pytest.raises(ServiceError, match=r"header \*\*\* broke"):
        client("http://localhost:1/v1", api_key_env="RAIN_KEY", retries=0).ask("look", [], [])


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_is_sent_without_blanks_and_named_where_it_is_refused(monkeypatch, status):
    monkeypatch.setenv("RAIN_KEY", " sk-1\n")
    with serve((status, "{}", {})) as server, pytest.raises(ServiceError, match=r"refuses the key.*RAIN_KEY"):
        client(server.url, api_key_env="RAIN_KEY").ask("look", [], [])
    assert [headers["authorization"] for headers in server.headers] == ["Bearer sk-1"]


@pytest.mark.parametrize(("seed", "sent"), [(0, {"seed": 0}), (None, {})])
def test_a_seed_of_zero_is_a_seed(seed, sent):
    with serve() as server:
        client(server.url, seed=seed).ask("look", [], [])
    assert {key: value for key, value in server.requests[0].items() if key == "seed"} == sent


def test_a_missing_key_is_named(monkeypatch):
    with pytest.raises(OptionError, match="environment variable RAIN_KEY"):
        VlmClient("http://localhost:1/v1", "m", api_key_env="RAIN_KEY").check()
    with pytest.raises(OptionError, match="environment variable OPENAI_API_KEY"):
        VlmClient("https://api.openai.com/v1", "m").check()
    VlmClient("http://localhost:1/v1", "m").check()  # local servers want none


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(OptionError, match=r"pip install openai"):
        VlmClient("http://localhost:1/v1", "m").check()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url: expected an address"),
        ({"base_url": "http://me:secret@host/v1"}, "keys come from the environment"),
        ({"base_url": "http://secret@host/v1"}, "keys come from the environment"),
        ({"base_url": "http://:secret@host/v1"}, "keys come from the environment"),
        ({"model": ""}, "model"),
        ({"timeout": "fast"}, "timeout"),
        ({"max_side": 4096}, "max_side: expected a number from 32 to 768"),
        ({"retries": True}, "retries"),
        ({"extra_body": []}, "extra_body"),
    ],
)
def test_wrong_settings_are_refused(keys, words):
    with pytest.raises(OptionError, match=words) as caught:
        VlmClient(**{"base_url": "http://h/v1", "model": "m", **keys})
    assert "secret" not in str(caught.value)


def test_it_travels_to_other_processes():
    with serve() as server:
        connection = client(server.url)
        connection.ask("look", [], [])
        assert pickle.loads(pickle.dumps(connection)).ask("look", [], []) == VERDICT
        connection.close()
        assert connection.ask("look", [], []) == VERDICT
