"""UniRain for the BasicSR toolbox: one network against daytime and nighttime rain streaks and raindrops.

``import unirain_plugin`` is light: neither torch nor BasicSR is imported before :func:`register` is called or one of
:func:`load` and :func:`restore` is asked for::

    from unirain_plugin import load, restore

    clean = restore(load(), rainy)  # rainy: an RGB array (H, W, 3)
"""

from __future__ import annotations

import importlib
import sys

from unirain_plugin.toolbox import registries
from unirain_plugin.version import __version__

__all__ = ["__version__", "load", "register", "restore"]

_LAZY = {"load": "unirain_plugin.inference.loading", "restore": "unirain_plugin.inference.restoring"}
REGISTERED_MODULES = (
    "unirain_plugin.archs.unirain_arch",
    "unirain_plugin.losses.pixel_losses",
    "unirain_plugin.losses.reweighted_loss",
    "unirain_plugin.data.distilled_mixed_dataset",
    "unirain_plugin.models.unirain_model",
)
"""The modules whose import registers a class by BasicSR's own decorators."""


def register() -> dict[str, tuple[str, ...]]:
    """Make the plugin's classes known to BasicSR's registries. Safe to call any number of times.

    Returns:
        What the plugin has added in this process, by registry, for example
        ``{'arch': ('UniRain',), 'loss': ('MultiObjectiveReweightedLoss', …), …}``.

    Raises:
        ImportError: If BasicSR or torch cannot be imported; the registries are then as they were.
    """
    every = [getattr(registries(), f"{kind}_REGISTRY") for kind in ("ARCH", "LOSS", "DATASET", "MODEL")]
    before = [dict(iter(registry)) for registry in every]  # a Registry has keys() but no []
    loaded = set(sys.modules)
    try:
        for name in REGISTERED_MODULES:
            importlib.import_module(name)
    except BaseException:
        for registry, entries in zip(every, before, strict=True):
            registry._obj_map = entries
        for name in set(sys.modules) - loaded:  # so that a second call registers anew, not half of it
            if name.startswith("unirain_plugin."):
                del sys.modules[name]
        raise
    return {
        registry._name: tuple(name for name, entry in registry if entry.__module__.startswith("unirain_plugin."))
        for registry in every
    }


def __getattr__(name: str) -> object:
    """Import :func:`load` and :func:`restore` when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'unirain_plugin' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)
