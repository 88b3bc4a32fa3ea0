"""Means by rain type, over the types, the worst type, and how sure the differences between models are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unirain_plugin.compare.options import BootstrapOptions
from unirain_plugin.compare.results import ImageResult
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.rain_types import RAIN_TYPES

MEAN, WORST, ALL = "mean", "worst", "all"
"""Groups beside the rain types: mean over the types, worst type, and all pictures of a test set without types."""

_CHUNK = 2**22
"""Resampled values held at a time."""


@dataclass(frozen=True)
class Interval:
    """The difference of a model to the reference, with its bootstrap confidence interval.

    Attributes:
        difference: Mean over the rain types of the mean paired difference.
        low: Lower end.
        high: Upper end.
    """

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SetSummary:
    """One test set.

    Attributes:
        test_set: Its name.
        groups: Rain types (``all`` where it has none) and, of several types, ``mean`` and ``worst``.
        images: Group → number of pictures.
        values: Model → group → metric → value; None where the model lacks a picture or no picture has a value.
        intervals: Model → metric → difference to the reference; missing where it cannot be told.
        left_out: Model → group → metric → number of images that its mean leaves out: of infinite PSNR (equal to the
            clean image), or without a value where others have one. Missing where there are none.
    """

    test_set: str
    groups: list[str]
    images: dict[str, int]
    values: dict[str, dict[str, dict[str, float | None]]]
    intervals: dict[str, dict[str, Interval]]
    left_out: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)


Scores = dict[str, dict[str, float]]
"""Image → metric → value, of one model and test set."""


def summarise(
    results: Sequence[ImageResult],
    models: Sequence[str],
    test_set: str,
    images: Mapping[str, str | None],
    metrics: Mapping[str, bool],
    reference: str,
    bootstrap: BootstrapOptions,
) -> SetSummary:
    """Summarise one test set.

    A model gets a mean only where it has a result for every picture, so that all means of a column are over the same
    pictures.

    Args:
        results: Of all models; other test sets are passed over.
        models: Names, in order.
        test_set: Which test set.
        images: Its sound pictures → rain type.
        metrics: Name → whether higher is better.
        reference: The model that differences are taken to.
        bootstrap: The intervals.
    """
    scores: dict[str, Scores] = {model: {} for model in models}
    for result in results:
        if result.test_set == test_set:
            scores[result.model][result.image] = result.metrics
    types = group_images(images)
    values = {model: _means(scores[model], types, metrics) for model in models}
    intervals: dict[str, dict[str, Interval]] = {}
    for model in models:
        if model != reference and bootstrap.samples:
            found = {m: _interval(scores[model], scores[reference], types, m, bootstrap) for m in metrics}
            intervals[model] = {metric: interval for metric, interval in found.items() if interval is not None}
    groups = [*types, *([MEAN, WORST] if len(types) > 1 else [])]
    counts = {group: len(types.get(group, images)) for group in groups}
    left_out = {model: found for model in models if (found := _left_out(scores[model], types, metrics))}
    return SetSummary(test_set, groups, counts, values, intervals, left_out)


def group_images(images: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Rain type → pictures; the paper's four first. Pictures without one form the group ``all``."""
    types = {images[image] for image in images}
    order = [t for t in RAIN_TYPES if t in types] + sorted(t for t in types if t is not None and t not in RAIN_TYPES)
    groups = {t: [image for image in images if images[image] == t] for t in order}
    if None in types:
        groups[ALL] = [image for image in images if images[image] is None]
    return groups


def _means(
    scores: Scores, types: Mapping[str, Sequence[str]], metrics: Mapping[str, bool]
) -> dict[str, dict[str, float | None]]:
    table: dict[str, dict[str, float | None]] = {group: {} for group in types}
    for metric in metrics:
        for group, images in types.items():
            table[group][metric] = _mean(scores, images, metric)
    if len(types) > 1:
        table[MEAN], table[WORST] = {}, {}
        for metric, higher in metrics.items():
            means = [table[group][metric] for group in types]
            known = None if any(value is None for value in means) else means
            table[MEAN][metric] = known and finite_mean(known)
            table[WORST][metric] = known and (min if higher else max)(known)
    return table


def _mean(scores: Scores, images: Sequence[str], metric: str) -> float | None:
    """Mean over the pictures that have a finite value (NIQE has none for small ones).

    None if a picture has no result, or the metric failed on one (NaN).
    """
    if any(image not in scores for image in images):
        return None
    found = [scores[image][metric] for image in images if metric in scores[image]]
    return None if not found or any(math.isnan(value) for value in found) else finite_mean(found)


def _left_out(
    scores: Scores, types: Mapping[str, Sequence[str]], metrics: Mapping[str, bool]
) -> dict[str, dict[str, int]]:
    """Group → metric → images of it that have a result and are not in the mean, where there are any."""
    found: dict[str, dict[str, int]] = {}
    for group, images in types.items():
        for metric in metrics:
            values = [scores[image].get(metric) for image in images if image in scores]
            infinite = sum(value is not None and math.isinf(value) for value in values)
            missing = values.count(None)
            count = infinite + (missing if missing < len(values) else 0)
            if count:
                found.setdefault(group, {})[metric] = count
    return found


def _interval(
    ours: Scores, reference: Scores, types: Mapping[str, Sequence[str]], metric: str, options: BootstrapOptions
) -> Interval | None:
    """Percentile interval of the mean over types, pictures being drawn with replacement within each type.

    Images without a finite value on both sides are left out. None where a type has one picture only, whose resampling
    would feign certainty, or a model lacks a result or its metric failed.
    """
    differences = []
    for images in types.values():
        if any(image not in side for side in (ours, reference) for image in images):
            return None
        pairs = [(ours[image].get(metric, math.inf), reference[image].get(metric, math.inf)) for image in images]
        if any(math.isnan(value) for pair in pairs for value in pair):
            return None
        differences.append(np.array([a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]))
        if len(differences[-1]) < 2:
            return None
    rng = np.random.default_rng(options.seed)  # the same draws for every model and metric: pairs stay pairs
    means = np.mean([_resampled_means(d, options.samples, rng) for d in differences], axis=0)
    tail = (1 - options.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(np.mean([d.mean() for d in differences])), float(low), float(high))


def _resampled_means(values: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    rows = max(1, _CHUNK // len(values))
    parts = []
    for start in range(0, samples, rows):
        chosen = rng.integers(0, len(values), (min(rows, samples - start), len(values)))
        parts.append(values[chosen].mean(axis=1))
    return np.concatenate(parts)


def rank(values: Sequence[float | None], higher_is_better: bool, digits: int) -> tuple[set[int], set[int]]:
    """Which entries are best, and which second, as they are printed: equal prints share a place."""
    shown = {i: round(v, digits) for i, v in enumerate(values) if v is not None and not math.isnan(v)}
    places = sorted(set(shown.values()), reverse=higher_is_better)
    if len(shown) < 2:
        return set(), set()
    best = {i for i, v in shown.items() if v == places[0]}
    second = {i for i, v in shown.items() if len(places) > 1 and v == places[1]}
    return best, second
