"""Where training figures go: a compact line of text, everything in groups to TensorBoard, a live bar on a terminal."""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basicsr.utils import MessageLogger
from basicsr.utils.dist_util import master_only
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

if TYPE_CHECKING:
    from unirain_plugin.models.validating import ValidationResult

_GROUPS = {"l": "losses", "w": "weights", **dict.fromkeys(("slope", "tbs", "tss", "af"), "reweighting")}
_ONLY_TENSORBOARD = ("slope_", "tbs_", "tss_")
_TOOLBOX = ("epoch", "iter", "lrs", "time", "data_time")


def tag_of(name: str) -> str:
    """TensorBoard's tag of a logged value: ``l_pix`` → ``losses/l_pix``, ``tbs_drs`` → ``reweighting/tbs_drs``."""
    return f"{_GROUPS.get(name.split('_')[0], 'train')}/{name}"


class UniRainMessageLogger(MessageLogger):
    """The toolbox's message logger with a shorter line: slopes and scores of each type go to TensorBoard alone."""

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
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


def validation_text(result: "ValidationResult", best: Mapping[str, Mapping[str, Any]]) -> str:
    """The toolbox's lines of a validation, followed by the table per type. ``best``: metric → ``val`` and ``iter``."""
    lines = [f"Validation {result.dataset}"]
    for metric in result.better:
        value, iteration = best[metric]["val"], best[metric]["iter"]
        lines.append(f"\t # {metric}: {result.mean(metric):.4f}\tBest: {value:.4f} @ {iteration} iter")
    for metric in result.better:
        if left_out := result.left_out(metric):
            lines.append(f"\t {metric}: means leave out {left_out} (no finite value)")
    return "\n".join(lines) + "\n" + result.table()


def write_validation(tb_logger: Any, result: "ValidationResult", iteration: int) -> None:
    """Write figures (``metrics/SET/psnr/drs``) and the experts' shares (``routing/SET/LAYER/drs/expert0``)."""
    for name, value in result.figures().items():
        if math.isfinite(value):
            tb_logger.add_scalar(f"metrics/{result.dataset}/{name}", value, iteration)
    for name, layers in result.routing().items():
        for layer, shares in layers.items():
            for expert, share in enumerate(shares):
                tb_logger.add_scalar(f"routing/{result.dataset}/{layer}/{name}/expert{expert}", share, iteration)


def wants_bar(setting: str | bool, rank: int) -> bool:
    """Whether to show a bar: on rank 0, and where ``logger: progress:`` is ``auto``, on a terminal."""
    return rank == 0 and (sys.stderr.isatty() if setting == "auto" else bool(setting))


class TrainingBar:
    """Iterations, loss, time left, images per second and the worst rain type, below the lines of the log.

    Of ``total`` iterations of the whole run ``done`` are behind.
    """

    def __init__(self, name: str, total: int, done: int) -> None:
        self._cleanup = contextlib.ExitStack()
        # log lines on the console are printed above the bar instead of through it
        self._cleanup.enter_context(logging_redirect_tqdm([logging.getLogger("basicsr")]))
        width = {"dynamic_ncols": True} if _has_width() else {"ncols": 100, "nrows": 20}
        self.bar = tqdm(total=total, initial=done, desc=name, unit="it", mininterval=0.2, **width)
        self._cleanup.callback(self.bar.close)

    def update(self, iteration: int, images: int, logs: Mapping[str, float], worst: str | None) -> None:
        """Show an iteration that has ended, at most a few times a second; the sum of all ``l_…`` is the loss.

        It had ``images``, over all ranks.
        """
        loss = sum(value for name, value in logs.items() if name.startswith("l_"))
        state = self.bar.format_dict  # its rate is a moving average, known from the second drawing on
        rate = state["rate"] or (iteration - state["initial"]) / max(state["elapsed"], 1e-9)
        parts = [f"loss {loss:.4f}", f"{rate * images:.1f} images/s"]
        if worst:
            parts.append(f"worst {worst}")
        self.bar.set_postfix_str(", ".join(parts), refresh=False)
        self.bar.update(iteration - self.bar.n)
        if iteration >= self.bar.total:
            self.close()

    def clear(self) -> None:
        self.bar.clear()

    def close(self) -> None:
        """End the bar and give the log its console back. Safe to call twice."""
        self._cleanup.close()


def _has_width() -> bool:
    """Whether the terminal tells its width: some pseudo-terminals say 0, and tqdm would draw nothing there."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # no terminal: tqdm does not ask
        return False
