"""Checking a whole option file before the toolbox sees it: every mistake is found and named in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter

from unirain_plugin.options.check_data import check_data
from unirain_plugin.options.check_labels import check_labels
from unirain_plugin.options.check_own import check_own
from unirain_plugin.options.check_run import check_run
from unirain_plugin.options.problems import KeyPath, Problems, found, nearest
from unirain_plugin.options.registries import is_own, named_class, section
from unirain_plugin.options.schema import (
    Known,
    dataset_class,
    known_keys,
    model_class,
    optimizers,
    schedulers,
)
from unirain_plugin.options.toolbox_keys import REQUIRED, SET_BY_TOOLBOX, STOCK_KEYS, rule_for
from unirain_plugin.options.vocabulary import reads_of
from unirain_plugin.options.yaml_loader import number_meant


def find_problems(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool = True) -> None:
    """Note everything that is wrong with ``opt`` in ``problems``.

    Args:
        opt: The options as loaded; not changed.
        problems: Takes errors and warnings.
        is_train: Whether the file is for training or for testing.
        check_paths: Whether data folders, manifests and weights must exist already.
    """
    steps: tuple[Callable[[], None], ...] = (
        lambda: _check_types(opt, problems),
        lambda: _check_values(opt, problems),
        lambda: _check_keys(opt, problems),
        lambda: _check_required(opt, problems, is_train),
        lambda: check_run(opt, problems, is_train),
        lambda: check_data(opt, problems, is_train, check_paths),
        lambda: check_own(opt, problems, is_train),
        lambda: check_labels(opt, problems, is_train, check_paths),
    )
    for step in steps:
        step()


def sections(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Mapping]]:
    """Every mapping inside ``value``, outermost first."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield from sections(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from sections(inner, (*path, index))


def _check_types(opt: Mapping, problems: Problems) -> None:
    """Every ``type`` names something that exists."""
    named_class("model", opt.get("model_type"), ("model_type",), problems)
    for path, here in sections(opt):
        kind, where = here.get("type"), (*path, "type")
        if not path or "type" not in here:
            continue
        first, second = str(path[0]), str(path[1]) if len(path) > 1 else ""
        if first.startswith("network_") and len(path) == 1:
            named_class("arch", kind, where, problems)
        elif first == "datasets" and len(path) == 2:
            named_class("dataset", kind, where, problems)
        elif path[:2] == ("val", "metrics") and len(path) == 3:
            named_class("metric", kind, where, problems)
        elif first == "train" and second.endswith("_opt"):
            named_class("loss", kind, where, problems)
        elif first == "train" and len(path) == 2 and model_class(opt) is not None:
            if second.startswith("optim_"):
                _check_name(kind, optimizers(opt), "optimiser", opt, where, problems)
            elif second == "scheduler":
                _check_name(kind, schedulers(opt), "scheduler", opt, where, problems)


def _check_name(kind: object, known: Mapping, word: str, opt: Mapping, where: KeyPath, problems: Problems) -> None:
    if not isinstance(kind, str) or kind in known or not known:
        return
    match = nearest(kind, known)
    hint = f"Did you mean '{match}'?" if match else f"Known: {', '.join(sorted(known))}."
    problems.error(where, f"{opt['model_type']} has no {word} '{kind}'. {hint}")


def _check_values(opt: Mapping, problems: Problems) -> None:
    """Kinds and ranges of the toolbox's keys, and of constructor arguments that have a default to compare with."""
    for path, here in sections(opt):
        known = known_keys(opt, path)
        for key, value in here.items():
            rule = rule_for((*path, key)) if not _resolves_metrics(opt, (*path, key)) else None
            complaint = rule.complaint(value) if rule is not None else None
            if complaint is None and rule is None and known is not None and known.signature is not None:
                complaint = _mismatch(value, known.signature.defaults.get(key))
            if complaint is not None:
                problems.error((*path, key), complaint)


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


def _check_keys(opt: Mapping, problems: Problems) -> None:
    """Unknown keys: an error where the toolbox would stop or ignore a misspelling, else a warning."""
    for path, here in sections(opt):
        known = known_keys(opt, path)
        if known is None or (known.own and not known.strict):
            continue  # our open constructors are asked themselves, see check_own
        for key in here:
            if ".".join(map(str, (*path, key))) in SET_BY_TOOLBOX:
                problems.warn((*path, key), "is set by the toolbox itself; what the file says is not used.")
            elif key not in known.keys:
                _unknown(opt, (*path, key), known, here, problems)


