"""Packages that are not ours: optional ones, imported where they are used, and modules of a user's own."""

import argparse
import hashlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from unirain_plugin.errors import OptionError, UniRainError


def require(module: str, pip_name: str, extra: str | None = None) -> ModuleType:
    """Import a heavy dependency where it is used; an OptionError tells its pip name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way = f"pip install {pip_name}" + (f" (or 'unirain_plugin[{extra}]')" if extra else "")
        raise OptionError(f"the package {module!r} is needed here and cannot be imported ({error}): {way}.") from error


def place_of(error: BaseException) -> str:
    """`` (FILE:LINE, in FUNCTION)`` of where an error comes from: the last place in a user's code, else in any."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = [f for f in traceback.walk_tb(error.__traceback__) if f[0].f_code.co_filename[0] != "<"]
    own = [f for f in frames if is_own(f[0].f_code.co_filename)] or frames
    if not own:
        return ""
    code, line = own[-1][0].f_code, own[-1][1]
    return f" ({code.co_filename}:{line}{'' if code.co_name == '<module>' else f', in {code.co_qualname}'})"


def is_own(file: str) -> bool:
    """Whether a file of code is a user's own: neither Python's, nor installed (for this user alone, too), nor ours."""
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    within = tuple(os.path.join(folder, "") for folder in (*foreign, os.path.dirname(os.path.dirname(__file__))))
    installed = {"site-packages", "dist-packages"} & set(file.split(os.sep))
    return file[0] != "<" and not installed and not file.startswith(within)


def own_place(error: BaseException) -> str:
    """:func:`place_of` an error that went through a user's own code; empty for others."""
    own = any(is_own(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))
    return place_of(error) if own else ""


@contextmanager
def own_code(part: str, at: str, kind: type[UniRainError], always: bool = False) -> Iterator[None]:
    """Make what a user's own code (``always``: any) raises one message: part, at what, error, file and line."""
    try:
        yield
    except UniRainError:
        raise
    except (Exception, SystemExit) as error:
        if not (always or own_place(error)):
            raise
        raise kind(f"{part} failed on {at}: {type(error).__name__}: {error}{place_of(error)}.") from error


def import_own(modules: object, folder: str | os.PathLike[str] = "") -> None:
    """Import modules of a user's own (``my_package.my_net``), which register networks, losses, voters, … as they do.

    They are looked for where Python looks, in the working directory and in ``folder``, of the option file. The
    OptionError names the module, and what went wrong in which file and line.
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


def code_hashes(modules: Iterable[str]) -> list[str]:
    """SHA-256 of the code of these modules, and of what else of their packages is imported."""
    packages = {name.partition(".")[0] for name in modules}
    own = [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] in packages]
    files = [Path(module.__file__) for module in own if getattr(module, "__file__", None)]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def import_named(args: argparse.Namespace) -> None:
    """Import what ``--imports`` names, looked for beside the option file of ``--network``, too."""
    import_own(args.imports, os.path.dirname(args.network or ""))


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """``--network`` and ``--imports``, of commands that load weights of any network."""
    parser.add_argument(
        "--network", metavar="YML", help="option file with network_g (and imports), for weights that do not tell it"
    )
    parser.add_argument("--imports", nargs="+", default=(), metavar="MODULE", help="modules that register your network")
