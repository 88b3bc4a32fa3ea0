"""Checking a whole option file before the toolbox sees it: every mistake is found and named in one go.

Sections of this package's own classes are checked by the classes themselves (:func:`check_own`), the toolbox's keys by
the table of :mod:`unirain_plugin.options.toolbox_keys`, constructor arguments of other classes by their signatures.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import copy
from inspect import Parameter

from unirain_plugin.data.dataset_options import LOADER_KEYS
from unirain_plugin.errors import meant_or_known, nearest
from unirain_plugin.options import sections as parts
from unirain_plugin.options.check_data import check_data, check_labels
from unirain_plugin.options.check_run import check_run
from unirain_plugin.options.sections import Known, called, dataset_class, known_keys, model_class, role_of, section
from unirain_plugin.options.toolbox_keys import (
    REQUIRED,
    SET_BY_TOOLBOX,
    UNREAD,
    home_of,
    is_known,
    is_own,
    reads_of,
    rule_for,
)
from unirain_plugin.options.yaml_loader import Problems
from unirain_plugin.support.spec import KeyPath, SectionError, complaint, dotted, found, number_meant, plain, words
from unirain_plugin.toolbox import replaced


def find_problems(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool = True) -> None:
    """Note what is wrong with ``opt``, which is not changed; ``check_paths``: data and weights must exist."""
    problems.doubts = parts.doubtful(opt)
    models = parts.registry_entries("model")
    _check_name(opt.get("model_type"), models, ("model_type",), "no model is named", problems)
    for check in (_check_type, _check_values, _check_keys):
        for path, here in sections(opt):
            check(opt, path, here, problems)
    _check_required(opt, problems, is_train)
    check_run(opt, problems, is_train)
    check_data(opt, problems, is_train, check_paths)
    check_own(opt, problems, is_train)
    check_labels(opt, problems, is_train, check_paths)


def sections(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Mapping]]:
    """Every mapping inside ``value``, outermost first."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield from sections(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from sections(inner, (*path, index))


def _check_type(opt: Mapping, path: KeyPath, here: Mapping, problems: Problems) -> None:
    model, role, kind = model_class(opt), role_of(path), here.get("type")
    if role in ("optimiser", "scheduler"):
        if model is not None and (is_known(model) or role == "scheduler" or hasattr(model, "OPTIMIZERS")):
            text = f"{opt['model_type']} has no {role}"
            _check_name(kind, parts.buildable(opt, role), (*path, "type"), text, problems)
    elif role is not None:
        what = {"arch": "network", "dataset": "data set"}.get(role, role)
        _check_name(kind, parts.registry_entries(role), (*path, "type"), f"no {what} is named", problems)


def _check_name(kind: object, entries: Mapping, where: KeyPath, text: str, problems: Problems) -> None:
    if isinstance(kind, str) and entries and kind not in entries:  # of no text its rule has complained
        known = sorted(name for name in entries if not name.endswith("_basicsr"))
        problems.error(where, f"{text} '{kind}'. {meant_or_known(kind, entries, known)}")


def _check_values(opt: Mapping, path: KeyPath, here: Mapping, problems: Problems) -> None:
    """Kinds and ranges of the toolbox's keys, and of constructor arguments that have a default to compare with."""
    known = known_keys(opt, path)
    defaults, foreign = ({}, False) if known is None else (known.defaults, known.foreign)
    for key, value in here.items():
        at = (*path, key)
        if (value is not None and _asked_of_the_class(opt, at)) or _resolves_metrics(opt, at):
            continue
        rule = rule_for(at)
        if rule is not None:
            text, note = complaint(value, rule), problems.error
        else:
            text = _mismatch(value, defaults.get(key)) if defaults else None
            note = problems.warn if foreign else problems.error
        if text is not None:
            note(at, text)


def _check_keys(opt: Mapping, path: KeyPath, here: Mapping, problems: Problems) -> None:
    """Unknown keys: an error where the toolbox would stop or ignore a misspelling, else a warning."""
    known = known_keys(opt, path)
    if known is None or (known.own and not known.strict):
        return  # our open constructors are asked themselves, see check_own
    for key in here:
        if dotted((*path, key)) in SET_BY_TOOLBOX:
            problems.warn((*path, key), "is set by the toolbox itself; what the file says is not used.")
        elif dotted((*path, key)) in UNREAD:
            problems.warn((*path, key), f"nothing reads it, so it has no effect. Did you mean '{key}_g'?")
        elif key not in known.keys:
            _unknown(opt, (*path, key), known, here, problems)


