"""The exceptions of this package and the helper that names the nearest valid spelling."""

import difflib
from collections.abc import Iterable
from unicodedata import normalize


class UniRainError(Exception):
    """Base of every error that a user can mend: programs print its message alone and exit with status 2."""


class OptionError(UniRainError, ValueError):
    """An option file, a command-line override or a constructor argument is wrong."""


class DataError(UniRainError, ValueError):
    """A file, folder, LMDB or manifest does not hold what was expected of it."""


class CheckpointError(UniRainError, RuntimeError):
    """A checkpoint is missing, broken, or made for another network."""


class TrainingError(UniRainError, RuntimeError):
    """Training cannot go on (for example: the loss stays non-finite)."""


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``choices``, or an empty string."""
    match = nearest(name, choices, alike=0.6, numbered=False)
    if match is None:
        return ""
    same = match != str(name) and normalize("NFC", match) == normalize("NFC", str(name))
    return f" Did you mean '{match}'{' (the same letters, coded otherwise in Unicode)' if same else ''}?"


def meant_or_known(name: object, choices: Iterable[object], known: Iterable[str] = ()) -> str:
    """``Did you mean 'x'?`` for the nearest of ``choices``, or ``Known: a, b.``: ``known``, or the choices."""
    choices = list(map(str, choices))
    match = nearest(name, choices)
    return f"Did you mean '{match}'?" if match else f"Known: {', '.join(known or choices)}."


def nearest(name: object, choices: Iterable[object], alike: float = 0.8, numbered: bool = True) -> str | None:
    """The one of ``choices`` that ``name`` most probably was meant to be, or None if it resembles none.

    Near means: the same but for case, at most two edits (one for names of up to four letters, where a swap of
    neighbours counts as one edit), or alike by at least ``alike`` (difflib's ratio). Where names are ``numbered``,
    those that differ by a trailing number only (``val_1`` and ``val_2``) are taken for different ones.
    """
    name, words = str(name), sorted(map(str, choices))
    for word in words:
        if word.lower() == name.lower():
            return word
    if numbered:
        words = [word for word in words if word.rstrip("_0123456789") != name.rstrip("_0123456789")]
    allowed = 1 if len(name) <= 4 else 2
    best = min(((_edits(name, word), word) for word in words if abs(len(word) - len(name)) <= 2), default=(99, ""))
    if best[0] <= allowed:
        return best[1]
    close = difflib.get_close_matches(name, words, n=1, cutoff=alike)
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


def reason(error: BaseException) -> str:
    """What went wrong, in the words of the system, or of PyAV's ffmpeg, where they gave some."""
    log = getattr(error, "log", None)
    text = log[2] if log else getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".")
