"""Optional packages: imported where they are used, with the way to install them in the error."""

from __future__ import annotations

import importlib
from types import ModuleType

from unirain_plugin.errors import OptionError


def require(module: str, pip_name: str, extra: str | None = None) -> ModuleType:
    """Import a heavy dependency where it is used.

    Raises:
        OptionError: With the pip name, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        way = f"pip install {pip_name}" + (f" (or 'unirain_plugin[{extra}]')" if extra else "")
        raise OptionError(f"the package {module!r} is needed here and cannot be imported ({error}): {way}.") from error
