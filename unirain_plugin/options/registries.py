"""BasicSR's registries with every class in them, and the classes that an option file names."""

from __future__ import annotations

from collections.abc import Mapping

from unirain_plugin.errors import nearest
from unirain_plugin.options.problems import KeyPath, Problems
from unirain_plugin.toolbox import registered


def registry_entries(kind: str) -> dict[str, object]:
    """Everything registered under ``kind`` (arch, loss, dataset, model, metric) by the name an option file may use."""
    import unirain_plugin

    unirain_plugin.register()
    return registered(kind)


def named_class(kind: str, name: object, path: KeyPath, problems: Problems) -> object | None:
    """The class that an option file names, or None after noting that there is none.

    Args:
        kind: The registry.
        name: What the file says.
        path: Where it says so.
        problems: Takes the error, with the nearest registered name.
    """
    words = {"arch": "network", "dataset": "data set"}
    if not isinstance(name, str):
        return None  # its rule has complained
    entries = registry_entries(kind)
    if name not in entries:
        match = nearest(name, entries)
        names = sorted(entry for entry in entries if not entry.endswith("_basicsr"))
        hint = f"Did you mean '{match}'?" if match else f"Known: {', '.join(names)}."
        problems.error(path, f"no {words.get(kind, kind)} is named '{name}'. {hint}")
    return entries.get(name)


def section(opt: object, *path: str) -> Mapping:
    """The section at ``path``, or an empty mapping where there is none or something else stands."""
    for key in path:
        opt = opt.get(key) if isinstance(opt, Mapping) else None
    return opt if isinstance(opt, Mapping) else {}
