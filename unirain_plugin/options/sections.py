"""Which class a section of an option file belongs to, and which keys it may hold.

The source of classes is not read for this: what somebody else's class needs, only that class can tell. So a class that
is neither ours nor in the table of the toolbox's is asked for nothing, and what looks odd in its sections is a warning.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from unirain_plugin.errors import UniRainError
from unirain_plugin.options.toolbox_keys import REQUIRED, STOCK_KEYS, fits, is_known, is_own, reads_of
from unirain_plugin.support.spec import KeyPath, dotted
from unirain_plugin.toolbox import registered


def registry_entries(kind: str) -> dict[str, object]:
    """Everything registered under ``kind`` (arch, loss, dataset, model, metric) by the name an option file may use."""
    import unirain_plugin

    unirain_plugin.register()
    return registered(kind)


def section(opt: object, *path: object) -> Mapping:
    """The section at ``path``, or an empty mapping where there is none or something else stands."""
    for key in path:
        try:
            opt = opt[key]
        except (KeyError, IndexError, TypeError):
            return {}
    return opt if isinstance(opt, Mapping) else {}


def arguments_of(obj: object, skip: tuple[str, ...] = ()) -> tuple[dict[str, object], bool]:
    """The keyword arguments that ``obj`` takes, without those that the toolbox passes itself (``skip``).

    Returns argument → default (``inspect.Parameter.empty``: none), and whether ``**kwargs`` take further names.
    """
    try:
        parameters = inspect.signature(obj).parameters.values()
    except (TypeError, ValueError):  # written in C
        return {}, True
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in skip]
    return {p.name: p.default for p in named}, any(p.kind is p.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True)
class Known:
    """The keys of one section."""

    keys: frozenset[str]  # every key that somebody reads
    # whether another key is an error whatever it is called: the toolbox would stop at it (constructor arguments),
    # or the section is ours
    strict: bool
    owner: str  # who reads the section, for messages
    own: bool  # whether the owner is a class of this package
    # the constructor's arguments, where the section becomes a call; see :func:`arguments_of`
    defaults: Mapping[str, object] = field(default_factory=dict)
    foreign: bool = False  # whether the owner is a class of somebody else's


def known_keys(opt: Mapping, path: KeyPath) -> Known | None:
    """What the section at ``path`` may hold, or None where nothing is known about it.

    What depends on a class is taken from the class, by its constructor or its own list; the toolbox's are in a table.
    """
    target, name = called(opt, path), dotted(path)
    if target is not None:
        return _call(*target)
    if role_of(path) == "dataset":
        cls = dataset_class(opt, str(path[1]))
        keys = STOCK_KEYS["datasets.*"].union(getattr(cls, "OPTIONS", ()), reads_of(cls).keys())
        return None if cls is None else Known(keys, is_own(cls), cls.__name__, is_own(cls))
    return _of_model(opt, name) if name in STOCK_KEYS else None


def role_of(path: KeyPath) -> str | None:
    """What the ``type`` of the section at ``path`` names: a registry, ``optimiser`` or ``scheduler``."""
    if fits(path[:2], "train.*_opt"):
        return "loss"  # or a part of one
    return next((role for role, (pattern, *_) in _ROLES.items() if fits(path, pattern)), None)


_ROLES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "arch": ("network_*", ("type",), ()),
    "dataset": ("datasets.*", (), ()),
    "loss": ("train.*_opt", ("type",), ()),
    "metric": ("val.metrics.*", ("type", "better"), ("img", "img2")),
    "optimiser": ("train.optim_*", ("type",), ("params",)),
    "scheduler": ("train.scheduler", ("type",), ("optimizer", "last_epoch")),
}
"""Role → its sections, their keys that are no arguments of a call, and arguments that the toolbox passes itself."""


def called(opt: Mapping, path: KeyPath) -> tuple[object, tuple[str, ...], tuple[str, ...]] | None:
    """The class or function that the section at ``path`` is turned into by a call, else None.

    With it, the keys of the section that are not its arguments, and the arguments that the toolbox passes itself.
    """
    role, kind = role_of(path), section(opt, *path).get("type")
    if role in (None, "dataset") or not isinstance(kind, str):
        return None
    obj = buildable(opt, role).get(kind) if role in ("optimiser", "scheduler") else registry_entries(role).get(kind)
    _, own, passed = _ROLES[role]
    if role == "metric" and is_own(model_class(opt)):
        own = (*own, "protocol")
    return None if obj is None else (obj, own, passed)


def model_class(opt: Mapping) -> type | None:
    name = opt.get("model_type")
    return registry_entries("model").get(name) if isinstance(name, str) else None


def dataset_class(opt: Mapping, phase: str) -> type | None:
    name = section(opt, "datasets", phase).get("type")
    return registry_entries("dataset").get(name) if isinstance(name, str) else None


def buildable(opt: Mapping, role: str) -> dict[str, type]:
    """The optimisers or schedulers that the file's model can build, by name; somebody else's may have its own."""
    import torch
    from basicsr.models import lr_scheduler

    model = model_class(opt)
    named = getattr(model, {"optimiser": "OPTIMIZERS", "scheduler": "SCHEDULERS"}[role], None)
    if isinstance(named, Mapping):
        return dict(named)
    if role == "optimiser":
        classes = {name: cls for name, cls in inspect.getmembers(torch.optim, inspect.isclass) if name != "Optimizer"}
    else:
        classes = dict(inspect.getmembers(lr_scheduler, lambda entry: hasattr(entry, "get_lr")))
        classes["MultiStepLR"] = lr_scheduler.MultiStepRestartLR  # the toolbox's short name
    if not is_known(model):
        return classes if role == "optimiser" else {}
    return {name: cls for name, cls in classes.items() if _builds(model, role, name)}


def _builds(model: Any, role: str, name: str) -> bool:
    """Whether a model builds something of this name; the toolbox's raise NotImplementedError where they do not."""
    import torch

    try:
        if role == "optimiser":
            model.get_optimizer(None, name, [torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        else:
            options = {"train": {"scheduler": {"type": name}}}
            model.setup_schedulers(SimpleNamespace(opt=options, optimizers=[], schedulers=[]))
    except (NotImplementedError, UniRainError):
        return False
    return True


def doubtful(opt: Mapping) -> Callable[[KeyPath], bool]:
    """Which keys may be right whatever we think of them, since a model or data set of somebody else's reads them."""
    model = model_class(opt)
    foreign_model = model is not None and not is_known(model)
    classes = {phase: dataset_class(opt, str(phase)) for phase in section(opt, "datasets")}
    foreign = {phase for phase, cls in classes.items() if cls is not None and not is_known(cls)}

    def doubts(path: KeyPath) -> bool:
        name = dotted(path)
        if not path or name in _READ_BY_RUNNER or path[0] == "logger":
            return False
        if path[0] == "datasets":
            return len(path) > 2 and path[1] in foreign and path[2] not in STOCK_KEYS["datasets.*"]
        known = name in STOCK_KEYS[""] or str(path[0]).startswith("network_")
        return foreign_model and not known

    return doubts


_READ_BY_RUNNER = {name for names in REQUIRED.values() for name in names} | {"train.warmup_iter", "path.resume_state"}


def _call(obj: object, own_keys: tuple[str, ...], passed: tuple[str, ...]) -> Known:
    defaults, is_open = arguments_of(obj, passed)
    named = frozenset(getattr(obj, "OPTIONS", ()))
    foreign = obj.__module__.split(".")[0] not in ("unirain_plugin", "basicsr", "torch")
    keys = named.union(defaults, own_keys)
    return Known(keys, bool(named) or not is_open, obj.__name__, is_own(obj), defaults, foreign)


def _of_model(opt: Mapping, name: str) -> Known | None:
    cls = model_class(opt)
    keys = STOCK_KEYS[name] | frozenset(getattr(cls, f"{name.upper()}_OPTIONS", ()))
    keys |= reads_of(cls).keys(tuple(name.split(".")) if name else ())
    if name == "path":
        networks = [key.removeprefix("network_") for key in opt if str(key).startswith("network_")]
        keys = keys | {f"{word}_{net}" for net in networks for word in ("pretrain_network", "strict_load", "param_key")}
    strict = is_own(cls) and name in ("train", "val")
    return Known(frozenset(keys), strict, cls.__name__ if cls is not None else "the toolbox", strict)


@cache
def network_options_of(cls: type) -> frozenset[tuple[str, str]]:
    """The options, such as ``('network_g', 'window_size')``, that a model's source takes out of networks' sections."""
    found: set[tuple[str, str]] = set()
    for base in cls.__mro__[:-1]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        found = found.union(*(_read_in(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)))
    return frozenset(pair for pair in found if pair[1] != "type")


def _read_in(function: ast.FunctionDef) -> set[tuple[str, str]]:
    """What one method reads, also through a name for the section, and without looking first whether it is there."""
    nodes = list(ast.walk(function))
    given = [(target.id, node.value) for node in nodes if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)]  # fmt: skip
    names = {name: _item(value)[1] for name, value in given if sum(name == other for other, _ in given) == 1}
    asked = {node.left.value for node in nodes if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant)}
    found = set()
    for node in nodes:
        holder, option = _item(node)
        network = names.get(holder.id) if isinstance(holder, ast.Name) else _item(holder)[1]
        if str(network).startswith("network_") and option is not None and option not in asked:
            found.add((network, option))
    return found


def _item(node: ast.AST | None) -> tuple[ast.AST | None, str | None]:
    """``x`` and ``"key"`` of an expression ``x["key"]`` that is read; else twice None."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Constant):
        return node.value, node.slice.value
    return None, None
