"""Which class a section of an option file belongs to, and which keys it may hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from unirain_plugin.options.problems import KeyPath
from unirain_plugin.options.registries import is_own, registry_entries, section
from unirain_plugin.options.toolbox_keys import STOCK_KEYS
from unirain_plugin.options.vocabulary import Signature, names_compared, reads_of, signature_of


@dataclass(frozen=True)
class Known:
    """The keys of one section.

    Attributes:
        keys: Every key that somebody reads.
        strict: Whether another key is an error whatever it is called: the toolbox would stop at it (constructor
            arguments), or the section is ours.
        owner: Who reads the section, for messages.
        own: Whether the owner is a class of this package.
        signature: The constructor's arguments, where the section becomes a call.
    """

    keys: frozenset[str]
    strict: bool
    owner: str
    own: bool
    signature: Signature | None = None


def known_keys(opt: Mapping, path: KeyPath) -> Known | None:
    """What the section at ``path`` may hold, or None where nothing is known about it.

    Everything that depends on a class is taken from the class: constructor arguments of networks, losses, metrics,
    optimisers and schedulers, and the keys that the source of models and data sets reads.
    """
    target = called(opt, path)
    if target is not None:
        return _call(*target)
    if len(path) == 2 and path[0] == "datasets":
        return _dataset(opt, path)
    name = ".".join(map(str, path))
    return _of_model(opt, name) if name in STOCK_KEYS else None


def called(opt: Mapping, path: KeyPath) -> tuple[object, tuple[str, ...], tuple[str, ...]] | None:
    """What the section at ``path`` is turned into by a call.

    Returns:
        The class or function, the keys of the section that are not its arguments, and the arguments that the toolbox
        passes itself; None if the section is no call or its ``type`` is unknown.
    """
    here = section(opt, *path) if all(isinstance(key, str) for key in path) else _dig(opt, path)
    kind = here.get("type")
    if not isinstance(kind, str) or not path:
        return None
    if len(path) == 1 and str(path[0]).startswith("network_"):
        return _target(registry_entries("arch").get(kind), ("type",))
    if path[0] == "train" and len(path) >= 2:
        if str(path[1]).startswith("optim_") and len(path) == 2:
            return _target(optimizers(opt).get(kind), ("type",), ("params",))
        if path[1] == "scheduler" and len(path) == 2:
            return _target(schedulers(opt).get(kind), ("type",), ("optimizer", "last_epoch"))
        if str(path[1]).endswith("_opt"):
            return _target(registry_entries("loss").get(kind), ("type",))
    if path[:2] == ("val", "metrics") and len(path) == 3:
        return _target(registry_entries("metric").get(kind), ("type", "better"), ("img", "img2"))
    return None


def model_class(opt: Mapping) -> type | None:
    """The registered model that the file names, if there is such."""
    name = opt.get("model_type")
    return registry_entries("model").get(name) if isinstance(name, str) else None


def dataset_class(opt: Mapping, phase: str) -> type | None:
    """The registered data set that ``datasets.<phase>`` names, if there is such."""
    name = section(opt, "datasets", phase).get("type")
    return registry_entries("dataset").get(name) if isinstance(name, str) else None


def optimizers(opt: Mapping) -> dict[str, type]:
    """The optimisers that the file's model can build, by name."""
    import torch

    model = model_class(opt)
    named = getattr(model, "OPTIMIZERS", None) or names_compared(model or object, "get_optimizer", "optim_type")
    if isinstance(named, Mapping):
        return dict(named)
    every = {name: cls for name, cls in inspect.getmembers(torch.optim, inspect.isclass) if name != "Optimizer"}
    return {name: cls for name, cls in every.items() if name in named} or every


def schedulers(opt: Mapping) -> dict[str, type]:
    """The learning-rate schedulers that the file's model can build, by name."""
    from basicsr.models import lr_scheduler

    model = model_class(opt)
    named = getattr(model, "SCHEDULERS", None) or names_compared(model or object, "setup_schedulers", "scheduler_type")
    if isinstance(named, Mapping):
        return dict(named)
    classes = {name: getattr(lr_scheduler, name, None) for name in named}
    if "MultiStepLR" in classes:  # the toolbox's short name
        classes["MultiStepLR"] = lr_scheduler.MultiStepRestartLR
    return {name: cls for name, cls in classes.items() if cls is not None}


def _dig(opt: object, path: KeyPath) -> Mapping:
    for key in path:
        try:
            opt = opt[key]
        except (KeyError, IndexError, TypeError):
            return {}
    return opt if isinstance(opt, Mapping) else {}


def _target(
    obj: object, own_keys: tuple[str, ...], passed: tuple[str, ...] = ()
) -> tuple[object, tuple[str, ...], tuple[str, ...]] | None:
    return None if obj is None else (obj, own_keys, passed)


def _call(obj: object, own_keys: tuple[str, ...], passed: tuple[str, ...]) -> Known:
    signature = signature_of(obj, passed)
    named = frozenset(getattr(obj, "OPTIONS", ()))
    keys = frozenset(signature.defaults) | set(own_keys) | named
    return Known(keys, bool(named) or not signature.open, obj.__name__, is_own(obj), signature)


def _dataset(opt: Mapping, path: KeyPath) -> Known | None:
    cls = dataset_class(opt, str(path[1]))
    if cls is None:
        return None
    reads = reads_of(cls)
    keys = STOCK_KEYS["datasets.*"] | frozenset(getattr(cls, "OPTIONS", ())) | (reads.keys() if reads else set())
    return Known(keys, is_own(cls), cls.__name__, is_own(cls))


def _of_model(opt: Mapping, name: str) -> Known | None:
    cls = model_class(opt)
    reads = reads_of(cls) if cls is not None else None
    keys = STOCK_KEYS[name]
    if cls is not None:
        keys = keys | frozenset(getattr(cls, f"{name.upper()}_OPTIONS", ()))
        keys = keys | (reads.keys(tuple(name.split(".")) if name else ()) if reads else set())
    if name == "path":
        networks = [key.removeprefix("network_") for key in opt if str(key).startswith("network_")]
        keys = keys | {f"{word}_{net}" for net in networks for word in ("pretrain_network", "strict_load", "param_key")}
    strict = is_own(cls) and name in ("train", "val")
    return Known(frozenset(keys), strict, cls.__name__ if cls is not None else "the toolbox", strict)
