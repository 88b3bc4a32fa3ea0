"""The best network so far, kept by a validation figure of the user's choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.models.settings import BestSettings


class BestFigure:
    """Remembers the best value of one validation figure.

    Args:
        settings: What is watched.
        better: Metric name → ``higher`` or ``lower``, for all metrics of ``val: metrics:``.

    Raises:
        OptionError: If the metric is not computed.
    """

    def __init__(self, settings: BestSettings, better: Mapping[str, str]) -> None:
        metric = settings.metric.split("/")[0]
        if metric not in better:
            hint = did_you_mean(metric, better)
            known = ", ".join(better) or "none"
            raise OptionError(f"val: best: metric: '{metric}' is not among val: metrics: ({known}).{hint}")
        self.settings = settings
        self._sign = 1.0 if (better[metric] == "higher" if settings.higher is None else settings.higher) else -1.0
        self.value, self.iteration, self.dataset = math.nan, -1, settings.dataset

    def improved(self, dataset: str, figures: Mapping[str, float], iteration: int) -> bool:
        """Compare and remember. A NaN never improves; an equal value does not either.

        Raises:
            OptionError: If the figure is unknown (a type that the set does not hold).
        """
        if self.dataset is None:
            self.dataset = dataset  # the first set that is validated
        if dataset != self.dataset:
            return False
        if self.settings.metric not in figures:
            hint = did_you_mean(self.settings.metric, figures)
            raise OptionError(f"val: best: metric: {dataset} has no figure '{self.settings.metric}'.{hint}")
        value = figures[self.settings.metric]
        if math.isnan(value) or not (math.isnan(self.value) or self._sign * value > self._sign * self.value):
            return False
        self.value, self.iteration = value, iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """The record, for a checkpoint."""
        return {
            "metric": self.settings.metric,
            "value": self.value,
            "iteration": self.iteration,
            "dataset": self.dataset,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a record that :meth:`state_dict` gave; a record of another figure or set is passed over."""
        if state["metric"] != self.settings.metric or self.settings.dataset not in (None, state["dataset"]):
            return
        self.value, self.iteration, self.dataset = state["value"], state["iteration"], state["dataset"]
