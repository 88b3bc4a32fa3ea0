"""BasicSR's ``Registry`` without the rest of BasicSR, whose import takes seconds and brings torch and scipy along.

Every worker starts with the registries, and the default parts need nothing else of the toolbox. The module of the class
needs no other module, so it is loaded from its own file, under its own name: when BasicSR itself is imported later,
that very module is found, and there is one ``Registry`` and one set of the toolbox's registries in the process.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from unirain_plugin.toolbox import prepare_import

_PACKAGE = "basicsr.utils"
_NAME = f"{_PACKAGE}.registry"


class _Attaching(importlib.abc.MetaPathFinder):
    """Finds nothing; sets ``basicsr.utils.registry`` once the package is there, as its own import would have done."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.startswith(_PACKAGE) and _PACKAGE in sys.modules:
            sys.modules[_PACKAGE].registry = sys.modules[_NAME]  # type: ignore[attr-defined]


def registry_class() -> type:
    """The toolbox's ``Registry``.

    Raises:
        ImportError: If BasicSR is not installed.
    """
    prepare_import()
    return (sys.modules.get(_NAME) or _load_alone() or importlib.import_module(_NAME)).Registry


def _load_alone() -> ModuleType | None:
    """Load the one file; None if BasicSR is imported already or lies where files cannot be looked for."""
    spec = None if "basicsr" in sys.modules else PathFinder.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0], "utils", "registry.py")
    if not file.is_file():
        return None
    own = importlib.util.spec_from_file_location(_NAME, file)
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    sys.modules[_NAME] = module
    sys.meta_path.insert(0, _Attaching())
    return module
