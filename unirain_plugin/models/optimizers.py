"""Optimisers and schedulers by name, checked before training starts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.options.check_run import schedule_faults

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name: getattr(torch.optim, name)
    for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "ASGD", "RMSprop", "Rprop")
}
"""What ``train: optim_g: type`` may name: the toolbox's (its master branch) and torch's further Adam variants."""

SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")
"""What ``train: scheduler: type`` may name: the toolbox's schedulers."""


def build_optimizer(kind: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
    """Build an optimiser (BasicSR 1.4.2 itself knows Adam only).

    Args:
        kind: A name in :data:`OPTIMIZERS`.
        params: Parameters or parameter groups, as torch takes them.
        lr: Learning rate.
        **kwargs: The optimiser's own arguments.

    Raises:
        OptionError: If the name or an argument is unknown, or a value is refused by torch.
    """
    if kind not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise OptionError(
            f"train: optim_g: type: unknown optimiser '{kind}'.{did_you_mean(kind, OPTIMIZERS)} One of {names}."
        )
    known = set(inspect.signature(OPTIMIZERS[kind]).parameters) - {"params"}
    for key in kwargs:
        if key not in known:
            raise OptionError(f"train: optim_g: {kind} has no option '{key}'.{did_you_mean(key, known)}")
    try:
        return OPTIMIZERS[kind](params, lr=lr, **kwargs)
    except (ValueError, TypeError) as error:
        raise OptionError(f"train: optim_g: {kind} refuses its options: {error}.") from error


def check_scheduler(train: Mapping[str, Any]) -> None:
    """Refuse schedules that would fail in the middle of training.

    Args:
        train: The section ``train:``.

    Raises:
        OptionError: If the scheduler is unknown, its lists do not match, or a cosine ends before ``total_iter``.
    """
    scheduler = train["scheduler"]
    kind = scheduler.get("type")
    if kind not in SCHEDULERS:
        hint = did_you_mean(kind, SCHEDULERS)
        raise OptionError(f"train: scheduler: type: unknown scheduler '{kind}'.{hint} One of {', '.join(SCHEDULERS)}.")
    for key, text in schedule_faults(scheduler, int(train["total_iter"])):
        raise OptionError(f"train: scheduler: {key}: {text}")
