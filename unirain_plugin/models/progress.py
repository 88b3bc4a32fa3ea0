"""A live progress bar when a terminal is attached; plain log lines need nothing from here."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from unirain_plugin.errors import OptionError


def wants_bar(setting: Any, rank: int) -> bool:
    """Whether to show a bar.

    Args:
        setting: ``logger: progress:`` — ``auto`` (or None: on a terminal), true or false.
        rank: Only rank 0 shows one.

    Raises:
        OptionError: If the setting is something else.
    """
    if setting not in (None, "auto", True, False):
        raise OptionError(f"logger: progress: expected auto, true or false, found {setting!r}.")
    return rank == 0 and (sys.stderr.isatty() if setting in (None, "auto") else bool(setting))


class TrainingBar:
    """Iterations, loss, time left, images per second and the worst rain type, below the lines of the log.

    Args:
        name: Title.
        total: Iterations of the whole run.
        done: Iterations that are already behind (a resumed run).
        images: Images of an iteration, over all ranks.
    """

    def __init__(self, name: str, total: int, done: int, images: int) -> None:
        self._images = images
        self._cleanup = contextlib.ExitStack()
        # log lines on the console are printed above the bar instead of through it
        self._cleanup.enter_context(logging_redirect_tqdm([logging.getLogger("basicsr")]))
        width = {"dynamic_ncols": True} if _has_width() else {"ncols": 100, "nrows": 20}
        self.bar = tqdm(total=total, initial=done, desc=name, unit="it", mininterval=0.2, **width)
        self._cleanup.callback(self.bar.close)

    def update(self, iteration: int, logs: Mapping[str, float], worst: str | None) -> None:
        """Show an iteration; redrawn only a few times a second.

        Args:
            iteration: The iteration that has just ended.
            logs: The logged values; the sum of those that start with ``l_`` is shown as the loss.
            worst: The worst type in words, or None.
        """
        loss = sum(value for name, value in logs.items() if name.startswith("l_"))
        state = self.bar.format_dict  # its rate is a moving average, known from the second drawing on
        rate = state["rate"] or (iteration - state["initial"]) / max(state["elapsed"], 1e-9)
        parts = [f"loss {loss:.4f}", f"{rate * self._images:.1f} images/s"]
        if worst:
            parts.append(f"worst {worst}")
        self.bar.set_postfix_str(", ".join(parts), refresh=False)
        self.bar.update(iteration - self.bar.n)
        if iteration >= self.bar.total:
            self.close()

    def clear(self) -> None:
        """Take the bar off the screen until the next update (a validation prints its own)."""
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
