"""What a comparison found: the plain records that tables, figures and pages are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

OK = "ok"
"""Status of a model that restored every picture."""

INPUT, GT = "input", "gt"
"""Names of the untouched rainy picture and of the clean one; no model may have them, except the baseline ``input``."""


@dataclass(frozen=True)
class ImageResult:
    """One finished model × image.

    Attributes:
        model: The model's name, as in the option file.
        test_set: The test set's name.
        image: The picture's name within its test set (its path without the suffix).
        rain_type: Its rain type, or None where the test set does not tell.
        metrics: Metric → value; a metric that needs the clean picture is missing where there is none.
    """

    model: str
    test_set: str
    image: str
    rain_type: str | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class ModelRow:
    """One model of a comparison.

    Attributes:
        name: Its name, as in the option file.
        status: ``ok``, or the reason why results are missing.
        parameters: Number of weights; None for what is no network.
        multiply_adds: Multiply-adds of one forward pass at the option file's size; None where they cannot be counted.
        latency_ms: Median time of one forward pass in milliseconds, or None.
        peak_memory_mb: Peak memory of one forward pass in a process of its own, in MiB above that of the loaded
            libraries, or None.
    """

    name: str
    status: str
    parameters: int | None = None
    multiply_adds: int | None = None
    latency_ms: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything that a run found.

    Attributes:
        name: The option file's name.
        models: In the option file's order.
        test_sets: Names, in the option file's order.
        results: Of all models, test sets and images that were finished.
        metrics: Names, in the option file's order.
        pictures: ``(test set, image)`` → the pictures in order: ``input``, each model's name that finished this image,
            and ``gt`` if there is one; uint8 RGB (H, W, 3) of one size. Read from files at every call. A model named
            ``input`` is the first entry, not repeated.
    """

    name: str
    models: list[ModelRow]
    test_sets: list[str]
    results: list[ImageResult]
    metrics: list[str]
    pictures: Callable[[str, str], dict[str, np.ndarray]]
