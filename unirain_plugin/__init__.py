"""UniRain for the BasicSR toolbox: one network against daytime and nighttime rain streaks and raindrops.

``import unirain_plugin`` is light: neither torch nor BasicSR is imported before :func:`register` is called or one of
:func:`load` and :func:`restore` is asked for::

    from unirain_plugin import load, restore

    clean = restore(load(), rainy)  # rainy: an RGB array (H, W, 3)
"""

from unirain_plugin.version import __version__

__all__ = ["__version__", "load", "register", "restore"]

_LAZY = {"load": "unirain_plugin.inference.loading", "restore": "unirain_plugin.inference.restoring"}


def register() -> dict[str, tuple[str, ...]]:
    """Make the plugin's classes known to BasicSR's registries. Safe to call any number of times.

    Returns what the plugin has added in this process, by registry: ``{'arch': ('UniRain',), …}``. Where BasicSR or
    torch cannot be imported that is an ImportError, and the registries are as they were.
    """
    from unirain_plugin.registration import register as _register

    return _register()


def __getattr__(name: str) -> object:
    """Import :func:`load` and :func:`restore` when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'unirain_plugin' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
