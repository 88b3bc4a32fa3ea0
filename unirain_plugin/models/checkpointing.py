"""Exact resume: everything with history goes into a checkpoint, and comes back bit for bit.

A checkpoint is the toolbox's own pair of files, so that its tools read them: ``models/net_g_ITER.pth`` and
``training_states/ITER.state``. The state has one more entry, ``unirain``::

    version         layout of this entry
    optimizers      names of the optimisers' classes
    data            position in the data (``ResumableSampler.position_after``); None under the stock runner
    manual_seed     seed of the run
    options         the option file's data sets, networks, training and validation, to tell what was changed
    ranks           one entry a rank: random streams (Python, NumPy, torch, CUDA) and what the model's
                    ``history_state()`` returns

``train: resume_options`` chooses for the optimisers' settings (``lr``, ``betas``, ``weight_decay``, …) and the
learning-rate schedule: ``checkpoint`` keeps both as they were; ``file`` trains on as if the file's had been in force
from the beginning. Left out, the optimisers' settings are the checkpoint's and the schedule's plan is the file's, so
that a finished run can be made longer. All other options are the file's, and what has changed is logged.
"""

import copy
import inspect
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from unirain_plugin.checkpoints.states import atomic_save, prune_checkpoints
from unirain_plugin.errors import CheckpointError, TrainingError
from unirain_plugin.models.training_step import from_all_ranks, loss_state
from unirain_plugin.support.random_streams import random_state, set_random_state
from unirain_plugin.support.spec import differences, dotted, plain

_VERSION = 1
_WITHOUT_STATE = ("SRModel", "SwinIRModel", "SRGANModel", "ESRGANModel", "VideoBaseModel", "VideoGANModel")
"""The toolbox's models that keep nothing between iterations but what every model's checkpoint holds."""


def save_checkpoint(model: BaseModel, epoch: int, current_iter: int) -> None:
    """Save what is needed to go on exactly: the network first, the training state last, each atomically.

    Every rank calls it at the same iteration; rank 0 writes. Of −1 iterations (end of training) ``net_g_latest.pth`` is
    written alone. A CheckpointError if a file cannot be written; a TrainingError for −1 before ``total_iter``.
    """
    ended = current_iter == -1
    ranks = [] if ended else states_of_ranks(model)
    if model.opt["rank"] == 0:
        name = f"net_g_{'latest' if ended else current_iter}.pth"
        atomic_save(network_content(model), Path(model.opt["path"]["models"]) / name)
    if not ended:
        save_training_state(model, epoch, current_iter, ranks)
        return
    done, total = getattr(model, "current_iter", 0), int(model.opt["train"]["total_iter"])
    if done < total:  # as the stock runner's do, which counts dropped batches as trained
        raise TrainingError(
            f"Training ended after {done} of total_iter = {total} iterations: the toolbox's own runner drops the last, "
            "incomplete batch of each epoch but counts it. Use `python -m unirain_plugin.train`, or choose "
            "batch_size_per_gpu × ranks so that it divides the number of images × dataset_enlarge_ratio. "
            f"The weights so far are saved in {model.opt['path']['models']}."
        )


def states_of_ranks(model: BaseModel) -> list[dict[str, Any]]:
    """Random streams and history of every rank. A collective under ``torch.distributed``."""
    return from_all_ranks([_plain({"random": random_state(), "history": _history(model)})])


def save_training_state(model: BaseModel, epoch: int, current_iter: int, ranks: list[dict[str, Any]]) -> None:
    """Write ``ITER.state`` of any model (rank 0), after the networks that belong to it.

    ``ranks`` is what :func:`states_of_ranks` gave. ``logger: keep_checkpoints: N`` deletes all but the last N
    checkpoints.
    """
    if model.opt["rank"] != 0:
        return
    data_position = getattr(model, "data_position", None)
    state = {
        "epoch": epoch,
        "iter": current_iter,
        "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in model.schedulers],
        "unirain": {
            "version": _VERSION,
            "optimizers": [type(optimizer).__name__ for optimizer in model.optimizers],
            "data": data_position(current_iter) if data_position else None,
            "manual_seed": model.opt["manual_seed"],
            "options": compared_options(model.opt),
            "ranks": ranks,
        },
    }
    models, states = (Path(model.opt["path"][key]) for key in ("models", "training_states"))
    atomic_save(_plain(state), states / f"{current_iter}.state")
    if keep := model.opt["logger"].get("keep_checkpoints"):
        prune_checkpoints(states, models, keep, current_iter)


