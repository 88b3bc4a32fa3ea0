"""The client against a misbehaving server."""

import base64
import json
import logging
import os
import pickle
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from fake_vlm_server import VERDICT, completion, serve

from unirain_plugin.distill.records import DistillError, ServiceError
from unirain_plugin.distill.vlm.client import UnusableReplyError, VlmClient, _Reply, data_url
from unirain_plugin.errors import OptionError

openai = pytest.importorskip("openai", reason="needs openai: pip install openai")

IMAGE = np.zeros((8, 8, 3), np.uint8)


def client(url, **keys):
    defaults = {"model": "rain-judge-8b", "retries": 2, "timeout": 5, "backoff": 0.01}
    return VlmClient(base_url=url, **{**defaults, **keys})


def decoded(url):
    """The image of a data URL, BGR."""
    kind, _, code = url.partition("base64,")
    assert kind == "data:image/png;"
    return cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)


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
        for seed in (0, None):
            client(server.url, seed=seed).ask("look", [], [])
    assert text == VERDICT
    request, *others = server.requests
    assert [request.get("seed", "none") for request in others] == [0, "none"], "a seed of zero is a seed"
    system, user = request["messages"]
    assert system == {"role": "system", "content": "sys"}
    assert [part["type"] for part in user["content"]] == ["text", "text", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in user["content"] if part["type"] == "text"] == ["look", "A:", "B:", "well?"]
    assert request["model"] == "rain-judge-8b"
    assert (request["temperature"], request["seed"], request["max_tokens"], request["top_k"]) == (0.0, 7, 256, 1)
    assert request["response_format"]["json_schema"]["schema"] == schema
    np.testing.assert_array_equal(decoded(user["content"][2]["image_url"]["url"]), IMAGE)
    sent = decoded(data_url(np.full((1000, 500, 3), (200, 0, 0), np.uint8), 768))
    assert sent.shape == (768, 384, 3), "images are shrunk to 768 pixels"
    assert sent[0, 0].tolist() == [0, 0, 200]  # BGR of the decoder: red stayed red


@pytest.mark.parametrize(
    "failure",
    [(408, "", {}), (409, "", {}), (429, "slow down", {}), (500, "oops", {}),
     (503, "<html>busy</html>", {"Content-Type": "text/html"}), ("drop", "", {}), (200, "dribble", {}),
     (500, "dribble", {}), (500, "endless", {}), (500, b"\x1f\x8b broken", {"Content-Encoding": "gzip"}),
     (200, b"\x1f\x8b broken", {"Content-Encoding": "gzip"})],
    ids=["408", "409", "429", "500", "503-html", "connection-lost", "too-slow", "slow-error", "endless-error",
         "broken-error", "broken-code"],
)  # fmt: skip
def test_passing_failures_are_tried_again(failure):
    with serve(failure, failure, VERDICT) as server:
        assert ask(server.url, timeout=0.5) == VERDICT
        assert len(server.requests) == 3


BACKOFF = [2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("retry_after", "pauses"),
    [
        (None, BACKOFF),
        ("90.5", [90.5] * 7),
        ("soon", BACKOFF),
        ("-1", BACKOFF),
        ("7200", []),
        ("Wed, 21 Oct 2099 07:28:00 GMT", []),
    ],
)
def test_pauses_between_tries(monkeypatch, retry_after, pauses):
    found = []
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr("threading.Event.wait", lambda self, pause=None: found.append(pause))
    told = "Tried 8 times" if pauses else "wants to be asked again in .* Tried once"
    reply = _Reply(429, "{}", {"retry-after": retry_after} if retry_after else {})
    monkeypatch.setattr(VlmClient, "_receive", lambda *_: reply)
    with pytest.raises(ServiceError, match=told):
        ask("http://h/v1", retries=7, backoff=2)
    assert found == pauses


def test_a_server_that_is_down_is_named():
    with serve() as server:
        url = server.url
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1.*does not answer.*Tried 3 times.*run again"):
        ask(url)


def sleep(request):
    time.sleep(1)
    return VERDICT


