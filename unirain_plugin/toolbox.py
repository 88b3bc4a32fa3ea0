"""Small remedies for BasicSR 1.4.2 on a current stack. Installed BasicSR is never edited.

What our runner puts in place of the toolbox's own during a run is listed in ``Run.replacements`` and
``TrainingRun.replacements``; several processes are in :mod:`unirain_plugin.runs.distributed`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from unirain_plugin.errors import CheckpointError, UniRainError


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


def unused_path(path: Path) -> Path:
    """``path``, or where that exists ``STEM_1.SUFFIX``, ``STEM_2.SUFFIX``, …: the toolbox's names tell seconds only."""
    candidates = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return path if not path.exists() else next(name for name in candidates if not name.exists())


def archive_folder(path: str | os.PathLike[str]) -> Path | None:
    """Make an empty folder; what was there moves to ``NAME_archived_TIME`` (and is never overwritten).

    Replaces the toolbox's ``mkdir_and_rename``, which fails when two runs start within one second.

    Returns:
        Where the old folder has gone, or None if there was none.
    """
    path, target = Path(path), None
    if path.exists():
        target = unused_path(path.with_name(f"{path.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"))
        path.rename(target)
    path.mkdir(parents=True)
    return target


def forward_loader_errors() -> tuple[object, str, object]:
    """A replacement for ``PrefetchGenerator`` (``prefetch_mode: cpu``) whose reading thread passes its errors on.

    In the toolbox's the thread dies with its error, and training waits for the next batch for ever.
    """
    from basicsr.data import prefetch_dataloader

    class PrefetchGenerator(prefetch_dataloader.PrefetchGenerator):
        def run(self) -> None:
            try:
                for item in self.generator:
                    self.queue.put(item)
                self.queue.put(None)
            except BaseException as error:
                self.queue.put(error)

        def __next__(self) -> object:
            item = super().__next__()
            if isinstance(item, BaseException):
                raise item
            return item

    return prefetch_dataloader, "PrefetchGenerator", PrefetchGenerator


def explain_loading_errors() -> tuple[object, str, object]:
    """A replacement for ``BaseModel.load_network``: reads .safetensors too, says in one message what does not fit."""
    import pickle

    from basicsr.models.base_model import BaseModel

    load = BaseModel.load_network

    def load_network(
        self: object, net: object, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        try:
            if str(load_path).lower().endswith(".safetensors"):
                _load_safetensors(self, net, str(load_path), strict)
            else:
                load(self, net, load_path, strict, param_key)
        except UniRainError:  # our networks explain themselves
            raise
        except Exception as error:
            if isinstance(error, KeyError):
                reason = f"it has no entry {error} (path: param_key_g)"
            elif isinstance(error, (pickle.UnpicklingError, EOFError)):
                reason = "it is no checkpoint, or holds more than tensors and plain values"
            else:  # a state dict that does not fit tells every key, a line each
                lines = [line.strip() for line in str(error).splitlines()]
                reason = " ".join(lines[:4]) + (f" … ({len(lines) - 4} more)" if len(lines) > 4 else "")
            name = type(self.get_bare_model(net)).__name__
            raise CheckpointError(f"{load_path}: these weights cannot be loaded into {name}: {reason}") from error

    return BaseModel, "load_network", load_network


def _load_safetensors(model: object, net: object, path: str, strict: bool) -> None:
    """Weights from a .safetensors file, which has one part only."""
    from basicsr.utils import get_root_logger

    from unirain_plugin.checkpoints.weights import read_weights

    net, state = model.get_bare_model(net), read_weights(path).state
    get_root_logger().info(f"Loading {type(net).__name__} model from {path}.")
    model._print_different_keys_loading(net, state, strict)
    net.load_state_dict(state, strict=strict)


class LazyPrefetcher:
    """Replaces ``CPUPrefetcher``, which enters the loader once in vain before training begins.

    That starts all workers twice, and with ``prefetch_mode: cpu`` leaves a thread behind that reads from the same
    workers as the thread of the first epoch.

    Args:
        loader: The training loader.
    """

    def __init__(self, loader: Iterable[object]) -> None:
        self.loader = loader
        self.items: Iterator[object] = iter(())

    def next(self) -> object:
        """The next batch, or None at the end of the epoch."""
        return next(self.items, None)

    def reset(self) -> None:
        """Begin the next epoch."""
        self.items = iter(self.loader)
