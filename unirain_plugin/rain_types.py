"""Rain types and their integer labels (the paper's DRS, DRD, NRS, NRD; snow and haze, to which it is extended)."""

import itertools
import re
from collections.abc import Iterable

from unirain_plugin.errors import OptionError

RAIN_TYPES = ("drs", "drd", "nrs", "nrd")
"""The four rain types of RainRAG in the order of their labels, 0 to 3. A name is that of the folder too."""

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


_NAME = re.compile(r"[a-z][a-z0-9_]*")


def rain_type_ids(names: Iterable[str] | None = None) -> dict[str, int]:
    """Map rain-type names in lower case (None: the paper's four) to integer labels, in the given order.

    The paper's four types always keep the labels 0 to 3, whichever subset is named. Any other name (``snow``,
    ``haze``, …) is given the labels 4, 5, … in the order of its appearance, so a loss and a data set that list the
    same extra names agree. An OptionError if a name is empty, malformed or given twice.
    """
    ids: dict[str, int] = {}
    others = itertools.count(len(RAIN_TYPES))
    for name in RAIN_TYPES if names is None else names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(f"rain_types: {name!r} is no rain-type name; expected lower-case names such as 'drs'.")
        if name in ids:
            raise OptionError(f"rain_types: {name!r} is listed twice.")
        ids[name] = RAIN_TYPES.index(name) if name in RAIN_TYPES else next(others)
    if not ids:
        raise OptionError("rain_types: the list is empty; expected at least one name such as 'drs'.")
    return ids