@contextmanager
def one_that_never_reads(*_):
    """A server whose system takes connections and the first few bytes that come."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield SimpleNamespace(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1")


def connections_to(port):
    count = 0
    for number in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{number}").rpartition("/")[2].startswith("socket:"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as other:
                count += other.getpeername()[1:2] == (port,)  # "" for a socket without an address
    return count


@pytest.mark.parametrize(
    ("server_of", "answer", "scheme", "side"),
    [(serve, sleep, "http", 8), (serve, (200, "dribble", {}), "http", 8), (serve, (200, "slow header", {}), "http", 8),
     (one_that_never_reads, None, "http", 8), (one_that_never_reads, None, "http", 768),
     (one_that_never_reads, None, "https", 8)],
    ids=["late", "slow-body", "slow-header", "silent", "sending", "handshake"],
)  # fmt: skip
def test_a_server_that_does_not_answer_in_time_is_named(server_of, answer, scheme, side):
    """Whatever it holds up, several requests at a time; neither a thread nor a socket of a request is left."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    with server_of(answer) as server:
        asked = client(server.url.replace("http", scheme), timeout=0.4, retries=1, concurrency=3)
        words = r"does not answer.*the request took longer than 0.4 s \(timeout\). Tried 2 times"
        with pytest.raises(ServiceError, match=words):
            asked.ask_all(lambda image: asked.ask("look", [image], ["A:"]), [image] * 3)
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("vlm", "AnyIO"))]
        assert connections_to(int(server.url.split(":")[2].split("/")[0])) == 0


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
        ((200, '{"a":' * 100_000, {}), "no JSON"),
        ((200, json.dumps(completion([{"type": "text", "text": None}, None])), {}), "empty"),
        ((200, "endless", {}), "longer than"),
        ((400, '{"error": {"message": "at most 1 image"}}', {}), "at most 1 image"),
        ((413, "too large", {}), "413"),
        ((200, json.dumps(completion('{"verdict": "ke', "length")), {}), "cut off"),
    ],
    ids=["html", "nothing", "no-choice", "list", "error-200", "empty", "bytes", "deep", "no-part", "endless", "400",
         "413", "cut off"],
)  # fmt: skip
def test_one_useless_reply_is_told_apart_and_not_tried_again(answer, words):
    with serve(answer) as server, pytest.raises(UnusableReplyError, match=words) as caught:
        ask(server.url)
    assert len(server.requests) == 1
    assert len(caught.value.raw) <= 4000
    assert words != "cut off" or caught.value.raw == '{"verdict": "ke'


KEY = "sk-top/secret+123~x"


