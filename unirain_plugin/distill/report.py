"""The results: manifest, votes, meta-info files, statistics and HTML report, from the finished shards."""

from __future__ import annotations

import base64
import heapq
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.data.folders import types_in_order
from unirain_plugin.data.manifest import SIMILARITIES, ManifestRecord, ManifestWriter, path_from
from unirain_plugin.distill.job import Context
from unirain_plugin.distill.options import ReportOptions
from unirain_plugin.distill.records import Candidate, Reference, UnreadableImageError, read_rgb, shrink
from unirain_plugin.distill.workspace import disk_errors, load_lines, load_rows, write_text
from unirain_plugin.rain_types import describe
from unirain_plugin.support.files import whole_file
from unirain_plugin.support.packages import require


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


_FOUND = ("id", *SIMILARITIES)
MANIFEST, VOTES, META_INFO = "manifest.jsonl", "votes.jsonl", "meta_info"


def write_rows(rows: Iterable[ResultRow], references: list[Reference], folder: Path) -> Iterator[ResultRow]:
    """Write manifest and votes row by row, passing every row on; both appear when all rows have gone through.

    Manifest paths are relative to its folder. The manifest says per voter what it voted; why, and the figures, stand in
    the votes file, one line a candidate in the same order.

    Raises:
        DistillError: If the disk is full or read-only.
    """
    with disk_errors(folder), ManifestWriter(folder / MANIFEST) as manifest, whole_file(folder / VOTES) as votes:
        for row in rows:
            lq, gt = (path_from(folder, path) for path in (row.candidate.lq_path, row.candidate.gt_path))
            found = ((references[number].id, *similar) for number, *similar in row.retrieved)
            manifest.write(
                ManifestRecord(
                    lq=lq,
                    gt=gt,
                    rain_type=row.candidate.rain_type,
                    source=row.candidate.source,
                    size=row.size,
                    keep=row.keep,
                    votes={vote["voter"]: vote["verdict"] for vote in row.votes},
                    retrieved=tuple(dict(zip(_FOUND, one, strict=True)) for one in found),
                    reason=row.reason,
                )
            )
            line = {"id": row.candidate.id, "outcome": row.outcome, "caption": row.caption, "votes": row.votes}
            votes.write(json.dumps(line, ensure_ascii=True, sort_keys=True).encode() + b"\n")
            yield row


