"""Registration in BasicSR's registries: explicit imports, all or nothing."""

import importlib
import sys

from unirain_plugin.toolbox import registries

REGISTERED_MODULES = (
    "unirain_plugin.archs.unirain_arch",
    "unirain_plugin.losses.pixel_losses",
    "unirain_plugin.losses.reweighted_loss",
    "unirain_plugin.data.distilled_mixed_dataset",
    "unirain_plugin.models.unirain_model",
)
"""The modules whose import registers a class by BasicSR's own decorators."""


def register() -> dict[str, tuple[str, ...]]:
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
