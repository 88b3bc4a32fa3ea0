"""Collecting what is wrong with an option file, and finding the key that was probably meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unirain_plugin.errors import OptionError
from unirain_plugin.support.spec import KeyPath, located


class Problems:
    """The errors and warnings of one option file, each with its place, in the order of discovery."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int | str] | None = None) -> None:
        self.file = file  # as the user named it
        # key path → line number (from 1), or a word such as ``--force_yml`` for values from elsewhere
        self.lines: dict[KeyPath, int | str] = dict(lines or {})
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.told_by_run: set[str] = set()  # warnings that a run gives itself when it comes to it
        self.wrong: set[KeyPath] = set()  # the key paths of the errors
        # whether a key path's errors are only warnings, as we cannot know what its reader wants
        self.doubts: Callable[[KeyPath], bool] = lambda path: False

    def error(self, path: KeyPath, text: str) -> None:
        self.wrong.add(path)
        self._note(self.warnings if self.doubts(path) else self.errors, path, text)

    def warn(self, path: KeyPath, text: str, told_by_run: bool = False) -> None:
        """Note something odd that the toolbox can live with."""
        note = self._note(self.warnings, path, text)
        if told_by_run:
            self.told_by_run.add(note)

    def is_wrong(self, path: KeyPath) -> bool:
        return any(wrong[: len(path)] == path for wrong in self.wrong)

    def raise_if_any(self) -> None:
        if len(self.errors) == 1:
            raise OptionError(self.errors[0])
        if self.errors:
            raise OptionError(f"{len(self.errors)} mistakes in {self.file}:\n  " + "\n  ".join(self.errors))

    def _note(self, notes: list[str], path: KeyPath, text: str) -> str:
        note = located(self.file, self.lines, path, text)
        if note not in notes:
            notes.append(note)
        return note
