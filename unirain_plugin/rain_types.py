"""Rain types and their integer labels (the paper's DRS, DRD, NRS, NRD; snow and haze, to which it is extended)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum

from unirain_plugin.errors import OptionError


class RainType(IntEnum):
    """The four rain types of RainRAG. The lower-case name is the folder name, the value is the label."""

    DRS = 0
    DRD = 1
    NRS = 2
    NRD = 3


_DESCRIPTIONS = {
    "drs": "daytime rain streaks",
    "drd": "daytime raindrops",
    "nrs": "nighttime rain streaks",
    "nrd": "nighttime raindrops",
    "snow": "falling snow",
    "haze": "haze",
}


KNOWN_TYPES: tuple[str, ...] = tuple(_DESCRIPTIONS)
"""The types that the package renders and describes: the four of rain, snow and haze."""


def describe(name: str) -> str:
    """A type in words, for tables and figures; the name itself where it is not one of the package's."""
    return _DESCRIPTIONS.get(name, name)


RAIN_TYPES: tuple[str, ...] = tuple(t.name.lower() for t in RainType)
"""``('drs', 'drd', 'nrs', 'nrd')``: the names in the order of their labels."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def rain_type_ids(names: Iterable[str] | None = None) -> dict[str, int]:
    """Map rain-type names to integer labels, in the given order.

    The paper's four types always keep the labels 0 to 3, whichever subset is named. Any other name (``snow``,
    ``haze``, …) is given the labels 4, 5, … in the order of its appearance, so a loss and a data set that list the
    same extra names agree.

    Args:
        names: Names in lower case; None means the paper's four.

    Raises:
        OptionError: If a name is empty, malformed or given twice.
    """
    ids: dict[str, int] = {}
    next_id = len(RainType)
    for name in RAIN_TYPES if names is None else names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(f"rain_types: {name!r} is no rain-type name; expected lower-case names such as 'drs'.")
        if name in ids:
            raise OptionError(f"rain_types: {name!r} is listed twice.")
        if name in RAIN_TYPES:
            ids[name] = RAIN_TYPES.index(name)
        else:
            ids[name] = next_id
            next_id += 1
    if not ids:
        raise OptionError("rain_types: the list is empty; expected at least one name such as 'drs'.")
    return ids