def _asked_of_the_class(opt: Mapping, path: KeyPath) -> bool:
    """Whether ``path`` is an option that a class of ours checks itself, see :func:`check_own`."""
    if path[0] == "datasets" and len(path) > 2:
        return is_own(dataset_class(opt, str(path[1]))) and path[2] not in LOADER_KEYS | {"name", "type"}
    target = called(opt, path[:-1]) if role_of(path[:-1]) in ("arch", "loss") else None
    return target is not None and is_own(target[0]) and hasattr(target[0], "OPTIONS") and path[-1] != "type"


def _resolves_metrics(opt: Mapping, path: KeyPath) -> bool:
    """Whether ``path`` is the list of metrics or one of them, for a model of ours: it completes short forms itself."""
    return path[:2] == ("val", "metrics") and len(path) <= 3 and is_own(model_class(opt))


def _mismatch(value: object, default: object) -> str | None:
    """A complaint if ``value`` is null or text where a number or flag belongs; the rest is left to the class."""
    if value is None and default is not None:
        sample = "" if default is Parameter.empty else f" such as {found(default)}"
        return f"found nothing (null); expected a value{sample}."
    if not isinstance(value, str):
        return None
    if isinstance(default, bool):
        return f"found {found(value)}; expected true or false."
    if isinstance(default, (int, float)):
        meant = number_meant(value)
        return f"found {found(value)}; expected a number such as {default}." + (f" Write {meant}." if meant else "")
    return None


def _unknown(opt: Mapping, path: KeyPath, known: Known, here: Mapping, problems: Problems) -> None:
    key = path[-1]
    match = nearest(key, known.keys)
    home = home_of(str(key), path[:-1])
    if match:
        problems.error(path, f"unknown key. Did you mean '{match}'{' (which is given too)' if match in here else ''}?")
    elif home:
        problems.error(path, f"is in the wrong place; it belongs under '{home}:'.")
    elif path[0] == "path" and not isinstance(here[key], str):
        problems.error(path, f"unknown key; the toolbox takes it for a folder to make, but found {found(here[key])}.")
    elif known.strict:
        names = ", ".join(sorted(known.keys))
        problems.error(path, f"{known.owner} has no such option. Known: {names}.")
    elif not problems.doubts(path):
        effect = "the toolbox makes a folder of it" if path[0] == "path" else "nothing reads it, so it has no effect"
        problems.warn(path, f"unknown key: {effect}.")


