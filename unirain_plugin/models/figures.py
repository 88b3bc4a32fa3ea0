"""Figures of a validation: the toolbox's metrics under short names, and the record of the best one."""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.metrics.protocols import DEFAULT, MEASURES, PROTOCOLS, check_protocol, measure_of
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.metrics.scoring import BUILT_IN, NIQE_SIDE
from unirain_plugin.toolbox import registered

_MEASURED = tuple(f"calculate_{measure}" for measure in MEASURES)


def resolve_metrics(section: Any, protocol: str | None = None) -> dict[str, dict[str, Any]] | None:
    """Bring ``val: metrics:`` into the toolbox's form: name → options with ``type``, ``better``, perhaps ``protocol``.

    A name such as ``psnr``, ``ssim_y`` or ``psnr@y-matlab`` may leave out its options or a part of them; or there is a
    list of such names, or nothing. ``protocol`` is that of PSNR and SSIM where they have none of their own. An
    OptionError if a name, ``type`` or protocol is unknown, or ``better`` is neither word.
    """
    if not section:
        return None
    if not isinstance(section, Mapping | list | tuple):
        raise OptionError(f"val: metrics: expected a mapping or a list of names, found {section!r}.")
    items = section.items() if isinstance(section, Mapping) else ((name, None) for name in section)
    return {name: _resolve(name, options, protocol) for name, options in items}


def _resolve(name: Any, options: Any, protocol: str | None) -> dict[str, Any]:
    where = f"val: metrics: {name}"
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(f"{where}: expected the metric's options, found {options!r}.")
    options = dict(options or {})
    if "type" not in options:
        options = {**_named(name, protocol), **options}
    elif protocol and options["type"] in _MEASURED:
        options.setdefault("protocol", protocol)
    known = registered("metric")
    if options["type"] not in known:
        hint = did_you_mean(options["type"], known)
        raise OptionError(f"{where}: type: unknown metric '{options['type']}'.{hint}")
    if options.setdefault("better", "higher") not in ("higher", "lower"):
        raise OptionError(f"{where}: better: expected higher or lower, found {options['better']!r}.")
    if "protocol" in options:
        check_protocol(options["protocol"], f"{where}: protocol")
        if options["type"] not in _MEASURED:
            raise OptionError(f"{where}: protocol: only {' and '.join(MEASURES)} are taken under a protocol.")
        if options.get("crop_border") or options.get("test_y_channel"):
            expected = "neither crop_border nor test_y_channel (which the ending _y stands for)"
            raise OptionError(
                f"{where}: protocol: it says what is cropped and which colours count; expected {expected}."
            )
    return options


def _named(name: Any, protocol: str | None) -> dict[str, Any]:
    found = measure_of(str(name), "val: metrics", protocol or DEFAULT)
    if found is None and name != "niqe":
        hint = did_you_mean(name, BUILT_IN)
        raise OptionError(f"val: metrics: '{name}' has no type and is none of {', '.join(BUILT_IN)}.{hint}")
    if found is None:
        return {"type": "calculate_niqe", "crop_border": 0, "better": "lower"}
    on_y = name.endswith("_y")
    options = {"type": f"calculate_{found[0]}", "crop_border": 0, "test_y_channel": on_y, "better": "higher"}
    return options if on_y or not (protocol or "@" in name) else {**options, "protocol": found[1]}


class MetricSuite:
    """Computes all metrics of one image and warns, once each, about those that an image is too small for."""

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self.metrics = metrics
        for name, protocol in ((name, options.get("protocol")) for name, options in metrics.items()):
            if protocol:
                get_root_logger().info(f"Metric {name}: protocol {protocol}, {PROTOCOLS[protocol]}.")
        self._warned: set[str] = set()

    def __call__(self, restored: np.ndarray, target: np.ndarray | None, name: str) -> dict[str, float]:
        """Metric name → value of an image (H, W, 3) uint8, BGR; NaN where it has none.

        ``target`` is the clean image; None leaves reference metrics without a value. ``name`` is for the warning.
        """
        data = {"img": restored} if target is None else {"img": restored, "img2": target}
        return {metric: self._value(metric, dict(options), data, name) for metric, options in self.metrics.items()}

    def _value(self, metric: str, options: dict[str, Any], data: Mapping[str, np.ndarray], name: str) -> float:
        function = registered("metric")[options["type"]]
        if "img2" not in data and "img2" in inspect.signature(function).parameters:
            return self._none(metric, f"{name} has no ground truth")
        protocol, measure = options.pop("protocol", None), options["type"].removeprefix("calculate_")
        taken = PROTOCOLS[protocol or DEFAULT]
        side = min(taken.cut(data["img"]).shape[:2]) - 2 * options.get("crop_border", 0)
        least = NIQE_SIDE if measure == "niqe" else taken.smallest(measure)
        if side < least:
            return self._none(metric, f"{name}: the shorter side is {side} pixels, needed are {least}")
        options.pop("better")
        try:
            if protocol is not None:
                value = taken.value(measure, data["img"][..., ::-1], data["img2"][..., ::-1])
            else:
                value = float(calculate_metric(data, options))
        except np.linalg.LinAlgError:  # NIQE of a flat image
            return self._none(metric, f"{name} is flat")
        return self._none(metric, f"{name} gives NaN") if math.isnan(value) else value

    def _none(self, metric: str, reason: str) -> float:
        if metric not in self._warned:
            self._warned.add(metric)
            get_root_logger().warning(f"Metric {metric} leaves out images that have no value; the first: {reason}.")
        return math.nan


def mean_of(values: Iterable[float]) -> float:
    """Mean of the finite values, in their order; infinite where all that are no NaN are, NaN without any."""
    kept = [value for value in values if not math.isnan(value)]
    return finite_mean(kept) if kept else math.nan


@dataclass(frozen=True)
class BestSettings:
    """``val: best:``, which validation figure decides on ``net_g_best.pth``."""

    metric: str  # a name under ``val: metrics:``, or one of its parts: ``psnr/worst``, ``psnr/drs``
    higher: bool | None = None  # whether more is better; None follows the metric's own ``better``
    dataset: str | None = None  # name of the validation set; None means the first one that is validated


class BestFigure:
    """Remembers the best value of one validation figure.

    ``better`` is metric name → ``higher`` or ``lower``; an OptionError if the one to be watched is not among them.
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
        """Compare and remember; neither NaN nor an equal value improves. An OptionError if the figure is unknown."""
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
        record = {"metric": self.settings.metric, "value": self.value}
        return {**record, "iteration": self.iteration, "dataset": self.dataset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a record; one of another figure or set is passed over."""
        if state["metric"] != self.settings.metric or self.settings.dataset not in (None, state["dataset"]):
            return
        self.value, self.iteration, self.dataset = state["value"], state["iteration"], state["dataset"]
