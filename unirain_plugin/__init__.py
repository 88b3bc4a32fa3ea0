"""UniRain for the BasicSR toolbox: one network against daytime and nighttime rain streaks and raindrops.

``import unirain_plugin`` is light: neither torch nor BasicSR is imported before :func:`register` is called.
"""

from __future__ import annotations

from unirain_plugin.version import __version__

__all__ = ["__version__", "register"]


def register() -> dict[str, tuple[str, ...]]:
    """Make the plugin's classes known to BasicSR's registries. Safe to call any number of times.

    Returns:
        What the plugin has added in this process, by registry, for example
        ``{'arch': ('UniRain',), 'loss': ('MultiObjectiveReweightedLoss', …), …}``.

    Raises:
        ImportError: If BasicSR or torch cannot be imported; the registries are then as they were.
    """
    from unirain_plugin.registration import register as _register

    return _register()
