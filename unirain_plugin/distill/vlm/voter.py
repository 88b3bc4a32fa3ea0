"""The voter that asks a vision-language model (paper §2): question, images, verdict in the reply, replies on disk."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from unirain_plugin.distill.records import DistillError, Vote, VoteTask, writable
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.vlm.client import UnusableReplyError, VlmClient
from unirain_plugin.distill.voters.base import Cost, Voter
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.spec import Rule

DEFAULT_PROMPT = Path(__file__).parents[1] / "prompts" / "derain_pair.yml"
_PARTS = ("system", "images", "sheet", "question")
_LONGEST_CAPTION = 500
_BAR = 22  # height of the label above a panel of the contact sheet, pixels


@dataclass(frozen=True)
class Prompt:
    """A template."""

    system: str  # system message
    images: str  # text before several images
    sheet: str  # text before one contact sheet
    question: str  # text after the images
    digest: str  # hash of the file's bytes


def load_prompt(path: str | Path | None = None) -> Prompt:
    """Read a template file (None: ours); OptionError if it is missing, no YAML, or lacks a part."""
    path = Path(path or DEFAULT_PROMPT)
    parts = read_option_file(path).opt
    if sorted(parts) != sorted(_PARTS) or not all(map(str.strip, map(str, parts.values()))):
        raise OptionError(f"prompt: {path}: expected the texts {', '.join(_PARTS)}; found {sorted(parts)}.")
    return Prompt(**{key: str(parts[key]) for key in _PARTS}, digest=hashlib.sha256(path.read_bytes()).hexdigest())


def fill(text: str, task: VoteTask) -> str:
    """Put a task's data into a text; captions as JSON strings, so that they end where they end."""
    captions = [(found.reference.caption or "")[:_LONGEST_CAPTION] for found in task.retrieved]
    values = {
        "{rain_type}": task.candidate.rain_type,
        "{count}": str(len(task.retrieved)),
        "{caption}": json.dumps((task.candidate.caption or "")[:_LONGEST_CAPTION], ensure_ascii=False),
        "{references}": json.dumps(captions, ensure_ascii=False),
    }
    # in one pass, so that a placeholder inside a caption stays what it is
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)


def labelled_images(task: VoteTask) -> tuple[list[np.ndarray], list[str]]:
    """The images of a task, uint8 RGB, and a label for each."""
    images = [task.candidate.lq, task.candidate.gt, *(found.reference.image for found in task.retrieved)]
    labels = ["RAINY PICTURE:", "CLEAN PICTURE:"]
    return images, [*labels, *(f"REAL RAIN {i}:" for i in range(1, len(task.retrieved) + 1))]


