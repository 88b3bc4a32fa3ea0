"""Sections of this package's own classes: their parsers and constructors are asked, before the toolbox starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from unirain_plugin.options.problems import KeyPath, Problems
from unirain_plugin.options.registries import is_own, section
from unirain_plugin.options.schema import called, dataset_class, model_class


def check_own(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """Ask our model, data sets, network and loss whether they accept their sections.

    The model and the data sets are asked by their class method ``check_options`` if they have one; network and loss
    are built once without memory (on torch's meta device) and thrown away.

    Args:
        opt: The options as loaded; not changed.
        problems: Takes the errors, each with the key path that the message begins with.
        is_train: Whether the file is for training or for testing.
    """
    model = model_class(opt)
    if is_own(model) and hasattr(model, "check_options"):
        _ask(lambda: model.check_options(_plain(opt), is_train), opt, (), problems)
    for phase, here in section(opt, "datasets").items():
        cls = dataset_class(opt, str(phase))
        if is_own(cls) and hasattr(cls, "check_options"):
            full = {**_plain(here), "phase": str(phase).split("_")[0]}
            if "scale" in opt:
                full["scale"] = opt["scale"]
            _ask(lambda cls=cls, full=full: cls.check_options(full), opt, ("datasets", phase), problems)
    built = [(key,) for key in opt if str(key).startswith("network_")]
    built += [("train", key) for key in section(opt, "train") if str(key).endswith("_opt")] if is_train else []
    for path in built:
        _try_to_build(opt, path, problems)


def _try_to_build(opt: Mapping, path: KeyPath, problems: Problems) -> None:
    import torch

    target = called(opt, path)
    if target is None or not is_own(target[0]) or any(wrong[: len(path)] == path for wrong in problems.wrong):
        return
    cls, own_keys, _ = target
    arguments = {key: value for key, value in _plain(section(opt, *path)).items() if key not in own_keys}

    def build() -> None:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            cls(**arguments)

    _ask(build, opt, path, problems)


def _ask(question: Callable[[], None], opt: Mapping, base: KeyPath, problems: Problems) -> None:
    """Ask, and turn an exception into a problem, unless what it names is known to be wrong already."""
    try:
        with _logger_untouched():
            question()
    except (ValueError, TypeError) as error:
        path, text = _locate(str(error), opt, base)
        reported = any(wrong[: len(path)] == path or path[: len(wrong)] == wrong for wrong in problems.wrong)
        vague = bool(problems.wrong) and len(path) < 2 and not base  # may well follow from what is reported already
        if not reported and not vague:
            problems.error(path, text)
    except NotImplementedError:
        pass  # something cannot be built on the meta device; the toolbox builds it for real
    except (LookupError, AttributeError, ArithmeticError):
        if not problems.wrong:
            raise  # no consequence of a mistake in the file: a bug of ours, which must be seen as such


@contextmanager
def _logger_untouched() -> Iterator[None]:
    """Leave the toolbox's logger as it was.

    Whoever asks for it first sets it up for good: if a constructor asks while options are checked, the pipeline comes
    too late to give it a log file.
    """
    from basicsr.utils.logger import initialized_logger

    logger, ready = logging.getLogger("basicsr"), dict(initialized_logger)
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    try:
        yield
    finally:
        initialized_logger.clear()
        initialized_logger.update(ready)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def _plain(value: object) -> Any:
    """A deep copy with plain dicts, which read better in messages than ordered ones."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _locate(message: str, opt: Mapping, base: KeyPath) -> tuple[KeyPath, str]:
    """Split ``train: amp: expected …`` into the key path and the rest of the message."""
    here: object = opt
    for key in base:
        here = here[key]
    name = here.get("name") if isinstance(here, Mapping) else None
    if len(base) == 2 and base[0] == "datasets":
        message = message.removeprefix(f"datasets: {name}: ").removeprefix("datasets: ?: ")
    path = base
    while ": " in message and isinstance(here, Mapping):
        key, rest = message.split(": ", 1)
        if key not in here:
            break
        path, here, message = (*path, key), here[key], rest
    return path, message