def load_training_state(model: BaseModel, state: Mapping[str, Any]) -> None:
    """Give a freshly built model, whose networks are loaded already, the history in ``state``.

    Also sets this process's random streams, so nothing random may happen before the next iteration. A state of the
    stock toolbox has no history, which a warning says. A CheckpointError if it is of other optimisers, schedulers or
    losses.
    """
    try:
        for kind, owners in (("optimizers", model.optimizers), ("schedulers", model.schedulers)):
            if len(state[kind]) != len(owners):
                raise ValueError(f"it holds {len(state[kind])} {kind}, the option file asks for {len(owners)}")
        names = [type(optimizer).__name__ for optimizer in model.optimizers]
        saved_names = state.get("unirain", {}).get("optimizers", names)
        if saved_names != names:
            raise ValueError(f"it was saved with {', '.join(saved_names)}, the option file asks for {', '.join(names)}")
        for message in restore_optimisation(model, state):
            get_root_logger().warning(message)
        model.current_iter = state["iter"]
        if "unirain" in state:
            _load_history(model, state["unirain"])
        else:
            text = "random streams, loss weights and best metrics begin anew."
            get_root_logger().warning(f"The training state was written by the stock toolbox: {text}")
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        text = f"The training state of iteration {state.get('iter')} does not fit the option file: {error}"
        raise CheckpointError(text) from error


def network_content(model: BaseModel) -> dict[str, dict[str, torch.Tensor]]:
    """The weights as the toolbox's ``save_network`` lays them out, on the CPU."""
    content = {}
    for key, attribute in (("params", "net_g"), ("params_ema", "net_g_ema")):
        if hasattr(model, attribute):
            state = model.get_bare_model(getattr(model, attribute)).state_dict()
            content[key] = OrderedDict((k.removeprefix("module."), v.detach().cpu()) for k, v in state.items())
    return content


def _history(model: BaseModel) -> dict[str, Any]:
    """What a model's ``history_state()`` tells; of any other model its losses and best metrics."""
    if hasattr(model, "history_state"):
        return model.history_state()
    return {
        "losses": {name: loss_state(loss) for name, loss in _losses(model).items()},
        "best_metric_results": getattr(model, "best_metric_results", None),
    }


def _losses(model: BaseModel) -> dict[str, nn.Module]:
    return {name: loss for name, loss in vars(model).items() if name.startswith("cri_") and isinstance(loss, nn.Module)}


def _restore_history(model: BaseModel, history: Mapping[str, Any]) -> None:
    if hasattr(model, "load_history_state") == ("losses" in history):
        text = f"The training state was written under another model_type than {type(model).__name__}"
        get_root_logger().warning(f"{text}: loss weights and best metrics begin anew.")
        return
    if hasattr(model, "load_history_state"):
        model.load_history_state(history)
        return
    losses, kind = _losses(model), type(model)
    for name, saved in history["losses"].items():
        if name in losses:
            losses[name].load_state_dict({**losses[name].state_dict(), **saved})
    if history["best_metric_results"] is not None:
        model.best_metric_results = copy.deepcopy(history["best_metric_results"])
    if not kind.__module__.startswith("basicsr.") or kind.__name__ not in _WITHOUT_STATE:
        get_root_logger().warning(
            f"Networks, optimisers, schedules, losses, random streams and the place in the data are as they were. What "
            f"else {kind.__name__} may keep from one iteration to the next is not in the checkpoint: if there is such, "
            "the resumed run is not bit-identical."
        )


def _load_history(model: BaseModel, saved: Mapping[str, Any]) -> None:
    if saved["version"] > _VERSION:
        raise ValueError(f"it was written by a newer version of this package (layout {saved['version']})")
    ranks, world_size = saved["ranks"], model.opt["world_size"]
    as_many = len(ranks) == world_size
    if not as_many:
        text = f"The checkpoint was written by {len(ranks)} processes and is resumed by {world_size}"
        get_root_logger().warning(f"{text}: the random streams begin anew, so the run is not bit-identical.")
    own = ranks[model.opt["rank"] if as_many else 0]
    _restore_history(model, own["history"])
    if as_many:
        set_random_state(own["random"])


