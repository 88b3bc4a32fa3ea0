"""The figures of the tables: costs of the networks, mean and spread over seeds, use of experts and loss weights."""

import math
import statistics
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.complexity import Complexity, complexity
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.study.options import ReproduceOptions, Variant, network_section, variants_of


class Costs(NamedTuple):
    """What the networks cost on one image of the held-out size."""

    networks: dict[str, Complexity]  # variant's name → parameters and multiply-adds
    largest: float  # relative difference to the baseline


def measure_costs(options: ReproduceOptions, training: Mapping[str, Any]) -> Costs:
    """Count, and check that all are equal within the tolerance; the OptionError names those that are not."""
    baseline = Variant(**options.baseline)
    variants = {baseline.name: baseline}
    variants |= {v.name: v for question in options.questions for v in variants_of(options, question).values()}
    counted: dict[str, Complexity] = {}
    networks = {}
    for name, variant in variants.items():
        section = network_section(options, training, variant)
        if (key := repr(sorted(section.items()))) not in counted:
            counted[key] = _count(section, options.data.val_size, variant.name)
        networks[name] = counted[key]
    expected = networks[baseline.name].multiply_adds
    off = {name: cost.multiply_adds / expected - 1 for name, cost in networks.items()}
    wrong = [f"{name}: {networks[name]} ({d:+.1%})" for name, d in off.items() if abs(d) > options.tolerance]
    if wrong:
        raise OptionError(
            f"networks: expected the multiply-adds of {baseline.name} ({networks[baseline.name]}) within "
            f"{options.tolerance:.0%} (key 'tolerance'), found " + "; ".join(wrong) + ". Change their sizes."
        )
    return Costs(networks, max(map(abs, off.values())))


def _count(section: Mapping[str, Any], size: int, name: str) -> Complexity:
    from basicsr.archs import build_network

    try:
        network = build_network(deepcopy(dict(section)))
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"networks: {name} cannot be built: {type(error).__name__}: {error}") from None
    return complexity(network, (size, size))


Images = Mapping[str, Sequence[float]]  # rain type or test set → PSNR of each of its images, dB
Figures = Mapping[str, Mapping[str, float]]
"""Metric (``psnr`` in dB, ``ssim``) → rain type → mean over the held-out images, see :func:`means_by_type`."""


