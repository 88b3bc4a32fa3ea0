"""The results: manifest, votes, meta-info files, statistics and HTML report, from the finished shards."""

import base64
import heapq
import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.data.folders import types_in_order
from unirain_plugin.data.manifest import SIMILARITIES, ManifestRecord, ManifestWriter, path_from
from unirain_plugin.distill.job import Context
from unirain_plugin.distill.options import ReportOptions
from unirain_plugin.distill.records import Candidate, Reference, read_rgb, shrink
from unirain_plugin.distill.workspace import disk_errors, load_lines, load_rows, write_text
from unirain_plugin.errors import DataError
from unirain_plugin.rain_types import describe
from unirain_plugin.support.files import whole_file
from unirain_plugin.support.packages import require


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A candidate and all that is known of it in the end."""

    number: int  # its number in the candidate manifest
    candidate: Candidate  # the pair
    size: tuple[int, int] | None  # (height, width), None if it could not be read
    caption: str | None  # its caption
    brightness: float | None  # mean luma of the rainy image, 0 to 1; None if it could not be read
    retrieved: tuple[tuple[int, float, float, float], ...]  # (reference row, s_txt, s_vis, s_perc), best first
    keep: bool  # the decision
    outcome: str  # ``kept``, ``rejected``, ``tie``, ``undecided``, ``duplicate`` or ``unreadable``
    reason: str  # in words
    votes: list[dict[str, Any]]  # as :meth:`Vote.as_dict`


def result_rows(context: Context) -> Iterator[ResultRow]:
    """Yield all candidates in the order of their manifest; memory holds one shard."""
    for shard in range(context.job.shards(context.job.candidates)):
        yield from _shard_rows(context, shard)


def _shard_rows(context: Context, shard: int) -> Iterator[ResultRow]:
    workspace = context.workspace
    described, found = workspace.shard("candidates", shard), workspace.shard("retrieval", shard)
    thumbnails = load_rows(described, "thumbnails")
    rows, similarities = load_rows(found, "rows").tolist(), load_rows(found, "similarities").tolist()
    lines, verdicts = load_lines(described, "rows"), load_lines(workspace.shard("votes", shard), "rows")
    everything = zip(context.candidates(shard), lines, verdicts, strict=True)
    for place, (candidate, line, verdict) in enumerate(everything):
        yield ResultRow(
            number=shard * context.options.shard_size + place,
            candidate=candidate,
            size=tuple(line["size"]) if line["size"] else None,
            caption=line["caption"],
            brightness=float(thumbnails[place].mean()) / 255 if line["error"] is None else None,
            retrieved=tuple((row, *s) for row, s in zip(rows[place], similarities[place], strict=True) if row >= 0),
            **verdict,
        )


MANIFEST, VOTES, META_INFO = "manifest.jsonl", "votes.jsonl", "meta_info"


def write_rows(rows: Iterable[ResultRow], references: list[Reference], folder: Path) -> Iterator[ResultRow]:
    """Write manifest and votes row by row, passing every row on; both appear when all rows have gone through.

    Manifest paths are relative to its folder. It says per voter what it voted; why, and the figures, stand in the votes
    file, one line a candidate in the same order. A DistillError if the disk is full or read-only.
    """
    with disk_errors(folder), ManifestWriter(folder / MANIFEST) as manifest, whole_file(folder / VOTES) as votes:
        for row in rows:
            candidate = row.candidate
            lq, gt = (path_from(folder, path) for path in (candidate.lq_path, candidate.gt_path))
            cast = {vote["voter"]: vote["verdict"] for vote in row.votes}
            found = tuple(_as_found(references, *one) for one in row.retrieved)
            pair = lq, gt, candidate.rain_type, candidate.source, row.size
            manifest.write(ManifestRecord(*pair, row.keep, cast, found, row.reason))
            line = {"id": candidate.id, "outcome": row.outcome, "caption": row.caption, "votes": row.votes}
            votes.write(json.dumps(line, ensure_ascii=True, sort_keys=True).encode() + b"\n")
            yield row


def _as_found(references: list[Reference], number: int, *similarities: float) -> dict[str, Any]:
    return {"id": references[number].id, **dict(zip(SIMILARITIES, similarities, strict=True))}


class MetaInfo:
    """BasicSR's ``meta_info_file`` for the kept pairs: ``NAME (HEIGHT,WIDTH,3)`` a line.

    The toolbox looks for NAME in ``dataroot_gt`` and for the same base name in ``dataroot_lq``; so there is one file
    for each rain type and pair of folders, which ``index.json`` tells. Pairs whose two names differ, or hold a space,
    cannot be said in this format; they are counted there and live in the manifest.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], list[str]] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, row: ResultRow) -> None:
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
            lq, gt = (os.path.relpath(path, os.path.realpath(folder)) for path in (lq, gt))
            index["files"][name] = {"dataroot_lq": lq, "dataroot_gt": gt, "pairs": len(lines)}
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
        self._by_type, self._by_source, self._kinds, self._voters = (defaultdict(Counter) for _ in range(4))
        self._histograms = {name: np.zeros((2, _BINS), np.int64) for name in _HISTOGRAMS}
        self._agreement = np.zeros(3, np.int64)  # queries judged, best reference agrees, all retrieved that agree
        self._retrieved = 0

    def add(self, row: ResultRow) -> None:
        self._outcomes[row.outcome] += 1
        self._by_type[row.candidate.rain_type][row.outcome] += 1
        self._by_source[row.candidate.source][row.outcome] += 1
        for vote in row.votes:
            verdict = {True: "for", False: "against", None: "abstained"}[vote["verdict"]]
            self._voters[vote["voter"]][verdict] += 1
            if vote["verdict"] is not True and not row.keep:
                kind = str(vote["details"].get("kind") or "unspecified")
                self._kinds[vote["voter"]][kind] += 1
        figures = dict(zip(SIMILARITIES, row.retrieved[0][1:], strict=True)) if row.retrieved else {}
        if row.brightness is not None and row.size is not None:
            figures |= {"brightness": row.brightness, "megapixels": row.size[0] * row.size[1] / 1e6}
        for name, value in figures.items():
            _, low, high = _HISTOGRAMS[name]
            place = int(np.clip((value - low) / (high - low) * _BINS, 0, _BINS - 1))
            self._histograms[name][:, place] += (1, row.keep)
        types = [self._references[number].rain_type for number, *_ in row.retrieved]
        if types and None not in types:
            same = [name == row.candidate.rain_type for name in types]
            self._agreement += (1, same[0], sum(same))
            self._retrieved += len(same)

    def as_dict(self) -> dict[str, Any]:
        total = sum(self._outcomes.values())
        queries, best, every = (int(value) for value in self._agreement)
        return {
            "candidates": total,
            "kept": self._outcomes["kept"],
            "kept share": round(self._outcomes["kept"] / total, 6) if total else 0.0,
            "references": len(self._references),
            "outcomes": _sorted(self._outcomes),
            "by rain type": _by_name(self._by_type),
            "by source": _by_name(self._by_source),
            "voters": _by_name(self._voters),
            "reasons against the rejected": _by_name(self._kinds),
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
        write_text(folder / STATISTICS, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")


def _by_name(tables: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name or "unnamed": _sorted(counts) for name, counts in sorted(tables.items())}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: number for name, number in sorted(counts.items()) if number}


REPORT = "report.html"


class Examples:
    """Per rain type and verdict those with the smallest hash of their name: as if by chance, but always the same."""

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._chosen: dict[tuple[str, bool], list[tuple[int, int]]] = {}

    def add(self, row: ResultRow) -> None:
        heap = self._chosen.setdefault((row.candidate.rain_type, row.keep), [])
        heapq.heappush(heap, (-zlib.crc32(row.candidate.id.encode("utf-8", "surrogateescape")), -row.number))
        if len(heap) > self._options.examples:
            heapq.heappop(heap)

    def write(self, context: Context, statistics: dict[str, Any], folder: Path) -> None:
        jinja2 = require("jinja2", "jinja2", "report")
        source = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"
        cards = [
            self._card(context, -number, keep)
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

    def _card(self, context: Context, number: int, keep: bool) -> dict[str, Any]:
        shard, place = divmod(number, context.options.shard_size)
        row = next(islice(_shard_rows(context, shard), place, None))
        candidate, references = row.candidate, context.references
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
                {**_as_found(references, *one), "image": self._image(references[one[0]].path)} for one in row.retrieved
            ],
        }

    def _image(self, path: Path) -> str | None:
        """A small JPEG as a data URL; None if the file cannot be read."""
        try:
            image = read_rgb(path)
        except DataError:
            return None
        small = shrink(image, self._options.image_size)
        data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _chart(distribution: dict[str, Any]) -> dict[str, Any]:
    before, after = distribution["before"], distribution["after"]
    share = [[count / max(1, sum(counts)) for count in counts] for counts in (before, after)]
    top = max(max(values) for values in share) or 1.0
    low, high = distribution["range"]
    starts = np.linspace(low, high, _BINS, endpoint=False)
    bars = [
        {"before": round(80 * b / top, 2), "after": round(80 * a / top, 2), "from": f"{start:.3g}"}
        for start, b, a in zip(starts, *share, strict=True)
    ]
    return {"title": distribution["what"], "low": f"{low:g}", "high": f"{high:g}", "bars": bars}
