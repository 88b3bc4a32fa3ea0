"""Where training figures go: a compact line of text, and everything in groups to TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from basicsr.utils import MessageLogger
from basicsr.utils.dist_util import master_only

from unirain_plugin.models.routing import draw_routing
from unirain_plugin.models.validation import ValidationResult

_GROUPS = {
    "l": "losses",
    "w": "weights",
    "slope": "reweighting",
    "tbs": "reweighting",
    "tss": "reweighting",
    "af": "reweighting",
}
_ONLY_TENSORBOARD = ("slope_", "tbs_", "tss_")
_TOOLBOX = ("epoch", "iter", "lrs", "time", "data_time")


def tag_of(name: str) -> str:
    """TensorBoard's tag of a logged value: ``l_pix`` → ``losses/l_pix``, ``tbs_drs`` → ``reweighting/tbs_drs``."""
    return f"{_GROUPS.get(name.split('_')[0], 'train')}/{name}"


class UniRainMessageLogger(MessageLogger):
    """The toolbox's message logger with a shorter line: slopes and scores of each type go to TensorBoard alone."""

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
        """See the toolbox. ``log_vars`` is left as it is."""
        values = {name: value for name, value in log_vars.items() if name not in _TOOLBOX}
        if self.use_tb_logger and self.tb_logger is not None:
            for name, value in values.items():
                self.tb_logger.add_scalar(tag_of(name), value, log_vars["iter"])
            self.tb_logger.add_scalar("train/lr", log_vars["lrs"][0], log_vars["iter"])
        text = {name: value for name, value in log_vars.items() if not name.startswith(_ONLY_TENSORBOARD)}
        use_tb_logger, self.use_tb_logger = self.use_tb_logger, False  # everything is written already
        try:
            super().__call__(text)
        finally:
            self.use_tb_logger = use_tb_logger


def validation_text(result: ValidationResult, best: Mapping[str, Mapping[str, Any]]) -> str:
    """The toolbox's lines of a validation, followed by the table per type.

    Args:
        result: The validation.
        best: Metric → ``val`` and ``iter`` of the best so far.
    """
    lines = [f"Validation {result.dataset}"]
    for metric in result.better:
        record = best[metric]
        lines.append(f"\t # {metric}: {result.mean(metric):.4f}\tBest: {record['val']:.4f} @ {record['iter']} iter")
    for metric in result.better:
        if left_out := result.left_out(metric):
            lines.append(f"\t {metric}: means leave out {left_out} (no finite value)")
    return "\n".join(lines) + "\n" + result.table()


def write_validation(tb_logger: Any, result: ValidationResult, iteration: int) -> None:
    """Write figures (``metrics/SET/psnr/drs``) and the experts' shares (``routing/SET/LAYER/drs/expert0``)."""
    for name, value in result.figures().items():
        if math.isfinite(value):
            tb_logger.add_scalar(f"metrics/{result.dataset}/{name}", value, iteration)
    for name, layers in result.routing().items():
        for layer, shares in layers.items():
            for expert, share in enumerate(shares):
                tb_logger.add_scalar(f"routing/{result.dataset}/{layer}/{name}/expert{expert}", share, iteration)


def write_routing_picture(tb_logger: Any, result: ValidationResult, iteration: int) -> None:
    """Write the heat map of the experts' shares per type as an image."""
    picture = draw_routing(result.routing())
    tb_logger.add_image(f"routing/{result.dataset}", picture, iteration, dataformats="HWC")
