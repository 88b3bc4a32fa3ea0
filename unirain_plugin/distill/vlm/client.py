"""Asks a vision-language model behind an OpenAI-compatible server (``/v1/chat/completions``).

vLLM, SGLang, llama.cpp, Ollama and ``transformers serve`` speak this protocol. The key comes from the environment and
appears in no reply and no message, even if the server repeats it. What goes wrong for one reply
(:class:`UnusableReplyError`) is told apart from what goes wrong for all
(:class:`~unirain_plugin.distill.records.ServiceError`).
"""

import asyncio
import base64
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import cv2
import numpy as np

from unirain_plugin.distill.records import DistillError, ServiceError, shrink, writable
from unirain_plugin.distill.registry import Part
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.support.packages import require
from unirain_plugin.support.spec import Rule, between

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
MOST_BYTES = 1 << 20
"""Longest answer that is read: a verdict takes some hundred bytes, and a broken server may never stop."""
PASSING_STATUS = (408, 409, 429)
REFUSED_STATUS = (400, 413, 415, 422)  # refusals of one request; others are of the service
LONGEST_PAUSE = 60.0
"""Seconds between two tries; a server that asks for more (``Retry-After``) is waited for up to ten times as long."""
SHORTEST_KEY = 6
"""A shorter key is none that anyone keeps secret, such as ``none``; taken out of replies it would spoil them."""
USELESS_AT_FIRST, USELESS_IN_TURN = 4, 32
"""So many useless replies, before the first useful one or in turn, are not the images' fault (our choice)."""
_OPENING = threading.Lock()
_Connection = tuple[Any, threading.Event]  # what TLS trusts, and whether it was closed
T = TypeVar("T")
R = TypeVar("R")


def _number(low: float, high: float, kind: str = "a number") -> Rule:
    return replace(between(low, high), kind=kind)


class UnusableReplyError(DistillError):
    """One reply cannot be used: HTML, no JSON, cut off, empty, too long, a refused request.

    Attributes:
        raw: What came, cut to a length that can be recorded.
        refused: Whether the server refused the request (400, 413, 415, 422).
    """

    def __init__(self, message: str, raw: str = "", refused: bool = False) -> None:
        super().__init__(message)
        self.raw = raw[:4000]
        self.refused = refused


