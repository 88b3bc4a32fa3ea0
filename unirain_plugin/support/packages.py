"""Packages that are not ours: optional ones, imported where they are used, and modules of a user's own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import sysconfig
import traceback
from types import ModuleType

from unirain_plugin.errors import OptionError


def require(module: str, pip_name: str, extra: str | None = None) -> ModuleType:
    """Import a heavy dependency where it is used; an OptionError tells its pip name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way = f"pip install {pip_name}" + (f" (or 'unirain_plugin[{extra}]')" if extra else "")
        raise OptionError(f"the package {module!r} is needed here and cannot be imported ({error}): {way}.") from error


def place_of(error: BaseException) -> str:
    """`` (FILE:LINE)`` of where an error comes from: the last place in code that is neither Python's nor installed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[0] != "<"]
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    foreign.append(os.path.dirname(os.path.dirname(__file__)))
    own = [f for f in frames if not f.filename.startswith(tuple(foreign))] or frames
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def import_own(modules: object, folder: str | os.PathLike[str] = "") -> None:
    """Import modules of a user's own (``my_package.my_net``), which register networks, losses, voters, … as they do.

    They are looked for where Python looks, then in the working directory and in ``folder``, of the option file that
    names them. An OptionError tells what is no list of names, or names the module, and what went wrong in which file
    and line.
    """
    if not isinstance(modules, (list, tuple)) or not all(isinstance(name, str) for name in modules):
        raise OptionError(f"imports: expected a list of modules such as [my_package.my_net], found {modules!r}.")
    for place in (os.getcwd(), os.path.abspath(folder)):
        if place not in sys.path:
            sys.path.append(place)
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a foreign module raises
            text = error.msg if isinstance(error, SyntaxError) else error
            missing = isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0])
            place = " where Python looks, in the working directory or beside the option file"
            reason = f"{type(error).__name__}: {text}{place if missing else place_of(error)}"
            if name.endswith(".py"):
                reason += "; expected a module's name, without '.py'"
            raise OptionError(f"imports: cannot import {name!r}: {reason}.") from error


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """``--network`` and ``--imports``, of commands that load weights of any network."""
    parser.add_argument(
        "--network", metavar="YML", help="option file with network_g (and imports), for weights that do not tell it"
    )
    parser.add_argument("--imports", nargs="+", default=(), metavar="MODULE", help="modules that register your network")
