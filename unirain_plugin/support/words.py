"""Words for messages: a value as it is quoted, the name that was probably meant, the number behind a text."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LOOSE_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def found(value: object) -> str:
    """A value as it is quoted in a message, shortened, with its YAML type where that helps."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:80]!r}"
    if isinstance(value, Mapping):
        return "a section with the keys " + ", ".join(map(str, list(value)[:5])) if value else "an empty section"
    if isinstance(value, list):
        return f"the list {str(value)[:80]}"
    return f"{value}"[:80]


def number_meant(text: str) -> str | None:
    """For text such as ``1e-4`` the spelling that YAML 1.1 reads as a number (``1.0e-4``), else None."""
    if not _LOOSE_FLOAT.fullmatch(text):
        return None
    mantissa, exponent = re.split("[eE]", text)
    if "." not in mantissa:
        mantissa += ".0"
    if mantissa.lstrip("+-").startswith("."):
        mantissa = mantissa.replace(".", "0.", 1)
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
