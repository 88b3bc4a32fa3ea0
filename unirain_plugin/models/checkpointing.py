"""Exact resume: everything with history goes into a checkpoint, and comes back bit for bit.

A checkpoint is the toolbox's own pair of files, so that its tools read them: ``models/net_g_ITER.pth`` (``params``
and, with EMA, ``params_ema``) and ``training_states/ITER.state`` (``epoch``, ``iter``, ``optimizers``,
``schedulers``). The state has one more entry, ``unirain``::

    version         layout of this entry
    optimizers      names of the optimisers' classes
    data            position in the data (``ResumableSampler.position_after``); None under the stock runner
    manual_seed     seed of the run
    ranks           one entry a rank: random streams (Python, NumPy, torch, CUDA) and what the model's
                    ``history_state()`` returns: loss weights and their history with the not yet reduced records of
                    this rank, gradient scaler, best-metric history, counters
"""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch.optim.lr_scheduler import LRScheduler

from unirain_plugin.checkpoints.states import atomic_save, prune_checkpoints, remove_leftovers
from unirain_plugin.errors import CheckpointError, OptionError, TrainingError
from unirain_plugin.support.random_streams import random_state, set_random_state

__all__ = ["atomic_save", "load_training_state", "network_content", "save_checkpoint"]

_VERSION = 1


def save_checkpoint(model: BaseModel, epoch: int, current_iter: int) -> None:
    """Save what is needed to go on exactly: the network first, the training state last, each atomically.

    To be called on every rank at the same iteration; rank 0 writes. ``logger: keep_checkpoints: N`` deletes all but
    the last N checkpoints (by default, as in the toolbox, all are kept).

    Args:
        model: A model with ``net_g``, perhaps ``net_g_ema``, and perhaps ``history_state()``.
        epoch: The running epoch.
        current_iter: Iterations done; −1 (end of training) writes ``net_g_latest.pth`` alone.

    Raises:
        CheckpointError: If a file cannot be written.
        TrainingError: If −1 is given before ``total_iter`` iterations were run.
    """
    rank = model.opt["rank"]
    models, states = (Path(model.opt["path"][key]) for key in ("models", "training_states"))
    if rank == 0:
        remove_leftovers(models, states)
    if current_iter == -1:
        if rank == 0:
            atomic_save(network_content(model), models / "net_g_latest.pth")
        _check_complete(model)
        return
    keep = _keep_checkpoints(model.opt)
    state = _training_state(model, epoch, current_iter)
    if rank == 0:
        atomic_save(network_content(model), models / f"net_g_{current_iter}.pth")
        atomic_save(state, states / f"{current_iter}.state")
        if keep is not None:
            prune_checkpoints(states, models, keep, current_iter)


def load_training_state(model: BaseModel, state: Mapping[str, Any]) -> None:
    """Give a freshly built model, whose networks are loaded already, the history in ``state``.

    Also sets this process's random streams, so nothing random may happen between this call and the next iteration.
    A state of the stock toolbox is accepted with a warning: it has no history.

    Raises:
        CheckpointError: If the state belongs to other optimisers, schedulers or losses.
    """
    try:
        for kind, owners in (("optimizers", model.optimizers), ("schedulers", model.schedulers)):
            if len(state[kind]) != len(owners):
                raise ValueError(f"it holds {len(state[kind])} {kind}, the option file asks for {len(owners)}")
        names = _class_names(model.optimizers)
        saved_names = state.get("unirain", {}).get("optimizers", names)
        if saved_names != names:
            raise ValueError(f"it was saved with {', '.join(saved_names)}, the option file asks for {', '.join(names)}")
        for optimizer, saved in zip(model.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(model.schedulers, state["schedulers"], strict=True):
            _load_scheduler(scheduler, saved)
        model.current_iter = state["iter"]
        if "unirain" in state:
            _load_history(model, state["unirain"])
        else:
            get_root_logger().warning(
                "The training state was written by the stock toolbox: random streams, loss weights and best metrics "
                "begin anew."
            )
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"The training state of iteration {state.get('iter')} does not fit the option file: {error}"
        ) from error


def _class_names(owners: Iterable[object]) -> list[str]:
    return [type(owner).__name__ for owner in owners]


