"""PSNR and SSIM of rainy inputs and of restored pictures, by rain type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.errors import DataError
from unirain_plugin.metrics.psnr_ssim import finite_mean


@dataclass(frozen=True)
class Triplet:
    """The files of one held-out picture: rainy, restored, clean."""

    rain_type: str
    lq: Path
    restored: Path
    gt: Path


@dataclass(frozen=True)
class Score:
    """PSNR (dB) and SSIM against the clean picture, RGB, without border crop."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class TypeScore:
    """Mean scores of one rain type, before and after, and how many images are perfect, which their PSNR leaves out."""

    rain_type: str
    images: int
    rainy: Score
    restored: Score
    perfect: tuple[int, int] = (0, 0)


def read_bgr(path: Path) -> np.ndarray:
    """Read an 8-bit picture as (H, W, 3) BGR.

    Raises:
        DataError: If the file is missing or no picture.
    """
    data = np.fromfile(path, np.uint8) if path.is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise DataError(f"{path}: cannot be read as a picture (missing, empty or broken).")
    return image


def score(image: np.ndarray, target: np.ndarray) -> Score:
    """Score an 8-bit picture by the toolbox's own ``calculate_psnr`` and ``calculate_ssim`` (RGB)."""
    from unirain_plugin.toolbox import prepare_import

    prepare_import()
    from basicsr.metrics import calculate_psnr, calculate_ssim

    return Score(calculate_psnr(image, target, crop_border=0), calculate_ssim(image, target, crop_border=0))


def find_triplets(data_root: Path, results: Path, suffix: str, rain_types: Sequence[str]) -> list[Triplet]:
    """Pair every picture of ``data_root/{type}/{input,target}`` with ``results/{type}/NAME_{suffix}.png``.

    Raises:
        DataError: If a restored picture is missing.
    """
    triplets = []
    for rain_type in rain_types:
        for lq in sorted((data_root / rain_type / "input").iterdir()):
            restored = results / rain_type / f"{lq.stem}_{suffix}.png"
            if not restored.is_file():
                raise DataError(f"{restored}: missing; expected the restored picture of {lq}.")
            triplets.append(Triplet(rain_type, lq, restored, data_root / rain_type / "target" / lq.name))
    return triplets


def score_by_type(triplets: Sequence[Triplet]) -> list[TypeScore]:
    """Mean scores for each rain type, in order of appearance."""
    scores: dict[str, list[tuple[Score, Score]]] = {}
    for triplet in triplets:
        target = read_bgr(triplet.gt)
        pair = score(read_bgr(triplet.lq), target), score(read_bgr(triplet.restored), target)
        scores.setdefault(triplet.rain_type, []).append(pair)
    return [
        TypeScore(rain_type, len(pairs), _mean(before), _mean(after), (_perfect(before), _perfect(after)))
        for rain_type, pairs in scores.items()
        for before, after in [list(zip(*pairs, strict=True))]
    ]


def _mean(scores: Sequence[Score]) -> Score:
    return Score(finite_mean([s.psnr for s in scores]), finite_mean([s.ssim for s in scores]))


def _perfect(scores: Sequence[Score]) -> int:
    return sum(math.isinf(s.psnr) for s in scores)


def format_table(rows: Sequence[TypeScore]) -> str:
    """A plain-text table: a line a type and their mean; PSNR in dB."""
    lines = [
        "rain type   images     PSNR (dB): rainy  restored    gain    SSIM: rainy  restored",
        "-" * 82,
    ]
    for name, images, rainy, restored in [*((r.rain_type, r.images, r.rainy, r.restored) for r in rows), _total(rows)]:
        gain = restored.psnr - rainy.psnr
        lines.append(
            f"{name:<11} {images:>6} {rainy.psnr:>20.2f} {restored.psnr:>9.2f} {gain:>+7.2f}"
            f" {rainy.ssim:>14.4f} {restored.ssim:>9.4f}"
        )
    lines += [
        f"{row.rain_type}: {row.perfect[0]} rainy and {row.perfect[1]} restored images equal the clean one; "
        "their infinite PSNR is not in the mean."
        for row in rows
        if any(row.perfect)
    ]
    return "\n".join(lines)


def _total(rows: Sequence[TypeScore]) -> tuple[str, int, Score, Score]:
    """Mean over the types (not over the images), as the paper's tables have it."""
    return "mean", sum(r.images for r in rows), _mean([r.rainy for r in rows]), _mean([r.restored for r in rows])
