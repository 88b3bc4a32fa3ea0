"""The one validator of options: a section of a file, or keyword arguments, against a frozen dataclass.

A field's type says what a value must be; what it must fulfil besides stands with the type, in ``typing.Annotated``::

    @dataclass(frozen=True)
    class Cascade:
        k1: Annotated[int, at_least(1)] = 100
        k2: Annotated[int, at_least(1)] = 20
        index: Annotated[str, one_of("Flat", "IVF")] = "Flat"

        def check(self) -> Iterator[Problem]:
            if self.k2 > self.k1:
                yield "k2", f"found {self.k2}, more than k1 ({self.k1})."
"""

import dataclasses
import enum
import inspect
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from unirain_plugin.errors import OptionError, did_you_mean, meant_or_known, nearest

T = TypeVar("T")
KeyPath = tuple[object, ...]  # where a value stands: ``('train', 'optim_g', 'lr')``, ``('models', 0, 'name')``
Lines = Mapping[KeyPath, int | str]  # key path → its line in a file
Problem = tuple[str | KeyPath, str]
"""What a dataclass's own ``check…`` yield: a key or key path in its section, and what is wrong there."""

Problems = list[tuple[KeyPath, str]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must fulfil beside its type."""

    words: str = ""  # what is expected, behind the type's words (``≥ 1``); ``kind`` replaces those
    holds: Callable[[Any], bool] = lambda value: True  # whether a value of the right type fulfils it
    kind: str = ""
    choices: tuple[str, ...] = ()  # the allowed names, of which the nearest is named
    example: str = ""  # a sample value for messages


def _limit(sign: str, holds: Callable[[Any, Any], bool]) -> Callable[..., Rule]:
    def limit(number: float, unit: str = "") -> Rule:
        return Rule(f"{sign} {number:.10g} {unit}".rstrip(), lambda value: holds(value, number))

    return limit


at_least, above = _limit("≥", operator.ge), _limit(">", operator.gt)
at_most, below = _limit("≤", operator.le), _limit("<", operator.lt)


def between(low: float, high: float) -> Rule:
    """A number from ``low`` to ``high``, both included."""
    return Rule(f"from {low:.10g} to {high:.10g}", lambda value: low <= value <= high)


def one_of(*names: str) -> Rule:
    """One of some texts that are known at run time only; others are ``typing.Literal``."""
    return Rule(holds=lambda value: value in names, kind=f"one of {', '.join(names)}", choices=names)


def example(text: str) -> Rule:
    return Rule(example=text)


filled = Rule(holds=lambda value: bool(value.strip() if isinstance(value, str) else value), words="(not empty)")
"""A text or list that holds something."""

FolderName = typing.Annotated[
    str,
    filled,
    Rule(
        "that can name a folder: no slashes, not . or .., at most 200 bytes",
        lambda name: not re.search(r"[/\0]", name) and name not in (".", "..") and len(os.fsencode(name)) <= 200,
    ),
]


class SectionError(OptionError):
    """Everything that is wrong with a section: key path within it and complaint, in the order of the keys."""

    def __init__(self, message: str, problems: Sequence[tuple[KeyPath, str]] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


def located(where: str, lines: Lines | None, path: KeyPath, text: str) -> str:
    """A complaint behind its place: ``file:line: key path: text`` in a file, else ``section.key path: text``.

    The line is that of the key, or of the nearest section around it that has one; a text stands for file and line.
    """
    if lines is None:
        place = ".".join(filter(None, (where, dotted(path))))
        return f"{place}: {text}" if place else text
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = where if line is None else f"{where}:{line}" if isinstance(line, int) else line
    return f"{place}: {dotted(path)}: {text}" if path else f"{place}: {text}"


def dotted(path: KeyPath) -> str:
    """The key path as users read it: ``train.optim_g.lr``, ``models[0].name``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def parse_section(
    cls: type[T],
    mapping: Mapping[str, Any] | None,
    where: str,
    *,
    lines: Lines | None = None,
    passed_over: Container[str] = (),
    empty_is_default: bool = False,
) -> T:
    """Build the dataclass ``cls`` from a section or from keyword arguments.

    Every key must be a field and every value of the field's type: ``int``, ``float`` (finite; integers pass), ``bool``,
    ``str``, ``Path``, an enum (by value or name), ``Literal``, ``X | None``, ``list[X]``, ``tuple[X, ...]``, ``tuple[X,
    Y]``, ``dict[str, X]``, another dataclass, or ``Any``; with ``Annotated`` it must fulfil the rules too. Methods
    ``check…`` of the class are rules on several fields: they yield problems, and are left out where a field that they
    read is wrong already. A ValueError of ``__post_init__`` is a problem as well.

    ``where`` names the section in messages, or the file of ``lines``, key path → line. ``passed_over`` are keys that
    somebody else reads from the same section. With ``empty_is_default`` a key without a value (null) is as if it were
    not there. The SectionError names every key that is unknown, missing, of the wrong type or out of range.
    """
    problems: Problems = []
    value = _section(cls, mapping, (), problems, passed_over, empty_is_default)
    if problems:
        raise SectionError("\n".join(located(where, lines, at, text) for at, text in problems), problems)
    return value


def plain(value: object) -> Any:
    """A deep copy in the types that JSON has: ordered mappings as dicts, tuples as lists, paths as texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def differences(before: object, now: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object, object]]:
    """Key paths at which two plain values differ, each with both values (None: missing)."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), (*path, key))
    elif before != now:
        yield path, before, now


def shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


def complaint(value: object, hint: object) -> str | None:
    """Why a value is not what a type, with its rules, allows; None if it is."""
    problems: Problems = []
    _convert(value, hint, (), problems)
    return problems[0][1] if problems else None


def _section(
    cls: type[T],
    mapping: object,
    path: KeyPath,
    problems: Problems,
    passed_over: Container[str] = (),
    empty_is_default: bool = False,
) -> T | None:
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        problems.append((path, f"found {found(mapping)}; expected a section of 'key: value' lines."))
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [key for key in mapping if key not in fields and key not in passed_over]
    unclear = {nearest(key, fields) for key in unknown}
    before, values = len(problems), {}
    for key, value in mapping.items():
        if key in unknown:
            problems.append(((*path, key), f"unknown key. {meant_or_known(key, fields)}"))
        elif key in fields and not (value is None and empty_is_default):
            told = len(problems)
            values[key] = _convert(value, hints[key], (*path, key), problems)
            unclear |= {key} if len(problems) > told else set()
    for name, field in fields.items():
        if name in values or name in unclear:
            continue
        if field.default_factory is not dataclasses.MISSING:
            values[name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            values[name] = field.default
        else:
            problems.append(((*path, name), f"is missing; expected {words(hints[name])}."))
    if len(problems) > before:
        built = _Partial(cls, {name: value for name, value in values.items() if name not in unclear})
    else:
        try:
            built = cls(**values)
        except ValueError as error:
            problems.append((path, str(error)))
            return None
    for name in (name for name in vars(cls) if name.startswith("check")):
        try:
            for key, text in getattr(built, name)():
                problems.append(((*path, *((key,) if isinstance(key, str) else key)), text))
        except _UnclearError:
            continue
    return built


class _UnclearError(Exception):
    """A rule asks for a value that is wrong or missing."""


class _Partial:
    """The right values of a section with wrong ones, for the rules that need no others."""

    def __init__(self, cls: type, values: Mapping[str, object]) -> None:
        self.__dict__.update(values)
        self._cls = cls

    def __getattr__(self, name: str) -> Any:
        member = inspect.getattr_static(self._cls, name, None)
        if isinstance(member, property):
            return member.fget(self)
        if isinstance(member, types.FunctionType):
            return types.MethodType(member, self)
        raise _UnclearError(name)


def _convert(value: object, hint: object, path: KeyPath, problems: Problems) -> Any:
    """The value as the type wants it; what is wrong with it, or with what it holds, goes to ``problems``."""
    base, rules = _split(hint)
    origin, arguments = typing.get_origin(base), typing.get_args(base)
    given, before = value, len(problems)
    if dataclasses.is_dataclass(base):
        return _section(base, value, path, problems)
    if origin in (Union, types.UnionType):
        value, fits = _one_member(value, arguments, path, problems)
        if len(problems) > before:
            return None
    elif origin in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        value, fits = _items(value, origin, arguments, path, problems)
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        value = {key: _convert(item, arguments[1], (*path, key), problems) for key, item in value.items()}
        fits = True
    else:
        value, fits = _plain(value, base)
    if len(problems) == before and not (fits and all(rule.holds(value) for rule in rules)):
        problems.append((path, _complaint(given, hint)))
    return value


def _plain(value: object, hint: Any) -> tuple[object, bool]:
    if hint is Any:
        return value, True
    if typing.get_origin(hint) is Literal:
        return value, any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            if member.value == value or (isinstance(value, str) and member.name.lower() == value.lower()):
                return member, True
        return value, False
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = abs(value) <= sys.float_info.max
        return (float(value) if fits else value), fits
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser(), bool(value.strip())
    kind = typing.get_origin(hint) or hint
    fits = isinstance(kind, type) and isinstance(value, kind)
    return value, fits and (kind is bool or not isinstance(value, bool))


def _one_member(value: object, members: tuple[object, ...], path: KeyPath, problems: Problems) -> tuple[object, bool]:
    if value is None and type(None) in members:
        return None, True
    tries: list[Problems] = []
    for member in (member for member in members if member is not type(None)):
        tries.append([])
        converted = _convert(value, member, path, tries[-1])
        if not tries[-1]:
            return converted, True
    problems += next((told for told in tries if any(len(at) > len(path) for at, _ in told)), [])
    return value, False


def _items(
    value: Sequence, origin: object, arguments: tuple[object, ...], path: KeyPath, problems: Problems
) -> tuple[object, bool]:
    alike = origin is not tuple or arguments[1:] == (Ellipsis,)
    hints = arguments[:1] * len(value) if alike else arguments
    if len(value) != len(hints):
        return value, False
    items = [_convert(item, hints[i], (*path, i), problems) for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items, True


def _split(hint: object) -> tuple[Any, tuple[Rule, ...]]:
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, ()
    return hint.__origin__, tuple(rule for rule in hint.__metadata__ if isinstance(rule, Rule))


def _complaint(value: object, hint: object) -> str:
    text = f"found {found(value)}; expected {words(hint)}."
    if not isinstance(value, str):
        return text
    base, rules = _split(hint)
    members = [_split(member) for member in typing.get_args(base)] if _is_union(base) else [(base, rules)]
    choices = [choice for _, own in members for rule in own for choice in rule.choices]
    for member, _ in members:
        choices += typing.get_args(member) if typing.get_origin(member) is Literal else ()
    if any(member in (int, float) for member, _ in members):
        digits = value.lstrip("+-").replace(".", "", 1).isdigit()
        meant = number_meant(value) or (value if digits else None)
        return text + (f" Write {meant}, without quotes." if meant else did_you_mean(value, choices))
    return text + did_you_mean(value, choices)


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def words(hint: object) -> str:
    """A type and its rules in a user's words: ``an integer ≥ 1 or ~ (none)``."""
    base, rules = _split(hint)
    text = next((rule.kind for rule in rules if rule.kind), None) or _kind(base)
    conditions = " and ".join(rule.words for rule in rules if rule.words)
    samples = "".join(f", e.g. {rule.example}" for rule in rules if rule.example)
    return " ".join(filter(None, (text, conditions))) + samples


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if _is_union(hint):
        return " or ".join("~ (none)" if argument is type(None) else words(argument) for argument in arguments)
    if origin is Literal:
        one = len(arguments) == 1 and isinstance(arguments[0], str)
        return f"'{arguments[0]}'" if one else "one of " + ", ".join(map(str, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"a list of {len(arguments)} entries"
    if origin in (list, tuple, Sequence):
        return f"a list, each {words(arguments[0])}" if arguments else "a list"
    return "a list" if hint in (list, tuple) else "a section of 'key: value' lines"


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


_LOOSE_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


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