class MetaInfo:
    """BasicSR's ``meta_info_file`` for the kept pairs: ``NAME (HEIGHT,WIDTH,3)`` a line.

    The toolbox looks for a line's NAME in ``dataroot_gt`` and for the same base name in ``dataroot_lq``; so there is
    one file for each rain type and pair of folders, and ``index.json`` says which folders belong to it. Pairs whose two
    names differ, or hold a space, cannot be said in this format; they are counted there and live in the manifest.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], list[str]] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, row: ResultRow) -> None:
        """Take a pair if it is kept."""
        lq, gt = row.candidate.lq_path, row.candidate.gt_path
        if not row.keep or row.size is None:
            return
        if lq.name != gt.name or " " in gt.name:
            self._left_out[row.candidate.rain_type] += 1
            return
        key = (row.candidate.rain_type, os.path.realpath(lq.parent), os.path.realpath(gt.parent))
        self._lines.setdefault(key, []).append(f"{gt.name} ({row.size[0]},{row.size[1]},3)")

    def write(self, folder: Path) -> None:
        """Write ``meta_info/<type>.txt`` (``<type>_2.txt``, … for further folders) and ``meta_info/index.json``."""
        target = folder / META_INFO
        index: dict[str, Any] = {"files": {}, "pairs that the format cannot name": dict(sorted(self._left_out.items()))}
        seen: Counter[str] = Counter()
        for (rain_type, lq, gt), lines in self._lines.items():
            seen[rain_type] += 1
            name = f"{rain_type}.txt" if seen[rain_type] == 1 else f"{rain_type}_{seen[rain_type]}.txt"
            write_text(target / name, "\n".join(lines) + "\n")
            index["files"][name] = {
                "dataroot_lq": os.path.relpath(lq, os.path.realpath(folder)),
                "dataroot_gt": os.path.relpath(gt, os.path.realpath(folder)),
                "pairs": len(lines),
            }
        for stale in target.glob("*.txt"):
            if stale.name not in index["files"]:
                stale.unlink()
        write_text(target / "index.json", json.dumps(index, indent=1, ensure_ascii=False) + "\n")


STATISTICS = "statistics.json"
_HISTOGRAMS = {
    "brightness": ("mean luma of the rainy image", 0.0, 1.0),
    "s_txt": ("distance of captions to the best reference", 0.0, 10.0),
    "s_vis": ("cosine to the best reference", -1.0, 1.0),
    "s_perc": ("SSIM with the best reference", 0.0, 1.0),
    "megapixels": ("size in megapixels", 0.0, 4.0),
}
"""Figure → its title and the range of its histogram."""
_BINS = 20


class Statistics:
    """Gathers counts row by row; memory does not grow with the number of candidates."""

    def __init__(self, references: list[Reference]) -> None:
        self._references = references
        self._outcomes: Counter[str] = Counter()
        self._by_type: dict[str, Counter[str]] = {}
        self._by_source: dict[str, Counter[str]] = {}
        self._kinds: dict[str, Counter[str]] = {}
        self._voters: dict[str, Counter[str]] = {}
        self._histograms = {name: np.zeros((2, _BINS), np.int64) for name in _HISTOGRAMS}
        self._agreement = np.zeros(3, np.int64)  # queries judged, best reference agrees, all retrieved that agree
        self._retrieved = 0

    def add(self, row: ResultRow) -> None:
        """Count a candidate."""
        self._outcomes[row.outcome] += 1
        self._by_type.setdefault(row.candidate.rain_type, Counter())[row.outcome] += 1
        self._by_source.setdefault(row.candidate.source, Counter())[row.outcome] += 1
        for vote in row.votes:
            verdict = {True: "for", False: "against", None: "abstained"}[vote["verdict"]]
            self._voters.setdefault(vote["voter"], Counter())[verdict] += 1
            if vote["verdict"] is not True and not row.keep:
                kind = str(vote["details"].get("kind") or "unspecified")
                self._kinds.setdefault(vote["voter"], Counter())[kind] += 1
        for name, value in _figures(row).items():
            _, low, high = _HISTOGRAMS[name]
            place = int(np.clip((value - low) / (high - low) * _BINS, 0, _BINS - 1))
            self._histograms[name][:, place] += (1, row.keep)
        types = [self._references[number].rain_type for number, *_ in row.retrieved]
        if types and None not in types:
            same = [name == row.candidate.rain_type for name in types]
            self._agreement += (1, same[0], sum(same))
            self._retrieved += len(same)

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        total = sum(self._outcomes.values())
        queries, best, every = (int(value) for value in self._agreement)
        return {
            "candidates": total,
            "kept": self._outcomes["kept"],
            "kept share": round(self._outcomes["kept"] / total, 6) if total else 0.0,
            "references": len(self._references),
            "outcomes": _sorted(self._outcomes),
            "by rain type": {name: _sorted(counts) for name, counts in sorted(self._by_type.items())},
            "by source": {name or "unnamed": _sorted(counts) for name, counts in sorted(self._by_source.items())},
            "voters": {name: _sorted(counts) for name, counts in sorted(self._voters.items())},
            "reasons against the rejected": {name: _sorted(counts) for name, counts in sorted(self._kinds.items())},
            "retrieved references of the candidate's rain type": {
                "candidates judged": queries,
                "best reference": round(best / queries, 6) if queries else None,
                "all retrieved": round(every / self._retrieved, 6) if queries else None,
            },
            "distributions": {
                name: {
                    "what": _HISTOGRAMS[name][0],
                    "range": list(_HISTOGRAMS[name][1:]),
                    "before": counts[0].tolist(),
                    "after": counts[1].tolist(),
                }
                for name, counts in self._histograms.items()
            },
        }

    def write(self, folder: Path) -> None:
        """Write ``statistics.json``."""
        write_text(folder / STATISTICS, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")


def _figures(row: ResultRow) -> dict[str, float]:
    figures: dict[str, float] = {}
    if row.brightness is not None and row.size is not None:
        figures["brightness"] = row.brightness
        figures["megapixels"] = row.size[0] * row.size[1] / 1e6
    if row.retrieved:
        figures.update(zip(("s_txt", "s_vis", "s_perc"), row.retrieved[0][1:], strict=True))
    return figures


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: number for name, number in sorted(counts.items()) if number}


REPORT = "report.html"
_TEMPLATE = "report.html.j2"
_JPEG_QUALITY = 80


class Examples:
    """Chooses the examples while the rows go by: per rain type and verdict those with the smallest hash of their name.

    So the choice looks random but is the same in every run, and memory holds numbers only.

    Args:
        options: The report's section.
    """

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._chosen: dict[tuple[str, bool], list[tuple[int, int]]] = {}

    def add(self, row: ResultRow) -> None:
        """Take a candidate into consideration."""
        heap = self._chosen.setdefault((row.candidate.rain_type, row.keep), [])
        heapq.heappush(heap, (-zlib.crc32(row.candidate.id.encode("utf-8", "surrogateescape")), -row.number))
        if len(heap) > self._options.examples:
            heapq.heappop(heap)

    def write(self, context: Context, statistics: dict[str, Any], folder: Path) -> None:
        """Write ``report.html``.

        Raises:
            OptionError: If jinja2 is not installed.
        """
        jinja2 = require("jinja2", "jinja2", "report")
        source = (Path(__file__).parent / _TEMPLATE).read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"
        cards = [
            self._card(context, result_row(context, -number), keep)
            for (_, keep), heap in sorted(self._chosen.items(), key=lambda item: (item[0][0], not item[0][1]))
            for _, number in sorted(heap, reverse=True)
        ]
        text = environment.from_string(source).render(
            name=context.options.name,
            options=context.options,
            statistics=statistics,
            types=[(name, describe(name)) for name in types_in_order(statistics["by rain type"])],
            cards=cards,
            charts=[_chart(value) for value in statistics["distributions"].values()],
        )
        write_text(folder / REPORT, text)

    def _card(self, context: Context, row: ResultRow, keep: bool) -> dict[str, Any]:
        candidate = row.candidate
        return {
            "id": candidate.id,
            "type": candidate.rain_type,
            "source": candidate.source or "unnamed",
            "keep": keep,
            "outcome": row.outcome,
            "reason": row.reason,
            "caption": row.caption or "",
            "lq": self._image(candidate.lq_path),
            "gt": self._image(candidate.gt_path),
            "votes": row.votes,
            "retrieved": [
                {
                    **dict(zip(_FOUND, (context.references[number].id, *similar), strict=True)),
                    "image": self._image(context.references[number].path),
                }
                for number, *similar in row.retrieved
            ],
        }

    def _image(self, path: Path) -> str | None:
        """A small JPEG as a data URL; None if the file cannot be read."""
        try:
            image = read_rgb(path)
        except UnreadableImageError:
            return None
        small = shrink(image, self._options.image_size)
        parameters = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), parameters)[1].tobytes()
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _chart(distribution: dict[str, Any]) -> dict[str, Any]:
    """Bars in percent of each histogram's own total, before and after."""
    before, after = distribution["before"], distribution["after"]
    share = [[count / max(1, sum(counts)) for count in counts] for counts in (before, after)]
    top = max(max(values) for values in share) or 1.0
    low, high = distribution["range"]
    bars = [
        {
            "before": round(80 * b / top, 2),
            "after": round(80 * a / top, 2),
            "from": f"{low + (high - low) * i / 20:.3g}",
        }
        for i, (b, a) in enumerate(zip(*share, strict=True))
    ]
    return {"title": distribution["what"], "low": f"{low:g}", "high": f"{high:g}", "bars": bars}
