"""Registers the plugin when a program imports BasicSR, so that its stock runners know our types.

The installed ``unirain_plugin_autoregister.pth`` calls :func:`find_spec` at the first ``import basicsr`` of a process
and at no other import. ``UNIRAIN_AUTOREGISTER=0`` in the environment switches it off.
"""

import importlib.machinery
import importlib.util
import os
import warnings

from unirain_plugin.toolbox import acting_spec, prepare_import

_searching = False


def _register() -> None:
    """Register, but never make ``import basicsr`` fail."""
    try:
        from unirain_plugin import register

        register()
    except Exception as error:
        warnings.warn(f"unirain_plugin could not be registered in BasicSR: {error!r}", stacklevel=2)


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Find basicsr as if this hook did not exist, and have its loader register the plugin afterwards."""
    global _searching
    if _searching or os.environ.get("UNIRAIN_AUTOREGISTER") == "0":
        return None
    _searching = True
    try:
        prepare_import()
        return acting_spec(name, _register)
    finally:
        _searching = False
