"""The mathematics of the tables: mean and spread over seeds, the worst type, and when a difference is a tie."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, Mapping[str, float]]
"""Metric (``psnr`` in dB, ``ssim``) → rain type → mean over the held-out pictures."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: The mean.
        deviation: The sample's standard deviation (n − 1); None for a single seed.
        count: Number of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    def text(self, digits: int = 2) -> str:
        """``mean ± deviation``."""
        if self.deviation is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def mean_of_types(figures: Figures, metric: str = "psnr") -> float:
    """The mean of the types' means, as in the paper's tables."""
    return statistics.fmean(figures[metric].values())


def worst_type(figures: Figures, metric: str = "psnr") -> tuple[str, float]:
    """The type with the lowest mean, and that mean."""
    return min(figures[metric].items(), key=lambda item: item[1])


def verdict(baseline: Spread, variant: Spread) -> str:
    """``better``, ``worse`` or ``tie``: how the variant does against the baseline.

    A tie is a difference of means smaller than the spread of a difference, √(s₁² + s₂²), with s the standard deviations
    over the seeds (our choice: it is what two single runs differ by). With a single seed there is no spread and
    nothing is told.
    """
    if baseline.deviation is None or variant.deviation is None:
        return "not told (one seed)"
    difference = variant.mean - baseline.mean
    if difference == 0 or abs(difference) < math.hypot(baseline.deviation, variant.deviation):
        return "tie"
    return "better" if difference > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Summary:
    """One variant over its seeds.

    Attributes:
        psnr: Mean PSNR over the types, dB.
        ssim: Mean SSIM over the types.
        worst: PSNR of each run's worst type, dB.
        worst_name: The type that is worst by its mean over the seeds.
        by_type: Rain type → PSNR, dB.
    """

    psnr: Spread
    ssim: Spread
    worst: Spread
    worst_name: str
    by_type: dict[str, Spread]


def summarise(runs: Sequence[Figures]) -> Summary:
    """Summarise the runs of one variant, at least one."""
    by_type = {t: spread([run["psnr"][t] for run in runs]) for t in runs[0]["psnr"]}
    return Summary(
        psnr=spread([mean_of_types(run) for run in runs]),
        ssim=spread([mean_of_types(run, "ssim") for run in runs]),
        worst=spread([worst_type(run)[1] for run in runs]),
        worst_name=min(by_type, key=lambda name: by_type[name].mean),
        by_type=by_type,
    )
