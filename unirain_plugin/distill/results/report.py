"""The HTML report: one file without any other, pictures included; deterministic."""

from __future__ import annotations

import base64
import heapq
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.distill.errors import UnreadableImageError
from unirain_plugin.distill.images import read_rgb
from unirain_plugin.distill.job import Context
from unirain_plugin.distill.options import ReportOptions
from unirain_plugin.distill.results.rows import ResultRow, result_row
from unirain_plugin.distill.workspace import write_text
from unirain_plugin.rain_types import RAIN_TYPES, RainType
from unirain_plugin.support.packages import require

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
        types = sorted(statistics["by rain type"], key=lambda name: (name not in RAIN_TYPES, name))
        text = environment.from_string(source).render(
            name=context.options.name,
            options=context.options,
            statistics=statistics,
            types=[(name, _in_words(name)) for name in types],
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
            "lq": self._picture(candidate.lq_path),
            "gt": self._picture(candidate.gt_path),
            "votes": row.votes,
            "retrieved": [
                {
                    "id": context.references[number].id,
                    "picture": self._picture(context.references[number].path),
                    "s_txt": s_txt,
                    "s_vis": s_vis,
                    "s_perc": s_perc,
                }
                for number, s_txt, s_vis, s_perc in row.retrieved
            ],
        }

    def _picture(self, path: Path) -> str | None:
        """A small JPEG as a data URL; None if the file cannot be read."""
        try:
            image = read_rgb(path)
        except UnreadableImageError:
            return None
        scale = min(1.0, self._options.image_size / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        parameters = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), parameters)[1].tobytes()
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _in_words(rain_type: str) -> str:
    return RainType[rain_type.upper()].description if rain_type in RAIN_TYPES else rain_type


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
