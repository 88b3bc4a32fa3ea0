"""Reads a verdict out of a model's reply: exactly one JSON object of the schema, or none at all."""

from __future__ import annotations

import json
from typing import Any

from unirain_plugin.distill.vlm_client import UnusableReplyError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["keep", "reject"]},
        "reason": {"type": "string", "maxLength": 600},
    },
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
"""Sent as ``response_format`` and checked here, since servers may ignore it."""
LONGEST_REPLY = 8000
_LONGEST_REASON = 600


def parse_verdict(reply: str) -> tuple[bool, str]:
    """Read a reply.

    A model without guided decoding wraps its object in words or a code fence, or thinks aloud before it
    (``<think>…</think>``); that is allowed, as long as the reply holds one JSON object only. Whatever a picture or a
    caption says can reach the verdict only as the model's own answer: a verdict quoted inside the reason is a string,
    and one quoted beside the model's own makes two.

    Returns:
        Whether to keep the pair, and the model's reason.

    Raises:
        UnusableReplyError: If there is none or more than one object, or it does not fit :data:`SCHEMA`.
    """
    if len(reply) > LONGEST_REPLY:
        raise UnusableReplyError(f"the reply is too long: {len(reply)} characters, at most {LONGEST_REPLY}", reply)
    text = reply.strip()
    if text.startswith("<think>") and "</think>" in text:
        text = text.rpartition("</think>")[2]
    try:
        objects = _objects(text)
    except _RepeatedKeyError as error:
        raise UnusableReplyError(f"the reply's object holds {error} twice", reply) from None
    except RecursionError:
        raise UnusableReplyError("the reply is nested too deeply", reply) from None
    if not objects:
        kind = "HTML" if text[:1] == "<" else "no JSON object"
        raise UnusableReplyError(f"the reply holds {kind}; expected one verdict", reply)
    if len(objects) > 1:
        raise UnusableReplyError(f"the reply holds {len(objects)} JSON objects; expected exactly one verdict", reply)
    return _check(objects[0], reply)


class _RepeatedKeyError(Exception):
    """A key occurs twice in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(repr(key))
        found[key] = value
    return found


def _objects(text: str) -> list[dict[str, Any]]:
    """All outermost JSON objects in a text, wherever they begin; also those within a list."""
    decoder, found, place = json.JSONDecoder(object_pairs_hook=_unique), [], text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            found.append(value)
        except ValueError:
            end = place + 1
        place = text.find("{", end)
    return found


def _check(value: dict[str, Any], reply: str) -> tuple[bool, str]:
    unknown = sorted(set(value) - set(SCHEMA["properties"]))
    missing = [key for key in SCHEMA["required"] if key not in value]
    if unknown or missing:
        words = [f"unknown {unknown}"] * bool(unknown) + [f"missing {missing}"] * bool(missing)
        raise UnusableReplyError(f"the reply's object is no verdict: {', '.join(words)}", reply)
    verdict, reason = value["verdict"], value["reason"]
    if verdict not in ("keep", "reject"):
        raise UnusableReplyError(f"the verdict is {verdict!r}; expected 'keep' or 'reject'", reply)
    if not isinstance(reason, str):
        raise UnusableReplyError(f"the reason is {type(reason).__name__}; expected text", reply)
    return verdict == "keep", " ".join(reason.split())[:_LONGEST_REASON] or "no reason given"
