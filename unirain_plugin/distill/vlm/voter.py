"""The voter that asks a vision-language model (the paper's generation stage, §2), and its replies on disk."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from unirain_plugin.distill.records import DistillError, ServiceError, Vote, VoteTask
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.vlm.client import UnusableReplyError, VlmClient
from unirain_plugin.distill.vlm.prompt import SCHEMA, contact_sheet, fill, labelled_images, load_prompt, parse_verdict
from unirain_plugin.distill.voters.base import Cost, Voter
from unirain_plugin.errors import DataError
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.spec import Rule


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


USELESS_AT_FIRST, USELESS_IN_TURN = 4, 32
"""So many replies without a verdict, before the first one with it or in turn, are not the pairs' fault (our choice)."""


@VOTER.register()
@dataclass(eq=False)
class Vlm(VlmClient, Voter):
    """Shows the pair and its retrieved references to a model and takes its verdict.

    A reply without exactly one valid verdict is an abstention with the reason and the raw reply recorded, until there
    are too many of them (:data:`USELESS_AT_FIRST`). It is asked only while the majority is open (``costly``).
    """

    registry_name = "vlm"
    costly = True

    name: str | None = None  # unique name within the pipeline
    # ``several`` images with a label each (vLLM needs ``--limit-mm-per-prompt``), or one contact ``sheet`` for
    # models that are weak with several
    images: Literal["several", "sheet"] = "several"
    prompt: str | None = None  # template file; None for :data:`.prompt.DEFAULT_PROMPT`
    # folder of replies; None for :func:`default_folder`, False for no cache
    cache: Annotated[str | bool | None, Rule(holds=lambda v: v is not True, kind="a folder, or false for none")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Voter.__init__(self, self.name)
        self._template = load_prompt(self.prompt)
        self._useless: list[UnusableReplyError] = []  # in turn
        self._useful = False
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
            self._count(error)
            failure = {"failure": str(error), "raw": error.raw, **({"refused": True} if error.refused else {})}
            return Vote(self.name, None, f"no usable verdict: {error}", {**details, **failure})
        if fresh:
            self._useful = True
            self._useless.clear()
            self._cache.put(key, reply)
        kind = {} if keep else {"kind": "model"}
        return Vote(self.name, keep, reason, {**details, **kind, "raw": reply})

    def _count(self, error: UnusableReplyError) -> None:
        self._useless.append(error)
        if len(self._useless) >= (USELESS_IN_TURN if self._useful else USELESS_AT_FIRST):
            what = "refused" if error.refused else "answered without a verdict"
            hint = " Perhaps it takes fewer images: try images: sheet." if error.refused else ""
            raise ServiceError(
                f"{self.base_url} (model {self.model}): the last {len(self._useless)} requests were "
                f"{what}. {error}. It sent: {error.raw[:300]!r}.{hint} Verdicts so far are kept: mend the server and "
                "run again."
            )

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