def _plain(value: object) -> object:
    """The same value on the CPU, of types that ``torch.load(weights_only=True)`` reads (no NumPy, no deque)."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic | np.ndarray):
        return value.item() if isinstance(value, np.generic) else torch.from_numpy(value.copy())
    if isinstance(value, Counter):
        return value
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((_plain(key), _plain(item)) for key, item in value.items())
    if isinstance(value, tuple | list | deque):
        items = map(_plain, value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    return value


_COMPARED = ("datasets", "train", "val", "scale")
_CHOSEN = ("train.optim_", "train.scheduler.", "train.resume_options")


def compared_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the options that a checkpoint keeps, to be compared when it is resumed."""
    return {key: value for key, value in opt.items() if key in _COMPARED or key.startswith("network_")}


def restore_optimisation(model: BaseModel, state: Mapping[str, Any]) -> list[str]:
    """Give optimisers and schedulers of a freshly built model their state back, by the rule above.

    Returns what the option file has changed and what comes of it, as warnings. A ValueError if a schedule ends early.
    """
    choice = model.opt["train"].get("resume_options")
    changed, schedule = set(), set()
    for optimizer, saved in zip(model.optimizers, state["optimizers"], strict=True):
        name = next((key for key, value in vars(model).items() if value is optimizer), "optimizer")
        changed.update(_restore_optimizer(optimizer, saved, choice, name.replace("optimizer", "optim")))
    for scheduler, saved in zip(model.schedulers, state["schedulers"], strict=True):
        schedule |= _restore_scheduler(scheduler, saved, choice, int(model.opt["train"]["total_iter"]))
    messages, followed = [], sorted({*_other_changes(state.get("unirain", {}).get("options"), model.opt)})
    if changed and choice == "file":
        followed = [*sorted(changed), *followed]
    elif changed:
        text = "Changed in the option file but without effect, since the checkpoint's stay in force"
        advice = "Write `train: resume_options: file` to train on with the file's."
        messages.append(f"{text}: {'; '.join(sorted(changed))}. {advice}")
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
            if not scheduled and _listed(value) != _listed(was):
                yield f"train.{name}.{key.removeprefix('initial_')} {_listed(value)} (checkpoint: {_listed(was)})"
        if choice == "file":
            group.update(options)


def _restore_scheduler(scheduler: LRScheduler, saved: Mapping[str, Any], choice: str | None, total: int) -> set[str]:
    """Take up how far a schedule has come, and its plan from where it is chosen from. Returns what of the plan differs.

    A scheduler's state holds both: with the old periods, a run that is made longer would fail where they end.
    """
    arguments = set(inspect.signature(type(scheduler)).parameters) - {"optimizer", "last_epoch"}
    derived = {"cumulative_period"}  # from the periods, by the toolbox's cosine
    plan = {name: value for name, value in scheduler.state_dict().items() if name in arguments | derived}
    kept = arguments & plan.keys() & saved.keys()
    changed = {name for name in kept if _listed(saved[name]) != _listed(plan[name])}
    if arguments & plan.keys() - saved.keys():
        changed.add("type")
        if choice == "checkpoint":
            told = f"its schedule is of another type than {type(scheduler).__name__}, which the option file asks for"
            raise ValueError(f"{told} (with train: resume_options: checkpoint)")
    if choice == "file":
        with warnings.catch_warnings():  # torch expects a step of the optimiser before each
            warnings.simplefilter("ignore")
            for _ in range(saved["last_epoch"]):
                scheduler.step()
        return changed
    shared = saved.keys() & scheduler.state_dict().keys()  # one of another type has more
    scheduler.load_state_dict(dict(saved) if choice == "checkpoint" else {**{k: saved[k] for k in shared}, **plan})
    covered = getattr(scheduler, "cumulative_period", [total])[-1]
    if covered < total - 1:
        raise ValueError(f"its schedule ends after {covered} iterations, before total_iter ({total})")
    return changed


def _other_changes(saved: Mapping[str, Any] | None, opt: Mapping[str, Any]) -> Iterator[str]:
    """Every option that differs from those kept in a checkpoint (None: of an older version), as text."""
    for path, *values in differences(plain(saved), plain(compared_options(opt))) if saved else ():
        was, now = ("(left out)" if value is None else value for value in values)
        if not dotted(path).startswith(_CHOSEN):
            yield f"{dotted(path)} {now} (was {was})"


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
