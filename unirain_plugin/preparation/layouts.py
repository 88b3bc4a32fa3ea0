"""What a data set's folder layout is, as data: patterns, a pairing rule, and how the rain type is told.

A pattern describes paths relative to the data set's folder, without the suffix: ``{dir}rainy_image/{id}_{n}``. The
fields ``{dir}`` and ``{sub}`` stand for any number of folders, every other one for a part of a name; ``fields`` may
narrow one down by a regular expression. The clean image's pattern uses the fields of the rainy one's. Those of public
data sets are in ``layouts.yml``; the index command tells the user how each came about.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.spec import filled, one_of, parse_section

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
    """One kind of pairs in a data set."""

    rule: Annotated[str, one_of(*RULES)]
    # pattern of the rainy images (``list_file``: glob of the list files; ``side_by_side``: of the joint images)
    lq: Annotated[str, filled]
    gt: str | tuple[str, ...] = ()  # patterns of the clean image; the first that exists is taken
    # the type's name; ``{field}`` takes the field's value, which ``types`` translates; None: to be said
    rain_type: str | None = None
    types: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None  # regular expressions of fields
    split: str | None = None  # the split that these pairs are, where the folders do not tell
    source: str | None = None  # name of the source; fields may be used. None: the layout's name.

    def __post_init__(self) -> None:
        object.__setattr__(self, "gt", (self.gt,) if isinstance(self.gt, str) else self.gt)
        if not self.gt and self.rule not in ("list_file", "side_by_side"):
            raise OptionError(f"missing key 'gt'; the rule {self.rule} needs a pattern of the clean images.")
        for name in (self.types or {}).values():
            rain_type_ids([name])
        try:
            fields = {} if self.rule == "list_file" else self.lq_regex().groupindex
            if self.rule == "sorted" and any("name" not in p.groupindex for p in (self.lq_regex(), *self.gt_regexes())):
                raise OptionError("the rule sorted needs the field {name} in lq and in gt: it tells what is sorted.")
            self.gt_regexes()
            uses = [*(("gt", pattern) for pattern in self.gt), ("rain_type", self.rain_type), ("source", self.source)]
            by_field = self.rule not in ("sorted", "list_file")
            for key, pattern in uses:
                for _, name, spec, conversion in Formatter().parse(pattern or ""):
                    if spec or conversion:
                        raise OptionError(f"{key}: {pattern!r}: a field is a name in braces and nothing else.")
                    if name is not None and name not in fields and (key != "gt" or by_field):
                        hint = did_you_mean(name, fields)
                        raise OptionError(f"{key}: {{{name}}} is no field of lq ({', '.join(fields)}).{hint}")
        except (re.error, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(f"a pattern is wrong: {error}.") from None

    def lq_regex(self) -> re.Pattern[str]:
        return self._compile(self.lq)

    def gt_regexes(self) -> list[re.Pattern[str]]:
        return [self._compile(pattern) for pattern in self.gt]

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
    """A data set's layout: its name on the command line, title in the literature, status (of :data:`STATUSES`), a note.

    ``parts`` are tried in this order for every image; the first whose clean image exists is taken.
    """

    name: Annotated[str, filled]
    parts: Annotated[tuple[Part, ...], filled]
    title: str = ""
    status: Annotated[str, one_of(*STATUSES)] = "custom"
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)


def parse_layout(data: Mapping[str, Any], where: str) -> Layout:
    """Check a layout given as a mapping (the public table, or a user's YAML file); else OptionError."""
    return parse_section(Layout, data, where)


def load_layout(path: str) -> Layout:
    """Read a layout from a YAML file; OptionError if it is missing, no YAML, or no layout."""
    return parse_layout(read_option_file(path).opt, path)


@cache
def public_layouts() -> dict[str, Layout]:
    rows = read_option_file(Path(__file__).with_suffix(".yml")).opt["layouts"]
    return {row["name"]: parse_layout(row, row["name"]) for row in rows}


def public_layout(name: str) -> Layout:
    """The layout of this name (in any case); an OptionError names the nearest."""
    layouts = public_layouts()
    if name.lower() not in layouts:
        hint = did_you_mean(name.lower(), layouts)
        raise OptionError(f"--layout: no layout '{name}'.{hint} --list shows all; a path of a .yml file is your own.")
    return layouts[name.lower()]