def means_by_type(values: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """Means over the images of each type, without those that equal the clean image: their PSNR is infinite.

    Metric → rain type → a value an image becomes metric → rain type → mean; ``perfect``: rain type → number of images
    that were left out, where there are some.
    """
    means = {metric: {t: finite_mean(v) for t, v in types.items()} for metric, types in values.items()}
    perfect = {t: count for t, v in values["psnr"].items() if (count := sum(map(math.isinf, v)))}
    return {**means, "perfect": perfect}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean (infinite without a finite value) and sample standard deviation over seeds (None for fewer than two)."""

    mean: float
    deviation: float | None
    count: int

    def text(self, digits: int = 2) -> str:
        """``mean ± deviation``."""
        mean = "∞" if math.isinf(self.mean) else f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of at least one value."""
    finite = [value for value in values if not math.isinf(value)]
    return Spread(finite_mean(values), statistics.stdev(finite) if len(finite) > 1 else None, len(values))


def mean_of_types(figures: Figures, metric: str = "psnr") -> float:
    """The mean of the types' means, as in the paper's tables, without types that are infinite as a whole."""
    return finite_mean(list(figures[metric].values()))


def worst_type(figures: Figures) -> tuple[str, float]:
    return min(figures["psnr"].items(), key=lambda item: item[1])


def verdict(baseline: Spread, variant: Spread) -> str:
    """``better``, ``worse`` or ``tie``: how the variant does against the baseline.

    A tie is a difference of means smaller than the spread of a difference, √(s₁² + s₂²), with s the standard deviations
    over the seeds (our choice: it is what two single runs differ by). Without a spread nothing is told.
    """
    if baseline.deviation is None or variant.deviation is None:
        return "not told (one seed)" if 1 in (baseline.count, variant.count) else "not told (infinite)"
    difference = variant.mean - baseline.mean
    if difference == 0 or abs(difference) < math.hypot(baseline.deviation, variant.deviation):
        return "tie"
    return "better" if difference > 0 else "worse"


def difference_intervals(
    baseline: Sequence[Images], variant: Sequence[Images], samples: int = 2000
) -> dict[str, tuple[float, float, float]]:
    """Type (and ``mean``) → by how much the baseline is better, lower and upper end of its 95 % interval, dB.

    A bootstrap over seeds and images: runs are drawn with replacement on each side, images within each type for both
    sides alike. Images that either side restored perfectly are left out. With three seeds and few images such intervals
    are too narrow rather than too wide.
    """
    rng = np.random.default_rng(0)
    runs = [rng.integers(len(side), size=(samples, len(side))) for side in (baseline, variant)]
    drawn: dict[str, np.ndarray] = {}
    found: dict[str, float] = {}
    for name in baseline[0]:
        tables = [np.array([run[name] for run in side], np.float64) for side in (baseline, variant)]
        finite = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
        if not finite.any():
            continue
        first, second = (table[:, finite] for table in tables)
        found[name] = float(first.mean() - second.mean())
        images = rng.integers(first.shape[1], size=(samples, first.shape[1]))
        means = [
            np.take_along_axis(table[of_side].mean(axis=1), images, axis=1).mean(axis=1)
            for table, of_side in ((first, runs[0]), (second, runs[1]))
        ]
        drawn[name] = means[0] - means[1]
    found["mean"], drawn["mean"] = finite_mean(list(found.values())), np.mean(list(drawn.values()), axis=0)
    return {name: (value, *np.quantile(drawn[name], (0.025, 0.975)).tolist()) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Summary:
    """One variant over its seeds: PSNR (dB) and SSIM, means over the types, and PSNR of each run's worst type.

    ``worst_name``: the type that is worst by its mean over the seeds.
    """

    psnr: Spread
    ssim: Spread
    worst: Spread
    worst_name: str
    by_type: dict[str, Spread]


def summarise(runs: Sequence[Figures]) -> Summary:
    by_type = {t: spread([run["psnr"][t] for run in runs]) for t in runs[0]["psnr"]}
    return Summary(
        psnr=spread([mean_of_types(run) for run in runs]),
        ssim=spread([mean_of_types(run, "ssim") for run in runs]),
        worst=spread([worst_type(run)[1] for run in runs]),
        worst_name=min(by_type, key=lambda name: by_type[name].mean),
        by_type=by_type,
    )


def expert_use(
    routing: Mapping[str, Mapping[str, Sequence[float]]], decoder: bool | None = None
) -> tuple[float, float] | None:
    """How a run's experts are used, means over layers; with n experts each figure is from 1/n to 1.

    ``routing``: rain type → layer → share of each expert; ``decoder``: of its layers only, or of the others. Returns
    the share of a layer's most used expert over all rain types (1: a collapse onto one), and the same within one rain
    type, mean over types (well above the first where types have experts of their own). None without experts.
    """
    overall, within = [], []
    for layer in next(iter(routing.values()), {}):
        if decoder in (None, layer.startswith("decoder")):
            shares = [of_type[layer] for of_type in routing.values()]
            overall.append(max(fmean(expert) for expert in zip(*shares, strict=True)))
            within.append(fmean(max(share) for share in shares))
    return (fmean(overall), fmean(within)) if overall else None


def expert_lines(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Cells of a table: variant and its experts' use, means over seeds; encoder and latent apart from the decoder."""
    lines = [("variant", "encoder: overall", "within a type", "decoder: overall", "within a type")]
    for name, runs in results.items():
        cells: list[str] = []
        for decoder in (False, True):
            uses = [use for run in runs if (use := expert_use(run["routing"], decoder))]
            cells += [f"{fmean(figures):.2f}" for figures in zip(*uses, strict=True)] or ["", ""]
        if any(cells):
            lines.append((name, *cells))
    return lines


def weight_lines(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Cells of a table: mode and the rain types' weights in the loss at the end, lowest to highest over the seeds."""
    types = list(next(iter(results.values()))[0]["loss_weights"])
    lines = [("mode", *types)]
    for name, runs in results.items():
        ranges = [[run["loss_weights"][t] for run in runs] for t in types]
        lines.append((name, *(f"{min(values):.2f} to {max(values):.2f}" for values in ranges)))
    return lines