def contact_sheet(images: list[np.ndarray], labels: list[str], side: int) -> np.ndarray:
    """All images in one, uint8 RGB (≤ side, ≤ side, 3), each whole and under its label."""
    columns = 2 if len(images) <= 4 else 3
    rows = -(-len(images) // columns)
    width, height = side // columns, side // rows
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        top, left = i // columns * height, i % columns * width
        scale = min((width - 4) / image.shape[1], (height - _BAR - 4) / image.shape[0])
        size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
        panel = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        sheet[top + _BAR : top + _BAR + size[1], left + 2 : left + 2 + size[0]] = panel
        cv2.putText(sheet, label.rstrip(":"), (left + 4, top + _BAR - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1,
                    cv2.LINE_AA)  # fmt: skip
    return sheet


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
    """Whether to keep the pair, and the reason, from a model's reply; else UnusableReplyError.

    A model without guided decoding wraps its object in words or a code fence, or thinks aloud before it
    (``<think>…</think>``); that is allowed, as long as the reply holds one JSON object only, which fits :data:`SCHEMA`.
    Whatever an image or a caption says can reach the verdict only as the model's own answer: a verdict quoted inside
    the reason is a string, and one quoted beside the model's own makes two.
    """
    if len(reply) > LONGEST_REPLY:
        raise UnusableReplyError(f"the reply is too long: {len(reply)} characters, at most {LONGEST_REPLY}", reply)
    text = reply.strip()
    if text.startswith("<think>") and "</think>" in text:
        text = text.rpartition("</think>")[2]
    try:
        objects = _objects(text, reply)
    except RecursionError:
        raise UnusableReplyError("the reply is nested too deeply", reply) from None
    if not objects:
        kind = "HTML" if text[:1] == "<" else "no JSON object"
        raise UnusableReplyError(f"the reply holds {kind}; expected one verdict", reply)
    if len(objects) > 1:
        raise UnusableReplyError(f"the reply holds {len(objects)} JSON objects; expected exactly one verdict", reply)
    return _check(objects[0], reply)


def _objects(text: str, reply: str) -> list[dict[str, Any]]:
    """All outermost JSON objects in a text, wherever they begin; also those within a list."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if count > 1:
            raise UnusableReplyError(f"the reply's object holds {key!r} twice", reply)
        return dict(pairs)

    decoder, found, place = json.JSONDecoder(object_pairs_hook=unique), [], text.find("{")
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
    return verdict == "keep", " ".join(writable(reason).split())[:_LONGEST_REASON] or "no reason given"


class ReplyCache:
    """One small file a reply with a verdict, named after the hash of all that it depends on; None keeps nothing."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)

    @staticmethod
    def key(parts: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """The reply, or None if there is none; a damaged file counts as none."""
        if self._folder is None:
            return None
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
            return entry["reply"] if entry["key"] == key and isinstance(entry["reply"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply, whole or not at all; DistillError if it cannot be written (disk full, no permission)."""
        if self._folder is None:
            return
        try:
            write_whole(self._path(key), json.dumps({"key": key, "reply": reply}))
        except DataError as error:
            raise DistillError(f"cache: {error}") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/unirain_plugin/vlm``, or that below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unirain_plugin" / "vlm"


@VOTER.register()
@dataclass(eq=False)
class Vlm(VlmClient, Voter):
    """Shows the pair and its retrieved references to a model and takes its verdict.

    A reply without exactly one valid verdict is an abstention with the reason and the raw reply recorded, until there
    are too many of them (:meth:`.VlmClient.count`). It is asked only while the majority is open (``costly``).
    """

    registry_name = "vlm"
    costly = True
    wanted = "a verdict"
    hint = " Perhaps it takes fewer images: try images: sheet."

    name: str | None = None  # unique name within the pipeline
    # ``several`` images with a label each (vLLM needs ``--limit-mm-per-prompt``), or one contact ``sheet`` for
    # models that are weak with several
    images: Literal["several", "sheet"] = "several"
    prompt: str | None = None  # template file; None for :data:`DEFAULT_PROMPT`
    # folder of replies; None for :func:`default_folder`, False for no cache
    cache: Annotated[str | bool | None, Rule(holds=lambda v: v is not True, kind="a folder, or false for none")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Voter.__init__(self, self.name)
        self._template = load_prompt(self.prompt)
        self._cache = ReplyCache(None if self.cache is False else self.cache or default_folder())

    def fingerprint(self) -> dict[str, Any]:
        return {"type": type(self).__qualname__, "version": self.version, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        return {"model": self.model, "prompt": self._template.digest, "images": self.images,
                "decoding": self.decoding(), "schema": SCHEMA}  # fmt: skip

    def cost(self, candidates: int, references: int) -> Cost:
        return Cost(candidates, candidates * (1 if self.images == "sheet" else 2 + references))

    def vote(self, tasks: Sequence[VoteTask]) -> list[Vote]:
        """Ask about all tasks, several at a time; at the first failure of the server the rest is not asked.

        A ServiceError if the server is down, too slow, refuses the key, does not know the model, or gives too many
        useless replies in turn. A DistillError if the cache cannot be written.
        """
        self.check()
        return self.ask_all(self._vote, tasks)

    def _vote(self, task: VoteTask) -> Vote:
        images, labels = labelled_images(task)
        key = self._cache_key(task, images)
        details = {"model": self.model, "prompt": self._template.digest[:16]}
        reply = self._cache.get(key)
        fresh = reply is None
        try:
            if fresh:
                reply = self._ask(task, images, labels)
            keep, reason = parse_verdict(reply)
        except UnusableReplyError as error:
            self.count(error)
            failure = {"failure": str(error), "raw": error.raw, **({"refused": True} if error.refused else {})}
            return Vote(self.name, None, f"no usable verdict: {error}", {**details, **failure})
        self.count(None)
        if fresh:
            self._cache.put(key, reply)
        kind = {} if keep else {"kind": "model"}
        return Vote(self.name, keep, reason, {**details, **kind, "raw": reply})

    def _ask(self, task: VoteTask, images: list[np.ndarray], labels: list[str]) -> str:
        if self.images == "sheet":
            images, labels = [contact_sheet(images, labels, self.max_side)], ["CONTACT SHEET:"]
            text = self._template.sheet
        else:
            text = self._template.images
        question = fill(self._template.question, task)
        return self.ask(fill(text, task), images, labels, SCHEMA, self._template.system, question)

    def _cache_key(self, task: VoteTask, images: list[np.ndarray]) -> str:
        pixels = [hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest() for image in images]
        ids = [found.reference.id for found in task.retrieved]
        captions = [task.candidate.caption, *(found.reference.caption for found in task.retrieved)]
        return ReplyCache.key({**self._settings(), "pixels": pixels, "references": ids, "captions": captions,
                               "rain_type": task.candidate.rain_type})  # fmt: skip