def _load_scheduler(scheduler: LRScheduler, saved: Mapping[str, Any]) -> None:
    """Take up how far a schedule has come, but not its plan, which the option file may have changed.

    A scheduler's state holds both: with the old periods, a run that is resumed with a larger ``total_iter`` would
    fail where they end, although the option file's own were checked.
    """
    arguments = set(inspect.signature(type(scheduler)).parameters) - {"optimizer", "last_epoch"}
    derived = {"cumulative_period"}  # from the periods, by the toolbox's cosine
    plan = {name: value for name, value in scheduler.state_dict().items() if name in arguments | derived}
    changed = [name for name in arguments & plan.keys() if name in saved and saved[name] != plan[name]]
    scheduler.load_state_dict({**saved, **plan})
    if changed:
        get_root_logger().warning(
            "The learning-rate schedule is not that of the checkpoint "
            f"({', '.join(sorted(changed))} changed): the option file's is followed from here."
        )


def _check_complete(model: BaseModel) -> None:
    """Tell of a run that ended early, as the stock runner's do (it counts dropped batches as trained)."""
    done, total = getattr(model, "current_iter", 0), int(model.opt["train"]["total_iter"])
    if done < total:
        raise TrainingError(
            f"Training ended after {done} of total_iter = {total} iterations: the toolbox's own runner drops the last, "
            "incomplete batch of each epoch but counts it. Use `python -m unirain_plugin.train`, or choose "
            "batch_size_per_gpu × ranks so that it divides the number of images × dataset_enlarge_ratio. "
            f"The weights so far are saved in {model.opt['path']['models']}."
        )


def _keep_checkpoints(opt: Mapping[str, Any]) -> int | None:
    keep = opt["logger"].get("keep_checkpoints")
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise OptionError(
            f"logger: keep_checkpoints: found {keep!r}; expected a whole number of 1 or more, or nothing."
        )
    return keep


def network_content(model: BaseModel) -> dict[str, dict[str, torch.Tensor]]:
    """The weights as the toolbox's ``save_network`` lays them out, on the CPU."""
    networks = {"params": model.net_g}
    if hasattr(model, "net_g_ema"):
        networks["params_ema"] = model.net_g_ema
    return {
        key: OrderedDict(
            (name.removeprefix("module."), value.detach().cpu())
            for name, value in model.get_bare_model(net).state_dict().items()
        )
        for key, net in networks.items()
    }


def _training_state(model: BaseModel, epoch: int, current_iter: int) -> dict[str, Any]:
    """The content of ITER.state. Collective: gathers every rank's streams and history."""
    own = {"random": random_state(), "history": model.history_state() if hasattr(model, "history_state") else {}}
    ranks = [own]
    if dist.is_available() and dist.is_initialized():
        ranks = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, _plain(own))
    data_position = getattr(model, "data_position", None)
    return _plain(
        {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in model.schedulers],
            "unirain": {
                "version": _VERSION,
                "optimizers": _class_names(model.optimizers),
                "data": data_position(current_iter) if data_position else None,
                "manual_seed": model.opt["manual_seed"],
                "ranks": ranks,
            },
        }
    )


def _load_history(model: BaseModel, saved: Mapping[str, Any]) -> None:
    if saved["version"] > _VERSION:
        raise ValueError(f"it was written by a newer version of this package (layout {saved['version']})")
    ranks, rank, world_size = saved["ranks"], model.opt["rank"], model.opt["world_size"]
    if len(ranks) != world_size:
        get_root_logger().warning(
            f"The checkpoint was written by {len(ranks)} processes and is resumed by {world_size}: the random streams "
            "begin anew, so the run is not bit-identical."
        )
    own = ranks[rank] if len(ranks) == world_size else ranks[0]
    if hasattr(model, "load_history_state"):
        model.load_history_state(own["history"])
    if len(ranks) == world_size:
        set_random_state(own["random"])


def _plain(value: object) -> object:
    """The same value on the CPU, of types that ``torch.load(weights_only=True)`` reads (no NumPy, no deque)."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Counter):
        return value
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((_plain(key), _plain(item)) for key, item in value.items())
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list | deque):
        return [_plain(item) for item in value]
    return value
