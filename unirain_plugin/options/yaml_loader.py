"""A safe, strict YAML loader: plain data only, duplicate keys are errors, every value and mistake knows its line."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.support.spec import KeyPath, located, number_meant

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("null", "bool", "int", "float", "str")}
_MERGE = _TAG + "merge"
_MOST_VALUES = 100_000
"""Values in one file, aliases counted wherever they are used: a few lines of nested aliases can stand for 10⁹."""


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


@dataclass(frozen=True)
class OptionFile:
    """A parsed option file: ``opt`` as BasicSR's own loader would give it, and the line of every key path."""

    file: str
    opt: OrderedDict
    lines: dict[KeyPath, int | str]


def read_option_file(path: str | Path) -> OptionFile:
    """Read an option file without executing anything.

    Values are what BasicSR's loader gives (YAML 1.1), but tags that build Python objects are refused, ``<<`` merges
    work, and an aliased section is a copy of its own wherever it is used (BasicSR changes sections in place). An
    OptionError if the file cannot be read, is no YAML mapping, names a key twice, or holds a number such as ``1e-4``,
    which is text.
    """
    path = Path(path)
    problems = Problems(str(path))
    node = _compose(_read_text(path), str(path))
    if node is None:
        raise OptionError(f"{path}: the option file is empty; expected keys such as 'name: …' and 'model_type: …'.")
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        line = node.start_mark.line + 1
        raise OptionError(f"{path}:{line}: expected a mapping ('key: value' lines) at the top, found {found}.")
    opt = _Builder(problems).build(node, ())
    problems.raise_if_any()
    return OptionFile(str(path), opt, problems.lines)


def parse_value(text: str, path: KeyPath, source: str) -> object:
    """Parse one value by the same rules, for ``key=value`` on a command line; ``source`` is its place in messages.

    As in BasicSR's ``--force_yml``, ``none`` means null and ``!!float1e-4`` needs no space.
    """
    text = text.strip()
    if text.lower() == "none":
        return None
    node = _compose(re.sub(r"^!!float(?=\S)", "!!float ", text), source, one_line=True)
    problems = Problems(source, {path[:1]: source})
    value = None if node is None else _Builder(problems).build(node, path, keep_lines=False)
    problems.raise_if_any()
    return value


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise OptionError(f"{path}: is a folder; expected an option file (.yml).")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        siblings = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        raise OptionError(f"{path}: no such option file.{did_you_mean(path, siblings)}") from None
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start}); expected a YAML file saved as UTF-8."
        raise OptionError(f"{path}: {what}") from None
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _compose(text: str, source: str, one_line: bool = False) -> yaml.Node | None:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = ""
        if mark is not None and any("\t" in line for line in text.splitlines()[mark.line : mark.line + 1]):
            hint = " The line holds a tab; indent with spaces."
        elif error.problem and "mapping values are not allowed" in error.problem:
            hint = " Check the indentation, and quote text that holds ': '."
        where = source if mark is None or one_line else f"{source}:{mark.line + 1}, column {mark.column + 1}"
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise OptionError(f"{where}: not valid YAML: {what}.{hint}") from None
    except yaml.YAMLError as error:  # characters that YAML forbids
        raise OptionError(f"{source}: not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise OptionError(f"{source}: not valid YAML: nested too deeply.") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Builder:
    """Builds plain values from nodes and notes every problem instead of stopping at the first."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.scalars = yaml.constructor.SafeConstructor()
        self.count = 0

    def build(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...] = (), keep_lines: bool = True) -> object:
        self.count += 1
        if self.count == _MOST_VALUES:
            self._stop(path, f"stands for more than {_MOST_VALUES:,} values; are aliases nested?")
        if id(node) in above:
            self._stop(path, "an alias refers to the section it stands in.")
        if keep_lines:
            self.problems.lines.setdefault(path, node.start_mark.line + 1)
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, above, keep_lines)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, i), above, keep_lines) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._refuse(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[int, ...], keep_lines: bool) -> OrderedDict:
        own: OrderedDict = OrderedDict()
        merged: OrderedDict = OrderedDict()
        first: dict[object, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                merged.update(self._merge(value_node, path, above))
                continue
            key = key_node.value if key_node.tag == _TAG + "str" else None
            if key is None:
                text = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self._error((*path, text), line, "this key is not text in YAML; put quotes around it.")
            elif key in own:
                self._error((*path, key), line, f"the key is given twice, first in line {first[key]}; keep one.")
            else:
                first[key] = line
                if keep_lines:
                    self.problems.lines[(*path, key)] = line
                own[key] = self.build(value_node, (*path, key), above, keep_lines)
        return OrderedDict([(k, v) for k, v in merged.items() if k not in own] + list(own.items()))

    def _merge(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...]) -> OrderedDict:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: OrderedDict = OrderedDict()
        for part in reversed(parts):  # YAML's rule: the earlier part of a list wins
            if not isinstance(part, yaml.MappingNode):
                self._error(path, part.start_mark.line + 1, "'<<' must be given a section (an alias such as *common).")
                continue
            merged.update(self.build(part, path, above))
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        if node.tag == _TAG + "timestamp":
            return node.value  # a run may well be named 2024-05-01
        if node.tag not in _SCALARS:
            return self._refuse(node, path)
        meant = number_meant(node.value) if node.tag == _TAG + "str" and node.style is None else None
        line = node.start_mark.line + 1
        if meant is not None:
            text = f"YAML reads {node.value!r} as text, not as a number; write {meant} (or quotes, if text is meant)."
            self._error(path, line, text)
            return float(node.value)
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._error(path, line, f"{node.value!r} is no {node.tag.removeprefix(_TAG)}.")
            return None

    def _refuse(self, node: yaml.Node, path: KeyPath) -> None:
        tag = node.tag.replace(_TAG, "!!")
        text = f"the tag {tag!r} is not allowed; expected plain text, numbers, true/false, lists and sections."
        self._error(path, node.start_mark.line + 1, text)

    def _error(self, path: KeyPath, line: int, text: str) -> None:
        override = path and self.problems.lines.get(path[:1])
        if path and not isinstance(override, str):
            self.problems.lines[path] = line
        self.problems.error(path, text)

    def _stop(self, path: KeyPath, text: str) -> None:
        self.problems.error(path, text)
        self.problems.raise_if_any()
