"""The manifest, the votes in full, and BasicSR's meta-info files."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unirain_plugin.data.manifest import ManifestRecord, ManifestWriter, path_from
from unirain_plugin.distill.records import Reference
from unirain_plugin.distill.results.rows import ResultRow
from unirain_plugin.distill.workspace import disk_errors, write_text
from unirain_plugin.support.files import whole_file

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
            manifest.write(_record(row, references, folder))
            _write_votes(votes, row)
            yield row


def _record(row: ResultRow, references: list[Reference], folder: Path) -> ManifestRecord:
    lq, gt = (path_from(folder, path) for path in (row.candidate.lq_path, row.candidate.gt_path))
    return ManifestRecord(
        lq=lq,
        gt=gt,
        rain_type=row.candidate.rain_type,
        source=row.candidate.source,
        size=row.size,
        keep=row.keep,
        votes={vote["voter"]: vote["verdict"] for vote in row.votes},
        retrieved=tuple(
            {"id": references[number].id, "s_txt": s_txt, "s_vis": s_vis, "s_perc": s_perc}
            for number, s_txt, s_vis, s_perc in row.retrieved
        ),
        reason=row.reason,
    )


def _write_votes(file: BinaryIO, row: ResultRow) -> None:
    line = {"id": row.candidate.id, "outcome": row.outcome, "caption": row.caption, "votes": row.votes}
    file.write(json.dumps(line, ensure_ascii=True, sort_keys=True).encode() + b"\n")


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
