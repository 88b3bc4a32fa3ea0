"""All options that :class:`UniRainModel` reads, checked together before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unirain_plugin.errors import OptionError
from unirain_plugin.models.figures import BestFigure, resolve_metrics
from unirain_plugin.models.optimizers import check_scheduler
from unirain_plugin.models.settings import Settings, TrainingSettings, ValidationSettings


@dataclass(frozen=True)
class ModelOptions:
    """The parsed options."""

    training: TrainingSettings  # our keys under ``train:``; defaults when testing
    validation: ValidationSettings  # our keys under ``val:``
    metrics: Mapping[str, Mapping[str, Any]]  # ``val: metrics:`` in the toolbox's form; empty for none
    routing_freq: int | None  # ``logger: routing_freq:``, iterations between two routing images; None: each validation

    @classmethod
    def parse(cls, opt: Mapping[str, Any], is_train: bool) -> ModelOptions:
        """Parse and check an option file.

        Raises:
            OptionError: Naming every key whose value cannot be used.
        """
        settings = Settings.parse(opt if is_train else {**opt, "train": {}})
        metrics = resolve_metrics((opt.get("val") or {}).get("metrics"), settings.val.protocol) or {}
        options = cls(settings.train, settings.val, metrics, settings.logger.routing_freq)
        if is_train:
            options._check_training(opt)
        return options

    def _check_training(self, opt: Mapping[str, Any]) -> None:
        self.new_best_figure()
        if "scheduler" in opt["train"]:
            check_scheduler(opt["train"])
        data = (opt.get("datasets") or {}).get("train") or {}
        for key, ours in (("gt_size", "gt_size"), ("batch_size_per_gpu", "batch_size")):
            largest = max((getattr(stage, ours) for stage in self.training.progressive), default=0)
            if isinstance(data.get(key), int) and largest > data[key]:
                limit = f"{data[key]} (datasets: train: {key})"
                raise OptionError(f"train: progressive: {ours}: found {largest}; expected at most {limit}.")
        batch = data.get("batch_size_per_gpu")
        if isinstance(batch, int) and self.training.accumulate > batch:
            raise OptionError(
                f"train: accumulate: {self.training.accumulate} micro-batches cannot be cut from a batch of {batch} "
                "(datasets: train: batch_size_per_gpu)."
            )
        if (opt["train"].get("pixel_opt") or {}).get("source") == "val" and not opt.get("val"):
            raise OptionError("train: pixel_opt: source: val needs a validation set and a section val:.")

    @property
    def better(self) -> dict[str, str]:
        """Metric name → ``higher`` or ``lower``."""
        return {name: options["better"] for name, options in self.metrics.items()}

    def new_best_figure(self) -> BestFigure | None:
        """The record of the best figure, or None if no best network is to be kept."""
        best = self.validation.best
        return BestFigure(best, self.better) if best else None
