"""Collecting what is wrong with an option file, and finding the key that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from unirain_plugin.errors import OptionError

KeyPath = tuple[object, ...]
"""Where a value stands: ``('train', 'optim_g', 'lr')``."""


def dotted(path: KeyPath) -> str:
    """The key path as users read it: ``train.optim_g.lr``."""
    return ".".join(map(str, path))


class Problems:
    """The errors and warnings of one option file, each with its place.

    Attributes:
        file: The option file as the user named it.
        lines: Key path → line number (from 1), or a word such as ``--force_yml`` for values from elsewhere.
        errors: One line each, in the order of discovery.
        warnings: The same, for what does not stop a run.
        wrong: The key paths of the errors.
    """

    def __init__(self, file: str, lines: Mapping[KeyPath, int | str] | None = None) -> None:
        self.file = file
        self.lines: dict[KeyPath, int | str] = dict(lines or {})
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.wrong: set[KeyPath] = set()

    def error(self, path: KeyPath, text: str) -> None:
        """Note an error at ``path``."""
        self.wrong.add(path)
        self._note(self.errors, path, text)

    def warn(self, path: KeyPath, text: str) -> None:
        """Note something odd that the toolbox can live with."""
        self._note(self.warnings, path, text)

    def place(self, path: KeyPath) -> str:
        """``file:line`` of the key, or of the nearest section around it that has a line."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{self.file}:{line}" if isinstance(line, int) else str(line)
        return self.file

    def raise_if_any(self) -> None:
        """Raise one :class:`OptionError` that tells every error found."""
        if len(self.errors) == 1:
            raise OptionError(self.errors[0])
        if self.errors:
            raise OptionError(f"{len(self.errors)} mistakes in {self.file}:\n  " + "\n  ".join(self.errors))

    def _note(self, notes: list[str], path: KeyPath, text: str) -> None:
        note = f"{self.place(path)}: {dotted(path)}: {text}" if path else f"{self.place(path)}: {text}"
        if note not in notes:
            notes.append(note)


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
