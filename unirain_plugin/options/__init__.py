"""Option files, checked before the toolbox sees them.

BasicSR reads option files with an unsafe loader, applies ``--force_yml`` by ``exec``, stops at about 45 keys with a
bare ``KeyError`` and passes misspelled optional keys over in silence. :func:`load_options` reads the same files safely
and reports every mistake at once, each with file and line, key path, what was found and what was expected.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path

from unirain_plugin.errors import OptionError
from unirain_plugin.options.yaml_loader import Problems, read_option_file
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.spec import KeyPath, parse_section

__all__ = ["OptionError", "apply_overrides", "check_options", "checked_loader", "load_options", "parse_section"]


def load_options(
    path: str | Path,
    overrides: Iterable[str] | None = None,
    is_train: bool = True,
    check_paths: bool = True,
    for_run: bool = False,
) -> OrderedDict:
    """Read an option file, apply the command line's overrides, and check the result.

    Registers the plugin and imports the modules that the file names under ``imports:``, since names are looked up in
    BasicSR's registries. Warnings go to the logger ``basicsr``.

    Args:
        path: The YAML file.
        overrides: ``section:key=value`` texts, as behind ``--force_yml``.
        is_train: Whether the file is for training (``train_pipeline``) or testing (``test_pipeline``).
        check_paths: Whether data folders, manifests and weights must exist already.
        for_run: Whether a run follows at once, which gives some of the warnings itself: they are left to it.

    Returns what BasicSR's own loader would for a file without mistakes. An OptionError lists everything that is wrong.
    """
    document = read_option_file(path)
    problems = Problems(document.file, document.lines)
    _override(document.opt, overrides or (), problems)
    import_own(document.opt.get("imports") or (), Path(path).parent)
    _check(document.opt, problems, is_train, check_paths)
    if os.environ.get("RANK", "0") == "0":  # of several processes one is enough to say it
        for warning in problems.warnings:
            if not (for_run and warning in problems.told_by_run):
                logging.getLogger("basicsr").warning(warning)
    return document.opt


def check_options(
    opt: Mapping,
    file: str | Path = "options",
    is_train: bool = True,
    *,
    lines: Mapping[KeyPath, int | str] | None = None,
    check_paths: bool = True,
) -> list[str]:
    """Check options that are loaded already; ``opt`` is not changed. Returns the warnings.

    ``file`` names their source in messages, ``lines`` gives a key path's line there; the others are as for
    :func:`load_options`. The OptionError lists what is wrong, a line each: file, key path, what was found, what was
    expected, and the nearest valid name.
    """
    problems = Problems(str(file), lines)
    _check(opt, problems, is_train, check_paths)
    return problems.warnings


def apply_overrides(opt: OrderedDict, overrides: Iterable[str]) -> OrderedDict:
    """Apply ``section:key=value`` texts to a copy of ``opt``, without executing anything.

    The value is read by the rules of the option file; ``none`` is null, as in the toolbox. A key must exist in ``opt``
    or be one that somebody reads. The OptionError lists every override that does not fit, with the nearest key path.
    """
    opt = deepcopy(opt)
    problems = Problems("--force_yml")
    _override(opt, overrides, problems)
    problems.raise_if_any()
    return opt


def checked_loader(
    path: str | Path, overrides: Iterable[str] | None = None, is_train: bool = True, check_paths: bool = True
) -> type:
    """Load and check an option file now, and return it in the shape of a YAML loader class.

    ``yaml.load(stream, Loader=checked_loader(path))`` gives the checked options whatever the stream holds: in place of
    ``basicsr.utils.options.ordered_yaml()[0]`` they reach the toolbox's own ``parse_options``. Overrides are in them
    already. Arguments and errors are those of :func:`load_options`, with ``for_run``.
    """
    options = load_options(path, overrides, is_train, check_paths, for_run=True)

    class CheckedLoader:
        """Gives a fresh copy of the options at every load."""

        def __init__(self, stream: object) -> None:
            pass

        def get_single_data(self) -> OrderedDict:
            return deepcopy(options)

        def dispose(self) -> None:
            pass

    return CheckedLoader


def _override(opt: OrderedDict, overrides: Iterable[str], problems: Problems) -> None:
    if overrides:
        from unirain_plugin.options.overrides import set_overrides  # imports BasicSR

        set_overrides(opt, overrides, problems)


def _check(opt: Mapping, problems: Problems, is_train: bool, check_paths: bool) -> None:
    from unirain_plugin.options.check import find_problems  # imports BasicSR

    find_problems(opt, problems, is_train, check_paths)
    problems.raise_if_any()