@pytest.mark.parametrize(
    "answer",
    [
        "your header was AUTHORIZATION, keep",
        (200, json.dumps(completion(f"I know {KEY}", "length")), {}),
        (200, "<html>AUTHORIZATION</html>", {}),
        (200, '{"error": "no AUTHORIZATION"}', {}),
        (200, "x" * 3990 + "AUTHORIZATION", {}),  # where a text is cut, no half of the key stays
        (400, '{"error": {"message": "bad AUTHORIZATION"}}', {}),
        (400, "y" * 465 + "AUTHORIZATION", {}),
        (401, '{"error": {"message": "bad AUTHORIZATION"}}', {}),
        (422, "AUTHORIZATION is wrong", {}),
        (429, "AUTHORIZATION is busy", {}),
        (404, '{"error": {"message": "AUTHORIZATION does not exist"}}', {}),
        (500, "AUTHORIZATION is broken", {}),
        (500, '{"error": {"message": "broken"}}', {}),
        (200, json.dumps(completion(quote(KEY, safe=""))), {}),
        (200, json.dumps(completion(KEY)).replace("sk-", "\\u0073k\\u002D"), {}),
        json.dumps({"reason": KEY}).replace("/", "\\/"),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode(),
        json.dumps({"seen": base64.b64encode(f"a Bearer {KEY}, more".encode()).decode()}),
    ],
)
def test_a_key_that_the_server_repeats_is_nowhere(answer, monkeypatch, caplog):
    """In replies of every status and kind, as it is and encoded; the header is echoed, too."""
    monkeypatch.setenv("RAIN_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serve(answer) as server:
        connection = client(server.url, api_key_env="RAIN_KEY", retries=0)
        try:
            seen = connection.ask("look", [], [])
        except DistillError as error:
            seen = f"{error} {getattr(error, 'raw', '')}"
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    if isinstance(answer, tuple) and answer[0] not in (401, 404) and "AUTHORIZATION" in answer[1]:
        assert "***" in seen  # the server's words are there
    seen += caplog.text + repr(connection)
    codes = [base64.b64encode(f"{before}{KEY}".encode()).decode()[4:-4] for before in ("", "Bearer ", "a Bearer ")]
    codes += [code.replace("+", "-").replace("/", "_") for code in codes]
    assert not [trace for trace in ("secret", "sk-top", "%2Fsecret", *codes) if trace in seen]


def test_a_key_is_sent_without_blanks_and_a_word_that_is_no_secret_stays_in_replies(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " none\n")
    with serve("none of them") as server:
        assert ask(server.url) == "none of them"
    assert server.headers[0]["authorization"] == "Bearer none"


@pytest.mark.parametrize("error", [TimeoutError, openai.OpenAIError])
def test_a_key_in_any_other_error_is_hidden(monkeypatch, error):
    def fail(*_):
        raise error("header sk-topsecret-123 broke")

    monkeypatch.setenv("RAIN_KEY", "sk-topsecret-123")
    monkeypatch.setattr(VlmClient, "_receive", fail)
    with pytest.raises(ServiceError, match=r"header \*\*\* broke"):
        client("http://localhost:1/v1", api_key_env="RAIN_KEY", retries=0).ask("look", [], [])


def test_a_missing_key_or_package_is_named(monkeypatch):
    with pytest.raises(OptionError, match="environment variable RAIN_KEY"):
        VlmClient("http://localhost:1/v1", "m", api_key_env="RAIN_KEY").check()
    with pytest.raises(OptionError, match="environment variable OPENAI_API_KEY"):
        VlmClient("https://api.openai.com/v1", "m").check()
    VlmClient("http://localhost:1/v1", "m").check()  # local servers want none
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(OptionError, match=r"pip install openai"):
        VlmClient("http://localhost:1/v1", "m").check()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        *(
            ({"base_url": url}, "base_url: expected an address")
            for url in (
                "localhost:8000",
                "http://h:port/v1",
                "http://h:99999/v1",
                "http://[::1/v1",
                "http://a b/v1",
                None,
                5,
            )
        ),
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


def test_after_a_failure_nothing_more_is_asked():
    busy = (503, "busy", {"Retry-After": "0.3"})

    def answer(request):
        return (401, "{}", {}) if "3" in request["messages"][0]["content"][0]["text"] else busy

    with serve(answer) as server:
        connection = client(server.url, retries=20, concurrency=4)
        with pytest.raises(ServiceError, match="refuses the key"):
            connection.ask_all(lambda item: connection.ask(str(item), [], []), range(100))
        assert len(server.requests) <= 8


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((307, "endless", {"Location": "https://h/v1"}), r"to https://h/v1 \(status 307\); give the final base_url"),
        ((302, "", {}), "sends on to nowhere"),
        ((402, "no money", {}), r"refuses all requests \(status 402\): no money"),
        ((401, "{}", {}), r"refuses the key.*RAIN_KEY"),
        ((403, "{}", {}), r"refuses the key.*RAIN_KEY"),
        (
            (404, '{"error": {"message": "The model `rain-juge` does not exist"}}', {}),
            r"'rain-juge'.*'rain-judge-8b'.*It serves",
        ),
    ],
)
def test_what_no_request_can_mend_stops_at_once(answer, words, monkeypatch):
    monkeypatch.setenv("RAIN_KEY", "sk-1")
    with serve(answer) as server, pytest.raises(ServiceError, match=words):
        ask(server.url, model="rain-juge", api_key_env="RAIN_KEY")
    assert len(server.requests) == 1


def test_another_model_than_the_one_asked_for_is_told_once(caplog):
    for count, served in enumerate(("rain-judge-8b-2026", "me/Rain-Judge-8B", None, "other")):
        with serve((200, json.dumps({**completion(VERDICT), "model": served}), {})) as server:
            asked = client(server.url)
            assert [asked.ask("look", [], []) for _ in range(2)] == [VERDICT] * 2
        assert caplog.text.count(", but 'rain-judge-8b' was asked for") == (count == 3)
    assert "answers as the model 'other', but" in caplog.text


def test_halves_of_characters_in_a_reply_are_replaced_and_a_byte_order_mark_is_passed_over():
    for body, said in (
        (r'{"choices": [{"message": {"content": "a\ud800b"}}]}', "a?b"),
        (b"\xef\xbb\xbf" + json.dumps(completion(VERDICT)).encode(), VERDICT),
    ):
        with serve((200, body, {})) as server:
            assert ask(server.url) == said
