"""What a comparison found: records, means by rain type, and how sure the differences between models are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unirain_plugin.compare.options import BootstrapOptions
from unirain_plugin.data.folders import types_in_order
from unirain_plugin.metrics.psnr_ssim import finite_mean, psnr, ssim
from unirain_plugin.metrics.scoring import Metric

OK, UNTRAINED = "ok", "untrained: cost only, no scores"
"""Status of a model that restored every image, and of one that was taken without weights, as asked."""


@dataclass(frozen=True)
class ImageResult:
    """One finished model × image: the image's name is its path without suffix within its test set.

    ``rain_type``: None where the test set does not tell. ``metrics``: name → value of those that can be computed.
    """

    model: str
    test_set: str
    image: str
    rain_type: str | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class ModelRow:
    """One model of a comparison; costs are None for what is no network, or where they could not be told."""

    name: str
    status: str  # ``ok``, or the reason why results are missing
    parameters: int | None = None
    multiply_adds: int | None = None  # of one forward pass at the option file's size
    latency_ms: float | None = None  # median time of one forward pass
    peak_memory_mb: float | None = None  # of one forward pass in a process of its own, MiB above the loaded libraries'


@dataclass(frozen=True)
class Comparison:
    """Everything that a run found; models, test sets and metrics in the option file's order.

    ``arrays``: ``(test set, image)`` → the images: ``input``, each model's that finished this one, ``gt`` if there is
    one; uint8 RGB (H, W, 3) of one size. Read from files at every call.
    """

    name: str
    models: list[ModelRow]
    test_sets: list[str]
    results: list[ImageResult]
    metrics: list[str]
    arrays: Callable[[str, str], dict[str, np.ndarray]]


Directions = Mapping[str, bool]  # metric → whether higher is better

MEAN, WORST, ALL = "mean", "worst", "all"
"""Groups beside the rain types: mean over the types, worst type, and all images of a test set without types."""

_CHUNK = 2**22  # resampled values held at a time


@dataclass(frozen=True)
class Interval:
    """Difference of a model to the reference (mean over the rain types of the paired means), with its interval."""

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SetSummary:
    """One test set. A group is a rain type (``all`` where it has none) or, of several types, ``mean`` or ``worst``."""

    test_set: str
    groups: list[str]
    images: dict[str, int]  # group → number of images
    # model → group → metric → value; None where the model lacks an image or no image has a value
    values: dict[str, dict[str, dict[str, float | None]]]
    intervals: dict[str, dict[str, Interval]]  # model → metric → difference to the reference, where it can be told
    # model → group → metric → number of images that its mean leaves out, where there are any: those of infinite PSNR
    # (equal to the clean image), and those without a value where others have one
    left_out: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a run gave."""

    comparison: Comparison
    summaries: list[SetSummary]  # one for each test set
    metrics: list[Metric]  # those that were computed
    reference: str  # the model that differences are taken to
    device: str  # where the networks ran
    failures: list[str] = field(default_factory=list)  # what went wrong; the exit status is 1 if there is anything
    remarks: list[str] = field(default_factory=list)  # what is worth knowing and no failure
    files: list[Path] = field(default_factory=list)  # tables, results, figure and page, in the order of their use

    @property
    def directions(self) -> dict[str, bool]:
        return {metric.name: metric.higher_is_better for metric in self.metrics}


Scores = dict[str, dict[str, float]]  # image → metric → value, of one model and test set

Groups = Mapping[str, Sequence[str]]  # rain type → images


def summarise(
    results: Sequence[ImageResult],
    models: Sequence[str],
    test_set: str,
    images: Mapping[str, str | None],
    metrics: Directions,
    reference: str,
    bootstrap: BootstrapOptions,
) -> SetSummary:
    """Summarise one test set, whose sound ``images`` have rain types; results of other sets are passed over.

    A model gets a mean only where it has a result for every image, so that all means of a column are over the same
    ones.
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
    """Rain type → images; the paper's four first. Images without one form the group ``all``."""
    groups: dict[str, list[str]] = {t: [] for t in types_in_order(t for t in images.values() if t is not None)}
    for image, rain_type in images.items():
        groups.setdefault(ALL if rain_type is None else rain_type, []).append(image)
    return groups


def _means(scores: Scores, types: Groups, metrics: Directions) -> dict[str, dict[str, float | None]]:
    table = {group: {metric: _mean(scores, images, metric) for metric in metrics} for group, images in types.items()}
    if len(types) > 1:
        columns = {metric: [row[metric] for row in table.values()] for metric in metrics}
        known = {metric: None if None in means else means for metric, means in columns.items()}
        table[MEAN] = {metric: means and finite_mean(means) for metric, means in known.items()}
        table[WORST] = {metric: means and (min if metrics[metric] else max)(means) for metric, means in known.items()}
    return table


def _mean(scores: Scores, images: Sequence[str], metric: str) -> float | None:
    """Mean of the finite values (NIQE has none for small images); None if a result is missing, or one failed (NaN)."""
    if any(image not in scores for image in images):
        return None
    found = [scores[image][metric] for image in images if metric in scores[image]]
    return None if not found or any(map(math.isnan, found)) else finite_mean(found)


def _left_out(scores: Scores, types: Groups, metrics: Directions) -> dict[str, dict[str, int]]:
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


def _interval(ours: Scores, reference: Scores, types: Groups, metric: str, how: BootstrapOptions) -> Interval | None:
    """Percentile interval of the mean over types, images being drawn with replacement within each type.

    Images without a finite value on both sides are left out. None where a type has one image only, whose resampling
    would feign certainty, or a model lacks a result or its metric failed.
    """
    differences = []
    for images in types.values():
        if any(image not in side for side in (ours, reference) for image in images):
            return None
        pairs = np.array([[side[image].get(metric, math.inf) for side in (ours, reference)] for image in images])
        finite = pairs[np.isfinite(pairs).all(axis=1)]
        if np.isnan(pairs).any() or len(finite) < 2:
            return None
        differences.append(finite[:, 0] - finite[:, 1])
    rng = np.random.default_rng(how.seed)  # the same draws for every model and metric: pairs stay pairs
    means = np.mean([_resampled_means(d, how.samples, rng) for d in differences], axis=0)
    tail = (1 - how.confidence) / 2
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


class Score(NamedTuple):
    """PSNR (dB) and SSIM against the clean image, RGB, without border crop."""

    psnr: float
    ssim: float


def score(image: np.ndarray, target: np.ndarray) -> Score:
    """Score an 8-bit image (H, W, 3), in RGB or, both of them, BGR; DataError if the sizes differ."""
    return Score(psnr(image, target), ssim(image, target))
