"""Words for messages: a value as it is quoted, the name that was probably meant, the number behind a text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

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


def nearest(name: object, choices: Iterable[object]) -> str | None:
    """The one of ``choices`` that ``name`` most probably was meant to be, or None if it resembles none.

    Near means: the same but for case, at most two edits (one for names of up to four letters, where a swap of
    neighbours counts as one edit), or alike by more than four fifths. Names that differ by a trailing number only
    (``val_1`` and ``val_2``) are taken for different names.
    """
    name, words = str(name), sorted(map(str, choices))
    for word in words:
        if word.lower() == name.lower():
            return word
    words = [word for word in words if word.rstrip("_0123456789") != name.rstrip("_0123456789")]
    allowed = 1 if len(name) <= 4 else 2
    best = min(((_edits(name, word), word) for word in words if abs(len(word) - len(name)) <= 2), default=(99, ""))
    if best[0] <= allowed:
        return best[1]
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.8)
    return close[0] if close else None


def _edits(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that make ``a`` into ``b``."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(row[j - 1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


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
