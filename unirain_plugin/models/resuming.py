"""A resume under a changed option file: what is taken from the file, what from the checkpoint, and that it is said.

``train: resume_options`` chooses for the optimisers' settings (``lr``, ``betas``, ``weight_decay``, …) and the
learning-rate schedule: ``checkpoint`` keeps both as they were; ``file`` trains on as if the file's had been in force
from the beginning. Left out, the optimisers' settings are the checkpoint's and the schedule's plan is the file's, so
that a finished run can be made longer. All other options are always the file's.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from torch.optim.lr_scheduler import LRScheduler

_COMPARED = ("datasets", "train", "val", "scale")
_CHOSEN = ("train.optim_", "train.scheduler.", "train.resume_options")


def compared_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the options that a checkpoint keeps, to be compared when it is resumed."""
    return {key: value for key, value in opt.items() if key in _COMPARED or key.startswith("network_")}


def restore_optimisation(model: BaseModel, state: Mapping[str, Any]) -> list[str]:
    """Give optimisers and schedulers their state back, by the rule above.

    Args:
        model: The freshly built model.
        state: The training state.

    Returns:
        What the option file has changed and what comes of it, as warnings.

    Raises:
        ValueError: If the state belongs to other optimisers or schedulers, its schedule ends too early, or the choice
            is none of the two.
    """
    choice = model.opt["train"].get("resume_options")
    if choice not in (None, "checkpoint", "file"):
        raise ValueError(f"train: resume_options: found {choice!r}; expected checkpoint or file")
    changed, schedule = set(), set()
    for optimizer, saved in zip(model.optimizers, state["optimizers"], strict=True):
        name = next((key for key, value in vars(model).items() if value is optimizer), "optimizer")
        changed.update(_restore_optimizer(optimizer, saved, choice, name.replace("optimizer", "optim")))
    for scheduler, saved in zip(model.schedulers, state["schedulers"], strict=True):
        schedule |= _restore_scheduler(scheduler, saved, choice, int(model.opt["train"]["total_iter"]))
    followed = sorted({*_other_changes(state.get("unirain", {}).get("options"), model.opt)})
    messages = []
    if changed and choice == "file":
        followed = [*sorted(changed), *followed]
    elif changed:
        messages.append(
            f"Changed in the option file but without effect, since the checkpoint's stay in force: "
            f"{'; '.join(sorted(changed))}. Write `train: resume_options: file` to train on with the file's."
        )
    if schedule:
        follow = "the checkpoint's is kept" if choice == "checkpoint" else "the option file's is followed from here"
        names = ", ".join(sorted(schedule))
        messages.append(f"The learning-rate schedule is not that of the checkpoint ({names} changed): {follow}.")
    if followed:
        messages.append(f"Changed in the option file and in force from here: {'; '.join(followed)}.")
    return messages


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], choice: str | None, name: str
) -> Iterator[str]:
    """Load the state; yields each setting that differs, as text."""
    wanted = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, options in zip(optimizer.param_groups, wanted, strict=True):
        for key, value in options.items():
            was = group.get(key)
            scheduled = key == "lr" and "initial_lr" in options  # the rate itself follows from the schedule
            if not scheduled and _plain(value) != _plain(was):
                yield f"train.{name}.{key.removeprefix('initial_')} {_plain(value)} (checkpoint: {_plain(was)})"
        if choice == "file":
            group.update(options)


def _restore_scheduler(scheduler: LRScheduler, saved: Mapping[str, Any], choice: str | None, total: int) -> set[str]:
    """Take up how far a schedule has come, and its plan from where it is chosen from. Returns what of the plan differs.

    A scheduler's state holds both: with the old periods, a run that is resumed with a larger ``total_iter`` would
    fail where they end, although the option file's own were checked.
    """
    arguments = set(inspect.signature(type(scheduler)).parameters) - {"optimizer", "last_epoch"}
    derived = {"cumulative_period"}  # from the periods, by the toolbox's cosine
    plan = {name: value for name, value in scheduler.state_dict().items() if name in arguments | derived}
    changed = {name for name in arguments & plan.keys() if name in saved and _plain(saved[name]) != _plain(plan[name])}
    if choice == "file":
        with warnings.catch_warnings():  # torch expects a step of the optimiser before each
            warnings.simplefilter("ignore")
            for _ in range(saved["last_epoch"]):
                scheduler.step()
        return changed
    scheduler.load_state_dict(dict(saved) if choice == "checkpoint" else {**saved, **plan})
    covered = getattr(scheduler, "cumulative_period", [total])[-1]
    if covered < total - 1:
        raise ValueError(f"its schedule ends after {covered} iterations, before total_iter ({total})")
    return changed


def _other_changes(saved: Mapping[str, Any] | None, opt: Mapping[str, Any]) -> Iterator[str]:
    """Every option that differs from those kept in a checkpoint (None: of an older version), as text."""
    before, now = dict(_leaves(saved or {})), dict(_leaves(compared_options(opt)))
    for key in dict.fromkeys([*before, *now]) if saved else ():
        if before.get(key) != now.get(key) and not key.startswith(_CHOSEN):
            yield f"{key} {now.get(key, '(left out)')} (was {before.get(key, '(left out)')})"


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, _plain(value)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
