"""Strict parsing of one YAML section into a frozen dataclass."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from unirain_plugin.errors import OptionError
from unirain_plugin.options.problems import found, nearest
from unirain_plugin.options.yaml_loader import number_meant

T = TypeVar("T")


def parse_section(cls: type[T], mapping: Mapping[str, Any] | None, where: str) -> T:
    """Build the dataclass ``cls`` from a YAML section.

    Every key must be a field and every value of the field's type: ``int``, ``float`` (integers pass), ``bool``,
    ``str``, ``Path``, an enum (by value or name), ``Literal``, ``X | None``, ``list[X]``, ``tuple[X, ...]``,
    ``tuple[X, Y]``, ``dict[str, X]``, another dataclass, or ``Any``. Ranges are the dataclass's own affair: an error
    that its ``__post_init__`` raises is passed on with ``where`` in front.

    Args:
        cls: The dataclass.
        mapping: The section; None (a key without a value) stands for an empty one.
        where: Names the section in messages, e.g. ``distill.yml: retrieval``.

    Raises:
        OptionError: Naming every key that is unknown, missing or of the wrong type.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise OptionError(f"{where}: found {found(mapping)}; expected a section of 'key: value' lines.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    errors, values = [], {}
    for key, value in mapping.items():
        if key not in fields:
            match = nearest(key, fields)
            hint = f"Did you mean '{match}'?" if match else f"Known: {', '.join(fields)}."
            errors.append(f"{where}.{key}: unknown key. {hint}")
            continue
        try:
            values[key] = _convert(value, hints[key], f"{where}.{key}")
        except OptionError as error:
            errors.append(str(error))
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        typo = any(nearest(key, [name]) for key in mapping if key not in fields)
        if no_default and name not in mapping and not typo:
            errors.append(f"{where}.{name}: is missing; expected {_words(hints[name])}.")
    if errors:
        raise OptionError("\n".join(errors))
    try:
        return cls(**values)
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def _convert(value: object, hint: object, where: str) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _convert_enum(value, hint, where)
    if dataclasses.is_dataclass(hint):
        return parse_section(hint, value, where)
    if origin in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        return _convert_items(value, origin, arguments, where)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    plain = origin or hint
    if isinstance(plain, type) and isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool):
        return value
    meant = number_meant(value) if isinstance(value, str) and hint in (int, float) else None
    raise OptionError(
        f"{where}: found {found(value)}; expected {_words(hint)}."
        + (f" Write {meant}, without quotes." if meant else "")
    )


def _convert_union(value: object, members: tuple[object, ...], where: str) -> object:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    for member in members:
        try:
            return _convert(value, member, where)
        except OptionError:
            if len(members) == 1:
                raise
    words = " or ".join(_words(member) for member in members)
    raise OptionError(f"{where}: found {found(value)}; expected {words}.")


def _convert_enum(value: object, hint: type[enum.Enum], where: str) -> enum.Enum:
    for member in hint:
        if member.value == value or (isinstance(value, str) and member.name.lower() == value.lower()):
            return member
    raise OptionError(f"{where}: found {found(value)}; expected {_words(hint)}.")


def _convert_items(value: Sequence, origin: type, arguments: tuple[object, ...], where: str) -> object:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise OptionError(f"{where}: found {len(value)} entries; expected {len(arguments)}.")
        return tuple(_convert(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))
    inner = arguments[0] if arguments else Any
    items = [_convert(item, inner, f"{where}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _words(hint: object) -> str:
    """A type in a user's words."""
    simple = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in simple:
        return simple[hint]
    if origin in (Union, types.UnionType):
        return " or ".join("~ (none)" if argument is type(None) else _words(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return "a list"
    return "a section of 'key: value' lines"
