"""Walks through the finished shards of all stages, one candidate at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unirain_plugin.distill.job import Context
from unirain_plugin.distill.records import Candidate
from unirain_plugin.distill.shards import load_lines, load_rows


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A candidate and all that is known of it in the end.

    Attributes:
        number: Its number in the candidate manifest.
        candidate: The pair.
        size: (height, width), None if it could not be read.
        caption: Its caption.
        brightness: Mean luma of the rainy image, 0 to 1; None if it could not be read.
        retrieved: (reference row, s_txt, s_vis, s_perc), best first.
        keep: The decision.
        outcome: ``kept``, ``rejected``, ``tie``, ``undecided``, ``duplicate`` or ``unreadable``.
        reason: In words.
        votes: As :meth:`Vote.as_dict`.
    """

    number: int
    candidate: Candidate
    size: tuple[int, int] | None
    caption: str | None
    brightness: float | None
    retrieved: tuple[tuple[int, float, float, float], ...]
    keep: bool
    outcome: str
    reason: str
    votes: list[dict[str, Any]]


def result_rows(context: Context) -> Iterator[ResultRow]:
    """Yield all candidates in the order of their manifest; memory holds one shard."""
    number = 0
    for shard in range(context.job.shards(context.job.candidates.count)):
        yield from _shard_rows(context, shard, number)
        number += context.options.shard_size


def result_row(context: Context, number: int) -> ResultRow:
    """One candidate by its number."""
    shard, place = divmod(number, context.options.shard_size)
    return next(row for row in _shard_rows(context, shard, number - place) if row.number == number)


def _shard_rows(context: Context, shard: int, first: int) -> Iterator[ResultRow]:
    workspace = context.workspace
    described, found = workspace.shard("candidates", shard), workspace.shard("retrieval", shard)
    thumbnails = load_rows(described, "thumbnails")
    rows, similarities = load_rows(found, "rows").tolist(), load_rows(found, "similarities").tolist()
    everything = zip(
        context.candidates(shard),
        load_lines(described, "rows"),
        load_lines(workspace.shard("votes", shard), "rows"),
        strict=True,
    )
    for place, (candidate, line, verdict) in enumerate(everything):
        retrieved = tuple(
            (row, *values) for row, values in zip(rows[place], similarities[place], strict=True) if row >= 0
        )
        yield ResultRow(
            number=first + place,
            candidate=candidate,
            size=tuple(line["size"]) if line["size"] else None,
            caption=line["caption"],
            brightness=float(thumbnails[place].mean()) / 255 if line["error"] is None else None,
            retrieved=retrieved,
            keep=verdict["keep"],
            outcome=verdict["outcome"],
            reason=verdict["reason"],
            votes=verdict["votes"],
        )
