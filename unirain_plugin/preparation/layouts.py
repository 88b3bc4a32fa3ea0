"""What a data set's folder layout is, as data: patterns, a pairing rule, and how the rain type is told.

A pattern describes paths relative to the data set's folder, without the suffix: ``{dir}rainy_image/{id}_{n}``. The
fields ``{dir}`` and ``{sub}`` stand for any number of folders, every other one for a part of a name; ``fields`` may
narrow one down by a regular expression. The clean image's pattern uses the fields of the rainy one's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import yaml

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.rain_types import rain_type_ids

RULES = {
    "same_name": "the clean image has the same name in another folder",
    "prefix_swap": "the clean image's name begins otherwise",
    "suffix_swap": "the clean image's name ends otherwise",
    "many_to_one": "several rainy images share a clean one, told by a part of their name",
    "list_file": "a text file lists a rainy and a clean image on each line",
    "scene": "every scene (folder) has one clean image for all of its rainy ones",
    "sorted": "the n-th rainy image belongs to the n-th clean one (names tell nothing: comes with a warning)",
    "side_by_side": "both images are the halves of one file",
}
ONE_TO_ONE = frozenset({"same_name", "prefix_swap", "suffix_swap", "sorted"})
STATUSES = {
    "read": "read in the data set's loader or description",
    "recalled": "from memory, not checked",
    "guess": "a guess: check the pairs before you trust them",
    "custom": "your own",
}
_FOLDERS = r"(?:[^/]+/)*"


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of pairs in a data set.

    Attributes:
        rule: One of :data:`RULES`.
        lq: Pattern of the rainy images (``list_file``: glob of the list files; ``side_by_side``: of the joint images).
        gt: Patterns of the clean image; the first that exists is taken.
        rain_type: The type's name; ``{field}`` takes the field's value; None means that the user has to say.
        types: Translates the value of ``rain_type`` into a rain type; others stay as they are.
        fields: Regular expressions of fields.
        split: The split that these pairs are, where the folders do not tell.
        source: Name of the source; fields may be used. None: the layout's name.
    """

    rule: str
    lq: str
    gt: tuple[str, ...] = ()
    rain_type: str | None = None
    types: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None
    split: str | None = None
    source: str | None = None

    def lq_regex(self) -> re.Pattern[str]:
        """Compile the pattern of the rainy images."""
        return self._compile(self.lq)

    def gt_regexes(self) -> list[re.Pattern[str]]:
        """Compile the patterns of the clean images."""
        return [self._compile(pattern) for pattern in self.gt]

    def all_regexes(self) -> list[re.Pattern[str]]:
        """Compile the patterns of both sides."""
        return [*([] if self.rule == "list_file" else [self.lq_regex()]), *self.gt_regexes()]

    def _compile(self, pattern: str) -> re.Pattern[str]:
        text, seen = "", set()
        for literal, name, _, _ in Formatter().parse(pattern):
            text += re.escape(literal)
            if name is None:
                continue
            default = _FOLDERS if name in ("dir", "sub") else "[^/]+"
            text += f"(?P={name})" if name in seen else f"(?P<{name}>{(self.fields or {}).get(name, default)})"
            seen.add(name)
        return re.compile(text)


@dataclass(frozen=True, slots=True)
class Layout:
    """A data set's layout.

    Attributes:
        name: Name on the command line.
        title: Name in the literature.
        status: One of :data:`STATUSES`: how far the layout can be trusted.
        note: What the user should know.
        parts: Tried in this order for every image; the first whose clean image exists is taken.
    """

    name: str
    title: str
    status: str
    note: str
    parts: tuple[Part, ...]


def parse_layout(data: Mapping[str, Any], where: str) -> Layout:
    """Check a layout given as a mapping (the public table, or a user's YAML file).

    Raises:
        OptionError: Naming ``where``, the key, what was found and what was expected.
    """
    data = _checked(data, {"name", "title", "status", "note", "parts"}, {"name", "parts"}, where)
    status = data.get("status", "custom")
    if status not in STATUSES:
        raise OptionError(f"{where}: status: expected {', '.join(STATUSES)}, found {status!r}.")
    parts = data["parts"]
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise OptionError(f"{where}: parts: expected a list of parts, found {parts!r}.")
    checked = tuple(_parse_part(part, f"{where}: parts[{number}]") for number, part in enumerate(parts))
    title = str(data.get("title", data["name"]))
    return Layout(str(data["name"]), title, status, str(data.get("note", "")), checked)


def load_layout(path: str) -> Layout:
    """Read a layout from a YAML file.

    Raises:
        OptionError: If the file is missing, no YAML, or no layout.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except OSError as error:
        raise OptionError(f"{path}: the layout cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: no YAML: {error}.") from None
    return parse_layout(data, path)


def _checked(data: object, known: set[str], needed: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise OptionError(f"{where}: expected keys and values ({', '.join(sorted(needed))}, …), found {data!r}.")
    for key in data:
        if key not in known:
            raise OptionError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")
    for key in sorted(needed):
        if data.get(key) in (None, ""):
            raise OptionError(f"{where}: missing key '{key}'.")
    return data


def _parse_part(data: object, where: str) -> Part:
    known = {"rule", "lq", "gt", "rain_type", "types", "fields", "split", "source"}
    data = _checked(data, known, {"rule", "lq"}, where)
    rule, gt = data["rule"], data.get("gt", ())
    if rule not in RULES:
        raise OptionError(
            f"{where}: rule: expected one of {', '.join(RULES)}, found {rule!r}.{did_you_mean(rule, RULES)}"
        )
    gt = (gt,) if isinstance(gt, str) else tuple(gt)
    if not gt and rule not in ("list_file", "side_by_side"):
        raise OptionError(f"{where}: missing key 'gt'; the rule {rule} needs a pattern of the clean images.")
    types = data.get("types")
    for name in (types or {}).values() if isinstance(types, Mapping) else ():
        rain_type_ids([name])
    part = Part(rule, data["lq"], gt, data.get("rain_type"), types, data.get("fields"), data.get("split"), data.get("source"))  # fmt: skip  # noqa: E501
    _check_patterns(part, where)
    return part


def _check_patterns(part: Part, where: str) -> None:
    if part.rule == "list_file":
        return
    try:
        fields = part.lq_regex().groupindex.keys()
        part.gt_regexes()
    except (re.error, ValueError) as error:
        raise OptionError(f"{where}: a pattern is wrong: {error}.") from None
    uses = {"gt": part.gt, "rain_type": (part.rain_type or "",), "source": (part.source or "",)}
    for key, patterns in uses.items():
        for pattern in patterns:
            for _, name, _, _ in Formatter().parse(pattern):
                if name and name not in fields and not (key == "gt" and part.rule == "sorted"):
                    hint = did_you_mean(name, fields)
                    raise OptionError(f"{where}: {key}: {{{name}}} is no field of lq ({', '.join(fields)}).{hint}")
