"""BasicSR's registries with every class in them, and the classes that an option file names."""

from __future__ import annotations

from collections.abc import Mapping

from unirain_plugin.options.problems import KeyPath, Problems, nearest

_SUFFIX = "_basicsr"
"""BasicSR looks a name up with this suffix when it does not find it as it stands."""


def registry_entries(kind: str) -> dict[str, object]:
    """Everything registered under ``kind`` (arch, loss, dataset, model, metric) by the name an option file may use."""
    import unirain_plugin

    unirain_plugin.register()
    from basicsr.utils import registry as registries

    entries = dict(iter(getattr(registries, f"{kind.upper()}_REGISTRY")))
    return {name.removesuffix(_SUFFIX): entry for name, entry in entries.items()} | entries


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
        names = sorted(entry for entry in entries if not entry.endswith(_SUFFIX))
        hint = f"Did you mean '{match}'?" if match else f"Known: {', '.join(names)}."
        problems.error(path, f"no {words.get(kind, kind)} is named '{name}'. {hint}")
    return entries.get(name)


def is_own(obj: object) -> bool:
    """Whether a class is this package's, so that its section holds no key that we do not know."""
    return getattr(obj, "__module__", "").split(".")[0] == "unirain_plugin"


def section(opt: object, *path: str) -> Mapping:
    """The section at ``path``, or an empty mapping where there is none or something else stands."""
    for key in path:
        opt = opt.get(key) if isinstance(opt, Mapping) else None
    return opt if isinstance(opt, Mapping) else {}
