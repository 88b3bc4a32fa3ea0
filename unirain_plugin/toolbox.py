"""Small remedies for BasicSR 1.4.2 on a current stack. Installed BasicSR is never edited.

What our runner puts in place of the toolbox's own during a run is listed in ``Run.replacements`` and
``TrainingRun.replacements``; several processes are in :mod:`unirain_plugin.runs.distributed`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType


class _FunctionalTensorAlias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Supplies ``torchvision.transforms.functional_tensor`` where torchvision (≥ 0.17) has dropped it.

    basicsr 1.4.2 takes ``rgb_to_grayscale`` from it, which lives on in ``transforms.functional``.
    """

    name = "torchvision.transforms.functional_tensor"

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale


def prepare_import() -> None:
    """Make ``import basicsr`` work on a current torchvision and Python. Cheap, safe to call often."""
    if importlib.util.find_spec("distutils") is None:  # gone since Python 3.12; BasicSR's needs are in setuptools
        with suppress(ImportError):
            importlib.import_module("_distutils_hack").add_shim()
    if not any(isinstance(finder, _FunctionalTensorAlias) for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensorAlias())  # last: an older torchvision's own module wins


class ActingLoader(importlib.abc.Loader):
    """A module's own loader, and an action once the module is there. The module looks as if we had not been here."""

    def __init__(self, original: importlib.abc.Loader, action: Callable[[], None]) -> None:
        self.original, self.action = original, action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.original
        self.original.exec_module(module)
        self.action()


def acting_spec(name: str, action: Callable[[], None]) -> importlib.machinery.ModuleSpec | None:
    """A module's spec, whose loader acts once the module is there."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.loader is not None:
        spec.loader = ActingLoader(spec.loader, action)
    return spec


class _Waiting(importlib.abc.MetaPathFinder):
    """Finds one module as if this finder did not exist, and has its loader act."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name, self.action = name, action

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        return acting_spec(fullname, self.action)


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` when a module has been imported: now, or if anybody ever imports it. Imports nothing itself."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Waiting(name, action))


_REGISTRIES = "basicsr.utils.registry"


@cache
def registries() -> ModuleType:
    """BasicSR's module of registries without the rest of BasicSR, whose import takes seconds and much memory.

    It needs no other module, so it is loaded from its own file under its own name, where BasicSR finds it later.
    """
    prepare_import()
    package = None if "basicsr" in sys.modules else importlib.machinery.PathFinder.find_spec("basicsr")
    if package is not None and package.submodule_search_locations:
        file = Path(package.submodule_search_locations[0], "utils", "registry.py")
        spec = importlib.util.spec_from_file_location(_REGISTRIES, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[_REGISTRIES] = module
        after_import("basicsr.utils", lambda: setattr(sys.modules["basicsr.utils"], "registry", module))
    return importlib.import_module(_REGISTRIES)


@contextmanager
def replaced(*replacements: tuple[object, str, object]) -> Iterator[None]:
    """Set attributes of modules or classes for a while: ``(owner, name, value)`` each."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def registered(kind: str) -> dict[str, object]:
    """What an option file may name of a ``kind`` (``arch``, ``loss``, ``dataset``, ``model``, ``metric``), by name.

    The toolbox's ``Registry.get`` looks a name up with the suffix ``_basicsr`` where it does not find it as it stands.
    """
    entries = dict(iter(getattr(registries(), f"{kind.upper()}_REGISTRY")))
    return {name.removesuffix("_basicsr"): entry for name, entry in entries.items()} | entries
