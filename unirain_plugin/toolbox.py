"""Small remedies for BasicSR 1.4.2 on a current stack. Installed BasicSR is never edited.

What our runner puts in place of the toolbox's own during a run is listed in ``Run.replacements`` and
``TrainingRun.replacements``; several processes are in :mod:`unirain_plugin.runs.distributed`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class _FunctionalTensorAlias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Supplies ``torchvision.transforms.functional_tensor`` where torchvision (≥ 0.17) has dropped it.

    basicsr 1.4.2 takes one function from it, ``rgb_to_grayscale``, which lives on in ``transforms.functional``.
    Nothing is imported before somebody asks for that very module.
    """

    name = "torchvision.transforms.functional_tensor"

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale


def prepare_import() -> None:
    """Make ``import basicsr`` work on a current torchvision. Cheap, safe to call often, imports nothing itself."""
    if not any(isinstance(finder, _FunctionalTensorAlias) for finder in sys.meta_path):
        sys.meta_path.append(_FunctionalTensorAlias())  # last: an older torchvision's own module wins


@contextmanager
def replaced(*replacements: tuple[object, str, object]) -> Iterator[None]:
    """Set attributes of modules or classes for a while: ``(owner, name, value)`` each; put back in reverse order."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def registered(kind: str) -> dict[str, object]:
    """What an option file may name, by name: the one place that knows how the toolbox resolves names.

    Its ``Registry.get`` looks a name up with the suffix ``_basicsr`` where it does not find it as it stands (and prints
    that it does so).

    Args:
        kind: ``arch``, ``loss``, ``dataset``, ``model`` or ``metric``.
    """
    from basicsr.utils import registry

    entries = dict(iter(getattr(registry, f"{kind.upper()}_REGISTRY")))
    return {name.removesuffix("_basicsr"): entry for name, entry in entries.items()} | entries
