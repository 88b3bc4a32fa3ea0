"""The only place that accommodates BasicSR 1.4.2 on a current stack. Installed BasicSR is never edited."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
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