def _check_required(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """Keys without which the toolbox stops with a bare KeyError, often after it has renamed the last run's folder."""
    required = dict.fromkeys(_required(opt, is_train))
    unreported = [path for path in required if not _covered(opt, path, problems)]
    for path in unreported:
        if any(path[:length] in unreported for length in range(1, len(path))):
            continue  # the whole section is missing, which is said already
        rule, owner = rule_for(path), known_keys(opt, path[:-1])
        expected = words(rule) if rule is not None else f"a value for {owner.owner if owner else 'the toolbox'}"
        empty = " (empty: the usual name)" if path == ("val", "suffix") else ""
        problems.error(path, f"is missing; expected {expected}{empty}.")


def _covered(opt: Mapping, path: KeyPath, problems: Problems) -> bool:
    """Whether a required key is there, or what is wrong about it has been said (a typo, a parent of the wrong kind)."""
    misplaced = any(wrong[-1] == path[-1] and home_of(str(path[-1]), wrong[:-1]) == path[0] for wrong in problems.wrong)
    if misplaced or path in problems.wrong:
        return True
    here: object = opt
    for index, key in enumerate(path):
        if not isinstance(here, Mapping):
            return True
        if key not in here:
            known = known_keys(opt, path[:index])
            others = (other for other in here if not problems.doubts((*path[:index], other)))
            typos = [other for other in others if known is not None and other not in known.keys]
            typos += [other for other in here if path[:index] == ("datasets",) and str(other)[:3] != "val"]
            return any(nearest(typo, [key]) for typo in typos)
        here = here[key]
    return here is not None or path[-1] not in _NOT_NULL


_NOT_NULL = frozenset({"train", "val", "path", "datasets", "logger", "optim_g", "scheduler"})


def _required(opt: Mapping, is_train: bool) -> Iterator[KeyPath]:
    names = REQUIRED["always"] + REQUIRED["train" if is_train else "test"]
    if is_train and isinstance(opt.get("val"), Mapping):
        names += REQUIRED["train with val"]
    yield from (tuple(name.split(".")) for name in names)
    if not is_train and section(opt, "val").get("save_img") is True:
        yield "val", "suffix"
    yield from _required_by(model_class(opt), is_train)
    for phase, here in section(opt, "datasets").items():
        yield from (("datasets", phase, "name"), ("datasets", phase, "type"))
        for path in _required_by(dataset_class(opt, phase), str(phase).split("_")[0] == "train"):
            if path != ("scale",):
                yield "datasets", phase, *path
            elif "scale" not in here:
                yield path
    for path, here in sections(opt):
        role = role_of(path)
        is_loss = role == "loss" and len(path) == 2 and bool(here)
        if role == "arch" or is_loss or (role == "metric" and not _resolves_metrics(opt, path)):
            yield *path, "type"
        known = known_keys(opt, path)
        defaults = {} if known is None else known.defaults
        yield from ((*path, name) for name, default in defaults.items() if default is Parameter.empty)


def _required_by(cls: object, in_training: bool) -> list[KeyPath]:
    """Keys that a model or data set of which we know reads."""
    if not is_known(cls):
        return []
    reads = reads_of(cls)
    return sorted(reads.required | reads.in_training if in_training else reads.required)


def check_own(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """Ask our model, data sets, network and loss whether they accept their sections.

    Network and loss are built once without memory (on torch's meta device) and thrown away.
    """
    import torch

    model = model_class(opt)
    if is_own(model) and hasattr(model, "check_options"):
        _ask(lambda: model.check_options(plain(opt), is_train), opt, (), problems)
    for phase, here in section(opt, "datasets").items():
        cls = dataset_class(opt, str(phase))
        if is_own(cls) and hasattr(cls, "check_options"):
            full = {**plain(here), "phase": str(phase).split("_")[0]}
            if "scale" in opt:
                full["scale"] = opt["scale"]
            _ask(lambda cls=cls, full=full: cls.check_options(full), opt, ("datasets", phase), problems)
    built = [(key,) for key in opt if str(key).startswith("network_")]
    built += [("train", key) for key in section(opt, "train") if str(key).endswith("_opt")] if is_train else []
    for path in built:
        target = called(opt, path)
        if target is not None and is_own(target[0]):
            values = plain(section(opt, *path))
            arguments = {key: value for key, value in values.items() if key not in target[1]}
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                _ask(lambda cls=target[0], arguments=arguments: cls(**arguments), opt, path, problems)


def _ask(question: Callable[[], object], opt: Mapping, base: KeyPath, problems: Problems) -> None:
    """Ask, and turn an exception into problems, unless what it names is known to be wrong already."""
    try:
        with _logger_untouched():
            question()
    except SectionError as error:
        for path, text in error.problems:
            at = (*base, *path)
            if not any(at[: len(wrong)] == wrong for wrong in problems.wrong):
                problems.error(at, text)
    except (ValueError, TypeError) as error:
        path, text = _locate(str(error), opt, base)
        reported = problems.is_wrong(path) or any(path[: len(wrong)] == wrong for wrong in problems.wrong)
        vague = bool(problems.wrong) and len(path) < 2 and not base  # may well follow from what is reported already
        if not reported and not vague:
            problems.error(path, text)
    except NotImplementedError:
        pass  # something cannot be built on the meta device; the toolbox builds it for real
    except (LookupError, AttributeError, ArithmeticError):
        if not problems.wrong:
            raise  # no consequence of a mistake in the file: a bug of ours, which must be seen as such


def _logger_untouched() -> AbstractContextManager[None]:
    """Leave the toolbox's logger as it was: who asks first sets it up for good, and it would have no log file."""
    from basicsr.utils import logger as module

    logger = logging.getLogger("basicsr")
    kept = [(logger, name, copy(getattr(logger, name))) for name in ("handlers", "level", "propagate")]
    return replaced((module, "initialized_logger", dict(module.initialized_logger)), *kept)


def _locate(message: str, opt: Mapping, base: KeyPath) -> tuple[KeyPath, str]:
    """Split ``train: amp: expected …`` into the key path and the rest of the message."""
    here: object = section(opt, *base)
    path = base
    while ": " in message and isinstance(here, Mapping):
        key, rest = message.split(": ", 1)
        if key not in here:
            break
        path, here, message = (*path, key), here[key], rest
    return path, message
