"""Counts by type, source, outcome and reason, and distributions before and after."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.records import Reference
from unirain_plugin.distill.results.rows import ResultRow
from unirain_plugin.distill.workspace import write_text

STATISTICS = "statistics.json"
_HISTOGRAMS = {
    "brightness": (0.0, 1.0),
    "s_txt": (0.0, 10.0),
    "s_vis": (-1.0, 1.0),
    "s_perc": (0.0, 1.0),
    "megapixels": (0.0, 4.0),
}
_BINS = 20
_TITLES = {
    "brightness": "mean luma of the rainy image",
    "s_txt": "distance of captions to the best reference",
    "s_vis": "cosine to the best reference",
    "s_perc": "SSIM with the best reference",
    "megapixels": "size in megapixels",
}


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
            low, high = _HISTOGRAMS[name]
            place = int(np.clip((value - low) / (high - low) * _BINS, 0, _BINS - 1))
            self._histograms[name][:, place] += (1, row.keep)
        self._add_agreement(row)

    def _add_agreement(self, row: ResultRow) -> None:
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
                    "what": _TITLES[name],
                    "range": list(_HISTOGRAMS[name]),
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
