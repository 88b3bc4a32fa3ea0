"""Optional packages: imported where they are used, with the way to install them in the error."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType

from unirain_plugin.errors import OptionError


def require(module: str, pip_name: str, extra: str | None = None) -> ModuleType:
    """Import a heavy dependency where it is used; an OptionError tells its pip name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way = f"pip install {pip_name}" + (f" (or 'unirain_plugin[{extra}]')" if extra else "")
        raise OptionError(f"the package {module!r} is needed here and cannot be imported ({error}): {way}.") from error


def import_own(modules: Iterable[str], folder: str | os.PathLike[str] = "") -> None:
    """Import modules of a user's own (``my_package.my_net``), which register networks, losses, voters, … as they do.

    They are looked for where Python looks, then in the working directory and in ``folder``, of the option file that
    names them. An OptionError names the module, and what went wrong in which file and line.
    """
    for place in (os.getcwd(), os.path.abspath(folder)):
        if place not in sys.path:
            sys.path.append(place)
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a foreign module raises
            frames = traceback.extract_tb(error.__traceback__)
            frames = [f for f in frames if f.filename not in (__file__, importlib.__file__) and f.filename[0] != "<"]
            where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
            reason = f"{type(error).__name__}: {error}{where}"
            raise OptionError(f"imports: cannot import {name!r}: {reason}") from error