def _unknown(opt: Mapping, path: KeyPath, known: Known, here: Mapping, problems: Problems) -> None:
    key = path[-1]
    match = nearest(key, known.keys)
    home = _home(str(key), path[:-1])
    if match:
        problems.error(path, f"unknown key. Did you mean '{match}'{' (which is given too)' if match in here else ''}?")
    elif home:
        problems.error(path, f"is in the wrong place; it belongs under '{home}:'.")
    elif path[0] == "path" and not isinstance(here[key], str):
        problems.error(path, f"unknown key; the toolbox takes it for a folder to make, but found {found(here[key])}.")
    elif known.strict:
        names = ", ".join(sorted(known.keys))
        problems.error(path, f"{known.owner} has no such option. Known: {names}.")
    else:
        effect = "the toolbox makes a folder of it" if path[0] == "path" else "nothing reads it, so it has no effect"
        problems.warn(path, f"unknown key: {effect}.")


def _home(key: str, section_path: KeyPath) -> str | None:
    """The section that a toolbox key belongs to, if it is a telling name that stands elsewhere."""
    homes = [name for name in ("train", "val", "logger", "path", "datasets.*") if key in STOCK_KEYS[name]]
    homes += ["path"] if rule_for(("path", key)) else []
    if not homes or key in ("name", "type", "phase", "scale"):
        return None
    home = homes[0].replace("datasets.*", "datasets: train")
    return None if homes[0] == ".".join(map(str, section_path)) else home


def _check_required(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """Keys without which the toolbox stops with a bare KeyError, often after it has renamed the last run's folder."""
    required = [tuple(name.split(".")) for name in REQUIRED["always"]]
    names = REQUIRED["train"] if is_train else REQUIRED["test"]
    if is_train and isinstance(opt.get("val"), Mapping):
        names += REQUIRED["train with val"]
    required += [tuple(name.split(".")) for name in names]
    if not is_train and section(opt, "val").get("save_img") is True:
        required.append(("val", "suffix"))
    required += _required_by_model(opt, is_train) + _required_by_data(opt) + _required_by_calls(opt)
    unreported = [path for path in dict.fromkeys(required) if not _covered(opt, path, problems)]
    for path in unreported:
        if any(path[:length] in unreported for length in range(1, len(path))):
            continue  # the whole section is missing, which is said already
        rule = rule_for(path)
        owner = known_keys(opt, path[:-1])
        expected = rule.expected() if rule is not None else f"a value for {owner.owner if owner else 'the toolbox'}"
        empty = " (empty: the usual name)" if path == ("val", "suffix") else ""
        problems.error(path, f"is missing; expected {expected}{empty}.")


def _covered(opt: Mapping, path: KeyPath, problems: Problems) -> bool:
    """Whether a required key is there, or what is wrong about it has been said (a typo, a parent of the wrong kind)."""
    misplaced = any(wrong[-1] == path[-1] and _home(str(path[-1]), wrong[:-1]) == path[0] for wrong in problems.wrong)
    if misplaced or path in problems.wrong:
        return True
    here: object = opt
    for index, key in enumerate(path):
        if not isinstance(here, Mapping):
            return True
        if key not in here:
            known = known_keys(opt, path[:index])
            typos = [other for other in here if known is not None and other not in known.keys]
            typos += [other for other in here if path[:index] == ("datasets",) and str(other)[:3] != "val"]
            return any(nearest(typo, [key]) for typo in typos)
        here = here[key]
    return here is not None or path[-1] not in _NOT_NULL


_NOT_NULL = frozenset({"train", "val", "path", "datasets", "logger", "optim_g", "scheduler"})


def _required_by_model(opt: Mapping, is_train: bool) -> list[KeyPath]:
    cls = model_class(opt)
    reads = reads_of(cls) if cls is not None else None
    if reads is None:
        return []
    required = reads.required | reads.required_in_training if is_train else reads.required
    return sorted(required - {("is_train",), ("path",)})


def _required_by_data(opt: Mapping) -> list[KeyPath]:
    required: list[KeyPath] = []
    for phase, here in section(opt, "datasets").items():
        required += [("datasets", phase, "name"), ("datasets", phase, "type")]
        cls = dataset_class(opt, phase)
        reads = reads_of(cls) if cls is not None and isinstance(here, Mapping) else None
        if reads is None:
            continue
        paths = set(reads.required)
        if str(phase).split("_")[0] == "train":
            paths |= reads.required_in_training
        paths -= {("phase",), ("scale",)}
        required += [("datasets", phase, *path) for path in sorted(paths)]
        if ("scale",) in reads.required and "scale" not in here:
            required.append(("scale",))
    return required


def _required_by_calls(opt: Mapping) -> list[KeyPath]:
    required: list[KeyPath] = []
    for path, here in sections(opt):
        is_network = len(path) == 1 and str(path[0]).startswith("network_")
        is_metric = len(path) == 3 and path[:2] == ("val", "metrics")
        if is_network or (is_metric and not _resolves_metrics(opt, path)):
            required.append((*path, "type"))
        if len(path) == 2 and path[0] == "train" and str(path[1]).endswith("_opt") and here:
            required.append((*path, "type"))
        known = known_keys(opt, path)
        if known is not None and known.signature is not None:
            required += [(*path, name) for name in known.signature.required]
    return required
