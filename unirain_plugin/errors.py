"""The exceptions of this package and the helper that names the nearest valid spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UniRainError(Exception):
    """Base of every error that this package raises for something a user can mend.

    The command-line programs print its message without a traceback and exit with status 2.
    """


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
    matches = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""