@dataclass(eq=False)
class VlmClient(Part):
    """A connection to one model; cheap to build, picklable, safe to use from several threads."""

    base_url: Any  # the server's address up to ``/v1``
    model: Annotated[str, Rule(holds=bool, kind="the name of a model on the server")]  # the model's name there
    # environment variable with the key. None: ``OPENAI_API_KEY`` if it is set (it must be for OpenAI's own
    # server), else no key, as most local servers want.
    api_key_env: str | None = None
    max_tokens: Annotated[int, between(16, 1 << 16)] = 256  # longest reply
    temperature: Annotated[float, _number(0, 2)] = 0.0  # 0 for the likeliest reply
    seed: int | None = 0  # passed to servers that know it; None leaves it out
    timeout: Annotated[float, _number(0.1, 3600)] = 120.0  # seconds for one request in all
    # further tries after a time-out, a lost connection, 408, 409, 429 or 5xx
    retries: Annotated[int, _number(0, 100)] = 5
    # seconds before the first of them; twice that before the next and so on to a minute, times a random 0.5 to 1, or
    # as ``Retry-After`` says
    backoff: Annotated[float, _number(0, 60)] = 0.5
    max_side: Annotated[int, _number(32, 768)] = 768  # images are shrunk to this longer side, pixels
    # further fields of the request, for example ``{"chat_template_kwargs": …}``
    extra_body: Annotated[dict[str, Any] | None, Rule(kind="a mapping")] = None
    concurrency: Annotated[int, _number(1, 512, "a whole number")] = 8  # requests at a time

    wanted: ClassVar[str] = "an answer"  # what a useful reply holds
    hint: ClassVar[str] = ""  # to one whose requests are refused

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except (ValueError, TypeError, AttributeError):  # brackets that do not match, a port that is none, no text
            known = False
        if not known or re.search(r"\s", self.base_url):
            raise OptionError(f"base_url: expected an address like http://localhost:8000/v1, got {self.base_url!r}.")
        if parts.username or parts.password:
            raise OptionError("base_url: holds a user or password; keys come from the environment only (api_key_env).")
        super().__post_init__()
        self._connection: _Connection | None = None
        self._served = self.model  # the name under which the server last answered
        self._useless: list[UnusableReplyError] = []  # in turn
        self._useful = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_connection": None}

    def check(self) -> None:
        require("openai", "openai", "vlm")
        self._key()

    def decoding(self) -> dict[str, Any]:
        """What the reply depends on beside prompt and images."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed,
                "max_side": self.max_side, "extra_body": dict(self.extra_body or {})}  # fmt: skip

    def ask(
        self,
        prompt: str,
        images: Sequence[np.ndarray],
        labels: Sequence[str],
        schema: Mapping[str, Any] | None = None,
        system: str | None = None,
        question: str | None = None,
    ) -> str:
        """Ask about images, uint8 RGB (H, W, 3), each after its label, between prompt and question; returns the text.

        They are shrunk to ``max_side`` and sent as PNG; ``schema`` is sent as ``response_format``, which servers may
        ignore. An UnusableReplyError if this reply cannot be used, or the server refuses it (:data:`REFUSED_STATUS`). A
        ServiceError if no request can be answered: server down or too slow, key refused, model unknown.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        for image, label in zip(images, labels, strict=True):
            content.append({"type": "text", "text": label})
            content.append({"type": "image_url", "image_url": {"url": data_url(image, self.max_side)}})
        if question:
            content.append({"type": "text", "text": question})
        messages = [{"role": "system", "content": system}] if system else []
        request = {
            "model": self.model,
            "messages": [*messages, {"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if self.seed is not None:
            request["seed"] = self.seed
        if schema is not None:
            named = {"name": "reply", "strict": True, "schema": dict(schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            content, served = _content(self._send(request))
            self._check_served(served)
            return self._scrub(content)
        except UnusableReplyError as error:
            raise UnusableReplyError(self._scrub(str(error)), self._scrub(error.raw), error.refused) from None
        except DistillError as error:
            raise type(error)(self._scrub(str(error))) from None

    def ask_all(self, ask: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Ask about several items at a time; at the first failure nothing more is asked.

        Raises:
            Exception: The first failure.
        """
        failures: list[Exception] = []

        def guarded(item: T) -> R | None:
            if failures:
                return None
            try:
                return ask(item)
            except Exception as error:
                failures.append(error)
                self.close()  # ends the retries of the others
                return None

        with ThreadPoolExecutor(min(self.concurrency, max(len(items), 1)), thread_name_prefix="vlm") as pool:
            try:
                answers = list(pool.map(guarded, items))
            except KeyboardInterrupt:
                self.close()
                raise
        if failures:
            raise failures[0]
        return answers

    def count(self, error: UnusableReplyError | None) -> None:
        """Note a useless reply, or a useful one (None); a ServiceError at :data:`USELESS_AT_FIRST` useless ones."""
        if error is None:
            self._useful = True
            self._useless.clear()
            return
        self._useless.append(error)
        if len(self._useless) >= (USELESS_IN_TURN if self._useful else USELESS_AT_FIRST):
            what = "refused" if error.refused else f"answered without {self.wanted}"
            told = f"the last {len(self._useless)} requests were {what}. {error}. It sent: {error.raw[:300]!r}."
            kept = f"{self.hint if error.refused else ''} Finished work is kept: mend the server and run again."
            raise ServiceError(f"{self.base_url} (model {self.model}): {told}{kept}")

    def close(self) -> None:
        """End the requests in work, and their retries; a later question is asked again."""
        if self._connection is not None:
            self._connection[1].set()
            self._connection = None

    def _key(self) -> str | None:
        name = self.api_key_env or DEFAULT_KEY_VARIABLE
        key = os.environ.get(name, "").strip()
        if not key and (self.api_key_env or urlsplit(self.base_url).hostname == OPENAI_HOST):
            raise OptionError(f"the API key for {self.base_url} is missing: set the environment variable {name}.")
        return key or None

    def _open(self) -> _Connection:
        with _OPENING:
            if self._connection is None:
                for transport in ("httpcore", "httpcore2"):  # they log headers, in which a server may repeat the key
                    logging.getLogger(transport).setLevel(logging.INFO)
                self._connection = require("httpx2", "openai", "vlm").create_ssl_context(), threading.Event()
            return self._connection

    def _send(self, request: Mapping[str, Any]) -> str:
        """Send a request until it is answered; returns the body, errors as :meth:`ask`."""
        openai, connection, extra = require("openai", "openai", "vlm"), self._open(), self.extra_body or None
        problem, tries = "", 0
        for tries in range(1, self.retries + 2):
            pause = min(self.backoff * 2 ** (tries - 1), LONGEST_PAUSE)
            pause *= random.uniform(0.5, 1)
            try:
                reply = self._receive(
                    lambda server: server.chat.completions.create(**request, extra_body=extra), self.timeout, connection
                )
                if 200 <= reply.status < 300:
                    return reply.text
                if reply.status < 500 and reply.status not in PASSING_STATUS:
                    raise self._refused(reply)
                problem = f"status {reply.status}: {self._line(reply.text)}"
                pause = _asked_pause(reply.headers.get("retry-after")) or pause
            except TimeoutError as error:
                problem = str(error)
            except openai.APIConnectionError as error:  # time-outs are connection errors there
                problem = str(error.__cause__ or "") or type(error.__cause__ or error).__name__
            except openai.OpenAIError as error:
                raise ServiceError(f"{self.base_url}: {self._line(str(error))}") from None
            if pause > 10 * LONGEST_PAUSE:
                problem += f" It wants to be asked again in {pause:.0f} s."
                break
            if tries <= self.retries and connection[1].wait(pause):
                break
        times = "once" if tries == 1 else f"{tries} times"
        told = f"{problem.rstrip('.')}. Tried {times}. Finished work is kept: start the server and run again."
        raise ServiceError(f"{self.base_url} does not answer (model {self.model}): {told}")

    def _receive(self, ask: Callable[[Any], Awaitable[object]], seconds: float, connection: _Connection) -> "_Reply":
        """One try; a TimeoutError if the reply breaks off or is not there in time, whatever the server does.

        In an event loop of its own, since nothing else ends everything that a server can hold up: the look-up of its
        name, the handshake, sending, a header that comes byte by byte.
        """
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(self._exchange(ask, seconds, *connection))
        finally:
            loop.close()

    async def _exchange(
        self, ask: Callable[[Any], Awaitable[object]], seconds: float, tls: Any, closed: threading.Event
    ) -> "_Reply":
        sockets: list[Any] = []

        async def trace(event: str, information: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                sockets.append(information["return_value"])

        async def begin(request: Any) -> None:
            request.extensions["trace"] = trace

        openai, hooks = require("openai", "openai", "vlm"), {"request": [begin], "response": [self._read]}
        async with openai.AsyncOpenAI(
            api_key=self._key() or "none",
            base_url=self.base_url,
            max_retries=0,  # it would read whatever comes with an error, and wait as long as it is told to
            http_client=openai.DefaultAsyncHttpxClient(timeout=None, verify=tls, event_hooks=hooks),
        ) as server:
            request, end = asyncio.ensure_future(ask(server)), time.monotonic() + seconds
            while not request.done() and (left := end - time.monotonic()) > 0 and not closed.is_set():
                await asyncio.wait([request], timeout=min(left, 0.2))
            if request.cancel():
                await asyncio.wait([request])
                for socket in sockets:  # that of a handshake is left open
                    await socket.aclose()
            try:
                await request
            except _Reply as reply:
                return reply
            except asyncio.CancelledError:
                pass
        raise TimeoutError(f"the request took longer than {seconds:g} s (timeout)")

    async def _read(self, response: Any) -> None:
        """Read a reply of any status bit by bit, so that its length is not without a bound.

        It ends the request (a :class:`_Reply`): the client library would read errors to their end, and follow any
        redirection.
        """
        body = bytearray()
        try:
            async with aclosing(response.aiter_bytes()) as parts:
                async for part in parts:
                    body += part
                    if len(body) > MOST_BYTES:
                        break
        except Exception as error:  # the transport's own errors: a connection cut in the middle
            raise TimeoutError(f"the reply broke off: {type(error).__name__}: {error}") from error
        text = self._scrub(body.decode("utf-8-sig", "replace"))
        if len(body) > MOST_BYTES and response.is_success:
            raise UnusableReplyError(f"the reply is longer than {MOST_BYTES} bytes", text)
        raise _Reply(response.status_code, text, response.headers)

    def _refused(self, reply: "_Reply") -> DistillError:
        status, text = reply.status, self._line(reply.text)
        if status in (401, 403):
            remedy = f"check the environment variable {self.api_key_env or DEFAULT_KEY_VARIABLE}"
            return ServiceError(f"{self.base_url} refuses the key (status {status}); {remedy}.")
        if status < 400:
            place = self._line(reply.headers.get("location", "nowhere"))
            return ServiceError(f"{self.base_url} sends on to {place} (status {status}); give the final base_url.")
        if status == 404 or ("model" in text.lower() and ("not exist" in text.lower() or "not found" in text.lower())):
            known = self._models()
            serves = f"{did_you_mean(self.model, known)} It serves: {', '.join(known[:20])}." if known else ""
            return ServiceError(f"{self.base_url} does not know the model '{self.model}' or the address is not that of "
                                f"an OpenAI-compatible server (status {status}).{serves}")  # fmt: skip
        if status not in REFUSED_STATUS:
            return ServiceError(f"{self.base_url} refuses all requests (status {status}): {text}")
        return UnusableReplyError(f"the server refuses the request (status {status}): {text}", text, refused=True)

    def _check_served(self, served: object) -> None:
        """Tell, once, that another model answers than the one that was asked for."""
        if isinstance(served, str) and served != self._served:
            self._served = served
            names = [name.lower().rpartition("/")[2] for name in (served, self.model)]
            if names[0] not in names[1] and names[1] not in names[0]:
                logging.getLogger("basicsr").warning(
                    "%s answers as the model '%s', but '%s' was asked for, under whose name its replies are recorded.",
                    self.base_url, self._line(served), self.model,
                )  # fmt: skip

    def _models(self) -> list[str]:
        try:
            reply = self._receive(lambda server: server.models.list(), min(self.timeout, 10), self._open())
            return [str(model["id"]) for model in json.loads(reply.text)["data"]]
        except Exception:  # only to make a message better
            return []

    def _line(self, text: str) -> str:
        """A text in one line, the key taken out before it can be cut in two."""
        return self._scrub(" ".join(text.split()))[:500]

    def _scrub(self, text: str) -> str:
        """Take the key out of what a server sent, as it is, percent-encoded, escaped for JSON, or in base64."""
        key = self._key()
        return re.sub("|".join(_forms_of(key)), "***", text) if key and len(key) >= SHORTEST_KEY else text


def _forms_of(key: str) -> Iterator[str]:
    yield "".join(rf"(?:\\*{re.escape(c)}|%(?i:{ord(c):02x})|\\+u(?i:{ord(c):04x}))" for c in key)
    data = key.encode()
    for before in range(3):  # bytes that precede it in its group of three, as of "Bearer "
        code = base64.b64encode(b"\0" * before + data).decode()
        whole = code[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]  # the characters that the key alone decides
        yield re.escape(whole).replace(r"\+", r"[+\-]").replace("/", "[/_]")


def data_url(image: np.ndarray, max_side: int) -> str:
    """An image, uint8 RGB (H, W, 3), as ``data:image/png;base64,…``, shrunk to a longer side of ``max_side``."""
    code = cv2.imencode(".png", cv2.cvtColor(shrink(image, max_side), cv2.COLOR_RGB2BGR))[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(code).decode("ascii")


class _Reply(Exception):  # noqa: N818  it ends a request
    """What a server sent, of whatever status; the key is taken out of the text."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(status)
        self.status, self.text, self.headers = status, text, headers


def _asked_pause(retry_after: str | None) -> float | None:
    """Seconds that ``Retry-After`` tells, as a number or a date; None if it tells no future."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after or "") - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if seconds > 0 else None


def _content(body: str) -> tuple[str, object]:
    """The text of a completion, and the model's name as the server tells it."""
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        kind = "HTML" if body.lstrip()[:1] == "<" else "no JSON"
        raise UnusableReplyError(f"the server sent {kind} instead of a completion", body) from None
    try:
        choice = completion["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise UnusableReplyError("the server's JSON is no chat completion", body) from None
    if isinstance(content, list):  # some servers answer in parts, as they are asked
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not content.strip():
        raise UnusableReplyError("the reply is empty", body)
    content = writable(content)
    if choice.get("finish_reason") == "length":
        raise UnusableReplyError("the reply was cut off at max_tokens", content)
    return content, completion.get("model")
