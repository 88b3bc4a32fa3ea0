"""Validation image by image: the share of each rank, and the figures per rain type."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset

from unirain_plugin.models.metrics import mean_of
from unirain_plugin.models.routing import Shares, mean_shares
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids


@dataclass(frozen=True)
class ImageResult:
    """What the validation of one image gave.

    Attributes:
        index: Place in the data set.
        rain_type: Label, or None where the data set has no labels.
        metrics: Metric name → value; NaN where the image has none.
        loss: The plain training loss; NaN if it was not asked for.
        shares: The experts' shares, per layer.
    """

    index: int
    rain_type: int | None
    metrics: Mapping[str, float]
    loss: float = math.nan
    shares: Shares = field(default_factory=dict)


def images_of_rank(dataloader: DataLoader, rank: int, world_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, batch of one) of every ``world_size``-th image, without loading the others.

    With one rank the loader is used as it is.
    """
    if world_size == 1:
        yield from enumerate(dataloader)
        return
    indices = range(rank, len(dataloader.dataset), world_size)
    loader = DataLoader(
        Subset(dataloader.dataset, indices), collate_fn=dataloader.collate_fn, pin_memory=dataloader.pin_memory
    )
    yield from zip(indices, loader, strict=True)


def gather_in_order(results: list[ImageResult], world_size: int) -> list[ImageResult]:
    """The results of all ranks in the order of the data set, so that sums are those of a single process."""
    if world_size > 1:
        parts: list[Any] = [None] * world_size
        dist.all_gather_object(parts, results)
        results = [result for part in parts for result in part]
    return sorted(results, key=lambda result: result.index)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the random streams as they were: even making a loader's iterator draws from torch's stream.

    Without this a resumed run, which does not repeat the validation at its first iteration, would go another way.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def type_names(dataset: Any) -> dict[int, str]:
    """Label → name for a data set: its own ``rain_types``, those in its options, or the paper's four."""
    options = getattr(dataset, "opt", None) or {}
    names = getattr(dataset, "rain_types", None) or options.get("rain_types") or RAIN_TYPES
    return {label: name for name, label in rain_type_ids(names).items()}


class ValidationResult:
    """The figures of one validation set.

    For a labelled set a metric's value is the mean of the types' means (the paper's "average" column), for an
    unlabelled one the mean of all images, as in the toolbox.

    Args:
        dataset: Name of the set.
        images: Results of all images, in the set's order.
        names: Label → type name.
        better: Metric name → ``higher`` or ``lower``.
    """

    def __init__(
        self, dataset: str, images: Sequence[ImageResult], names: Mapping[int, str], better: Mapping[str, str]
    ) -> None:
        self.dataset = dataset
        self.better = better
        self._groups: dict[str, list[ImageResult]] = {}
        self._images = images
        for label in sorted({image.rain_type for image in images if image.rain_type is not None}):
            name = names.get(label, f"type{label}")
            self._groups[name] = [image for image in images if image.rain_type == label]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each type; empty for an unlabelled set."""
        return {name: len(images) for name, images in self._groups.items()}

    def values(self, metric: str) -> dict[str, list[float]]:
        """A metric of each image, by type."""
        return {name: [image.metrics[metric] for image in images] for name, images in self._groups.items()}

    def by_type(self, metric: str) -> dict[str, float]:
        """Mean of a metric over the images of each type."""
        return {name: mean_of(values) for name, values in self.values(metric).items()}

    def mean(self, metric: str) -> float:
        """Mean over types, or over images if the set has no labels."""
        if self._groups:
            return mean_of(self.by_type(metric).values())
        return mean_of(image.metrics[metric] for image in self._images)

    def worst(self, metric: str) -> tuple[str, float] | None:
        """The type with the worst mean, and that mean; None without labels or values."""
        known = [(name, value) for name, value in self.by_type(metric).items() if not math.isnan(value)]
        if not known:
            return None
        choose = min if self.better[metric] == "higher" else max
        return choose(known, key=lambda item: item[1])

    def figures(self) -> dict[str, float]:
        """All figures by name: ``psnr``, and for labelled sets ``psnr/drs``, …, ``psnr/worst``."""
        figures: dict[str, float] = {}
        for metric in self.better:
            figures[metric] = self.mean(metric)
            figures.update({f"{metric}/{name}": value for name, value in self.by_type(metric).items()})
            if worst := self.worst(metric):
                figures[f"{metric}/worst"] = worst[1]
        return figures

    def losses(self) -> dict[str, float]:
        """Mean training loss of each type; types without a loss are left out."""
        means = {name: mean_of(image.loss for image in images) for name, images in self._groups.items()}
        return {name: value for name, value in means.items() if not math.isnan(value)}

    def routing(self) -> dict[str, Shares]:
        """Type name → the experts' mean shares; one type ``all`` without labels; empty without experts."""
        groups = self._groups or {"all": list(self._images)}
        shares = {name: mean_shares([image.shares for image in images]) for name, images in groups.items()}
        return {name: layers for name, layers in shares.items() if layers}

    def table(self) -> str:
        """The figures per type as lines of text; empty for an unlabelled set."""
        if not self._groups or not self.better:
            return ""
        width = max(5, *map(len, self._groups))
        lines = [f"\t {'type':<{width}} {'images':>7}" + "".join(f" {metric:>10}" for metric in self.better)]
        for name, count in self.counts.items():
            lines.append(
                f"\t {name:<{width}} {count:>7}" + "".join(f" {self.by_type(m)[name]:>10.4f}" for m in self.better)
            )
        lines.append(
            f"\t {'mean':<{width}} {len(self._images):>7}" + "".join(f" {self.mean(m):>10.4f}" for m in self.better)
        )
        worst = [self.worst(metric) for metric in self.better]
        lines.append(f"\t {'worst':<{width}} {'':>7}" + "".join(f" {w[0] if w else '-':>10}" for w in worst))
        return "\n".join(lines) + "\n"
