"""Registers the plugin when a program imports BasicSR, so that its stock runners know our types.

The installed ``unirain_plugin_autoregister.pth`` calls :func:`find_spec` at the first ``import basicsr`` of a process
and at no other import. ``UNIRAIN_AUTOREGISTER=0`` in the environment switches it off.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import warnings
from types import ModuleType

from unirain_plugin.toolbox import prepare_import

_searching = False


class _RegisteringLoader(importlib.abc.Loader):
    """Runs basicsr's own loader, then :func:`unirain_plugin.register`; never makes ``import basicsr`` fail."""

    def __init__(self, original: importlib.abc.Loader) -> None:
        self.original = original

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.original  # the module looks as if we had not been here
        prepare_import()
        self.original.exec_module(module)
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
        spec = importlib.util.find_spec(name)
    finally:
        _searching = False
    if spec is not None and spec.loader is not None:
        spec.loader = _RegisteringLoader(spec.loader)
    return spec
