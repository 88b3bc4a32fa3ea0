"""What a data set's folder layout is, as data: patterns, a pairing rule, and how the rain type is told.

A pattern describes paths relative to the data set's folder, without the suffix: ``{dir}rainy_image/{id}_{n}``. The
fields ``{dir}`` and ``{sub}`` stand for any number of folders, every other one for a part of a name; ``fields`` may
narrow one down by a regular expression. The clean image's pattern uses the fields of the rainy one's.

Of the public data sets, ``status`` says how a row came about: ``read`` in a loader or description of the data set,
``recalled`` from memory, or a ``guess``; the index command tells the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.rain_types import rain_type_ids
from unirain_plugin.support.spec import parse_section

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
        rain_type: The type's name; ``{field}`` takes the field's value, which ``types`` translates; None: to be said.
        fields: Regular expressions of fields.
        split: The split that these pairs are, where the folders do not tell.
        source: Name of the source; fields may be used. None: the layout's name.
    """

    rule: str
    lq: str
    gt: str | tuple[str, ...] = ()
    rain_type: str | None = None
    types: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None
    split: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        """Check what belongs together; else OptionError."""
        if self.rule not in RULES:
            hint = did_you_mean(self.rule, RULES)
            raise OptionError(f"rule: expected one of {', '.join(RULES)}, found {self.rule!r}.{hint}")
        object.__setattr__(self, "gt", (self.gt,) if isinstance(self.gt, str) else self.gt)
        if not self.lq:
            raise OptionError("lq: expected a pattern, found none.")
        if not self.gt and self.rule not in ("list_file", "side_by_side"):
            raise OptionError(f"missing key 'gt'; the rule {self.rule} needs a pattern of the clean images.")
        for name in (self.types or {}).values():
            rain_type_ids([name])
        try:
            self._check_patterns()
        except (re.error, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(f"a pattern is wrong: {error}.") from None

    def _check_patterns(self) -> None:
        fields = {} if self.rule == "list_file" else self.lq_regex().groupindex
        self.gt_regexes()
        uses = {"gt": self.gt, "rain_type": (self.rain_type or "",), "source": (self.source or "",)}
        by_field = self.rule not in ("sorted", "list_file")
        for key, pattern in ((key, pattern) for key, patterns in uses.items() for pattern in patterns):
            for _, name, spec, conversion in Formatter().parse(pattern):
                if spec or conversion:
                    raise OptionError(f"{key}: {pattern!r}: a field is a name in braces and nothing else.")
                if name is not None and name not in fields and (key != "gt" or by_field):
                    hint = did_you_mean(name, fields)
                    raise OptionError(f"{key}: {{{name}}} is no field of lq ({', '.join(fields)}).{hint}")

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
    """A data set's layout: its name on the command line, title in the literature, status (of :data:`STATUSES`), a note.

    ``parts`` are tried in this order for every image; the first whose clean image exists is taken.
    """

    name: str
    parts: tuple[Part, ...]
    title: str = ""
    status: str = "custom"
    note: str = ""

    def __post_init__(self) -> None:
        """Check the keys; the title is the name where none is given.

        Raises:
            OptionError: If the status is unknown or there are no parts.
        """
        if self.status not in STATUSES:
            raise OptionError(f"status: expected {', '.join(STATUSES)}, found {self.status!r}.")
        if not self.name or not self.parts:
            raise OptionError("name and parts: expected a name and a list of at least one part.")
        object.__setattr__(self, "title", self.title or self.name)


def parse_layout(data: Mapping[str, Any], where: str) -> Layout:
    """Check a layout given as a mapping (the public table, or a user's YAML file); else OptionError."""
    return parse_section(Layout, data, where)


def load_layout(path: str) -> Layout:
    """Read a layout from a YAML file; OptionError if it is missing, no YAML, or no layout."""
    return parse_layout(read_option_file(path).opt, path)


_NUMBER = {"n": r"\d+"}
_RAIN_100 = (
    {"rule": "suffix_swap", "lq": "{dir}rain/X2/{name}x2", "gt": "{dir}norain/{name}", "rain_type": "drs"},
    {"rule": "prefix_swap", "lq": "{dir}{folder}/rain-{n}", "rain_type": "drs", "fields": _NUMBER,
     "gt": ["{dir}norain/norain-{n}", "{dir}norain-{n}"]},
    {"rule": "prefix_swap", "lq": "{dir}rain-{n}", "gt": ["{dir}norain-{n}", "{dir}norain/norain-{n}"],
     "rain_type": "drs", "fields": _NUMBER},
)  # fmt: skip
_USUAL = {"folder": "input|rain|rainy|Rainy|lq|LQ|data|degraded"}
_GT_FOLDERS = ("target", "gt", "GT", "norain", "clean", "Clean", "clear", "ground_truth")
_USUAL_GT = [f"{{dir}}{folder}/{{sub}}{{name}}" for folder in _GT_FOLDERS]


def _usual(rain_type: str | None, prefix: str = "{dir}", **more: Any) -> dict[str, Any]:
    """Same names in folders with the usual names."""
    gt = [pattern.replace("{dir}", prefix) for pattern in _USUAL_GT]
    part = {"rule": "same_name", "lq": prefix + "{folder}/{sub}{name}", "gt": gt, "rain_type": rain_type}
    return part | more | {"fields": _USUAL | more.get("fields", {})}


_TABLE: tuple[dict[str, Any], ...] = (
    {"name": "rainrag", "title": "RainRAG", "status": "read", "note": "{drs,drd,nrs,nrd}/{input,target}, same names.",
     "parts": [{"rule": "same_name", "lq": "{dir}{kind}/input/{sub}{name}", "gt": "{dir}{kind}/target/{sub}{name}",
                "rain_type": "{kind}", "fields": {"kind": "[a-z][a-z0-9_]*"}}]},
    {"name": "rain100l", "title": "Rain100L", "status": "read", "note": "rain-N.png and norain-N.png.",
     "parts": _RAIN_100},
    {"name": "rain100h", "title": "Rain100H", "status": "read", "note": "rain-N.png and norain-N.png.",
     "parts": _RAIN_100},
    {"name": "rain200l", "title": "Rain200L", "status": "read",
     "note": "rain-N.png and norain-N.png, or rain/X2/norain-Nx2.png and norain/norain-N.png.", "parts": _RAIN_100},
    {"name": "rain200h", "title": "Rain200H", "status": "read",
     "note": "rain/X2/norain-Nx2.png and norain/norain-N.png, or rain-N.png and norain-N.png.", "parts": _RAIN_100},
    {"name": "rain800", "title": "Rain800 (ID-CGAN)", "status": "recalled",
     "note": "Both images side by side in one file; published loaders disagree on which half is rainy: look, and say "
             "--rainy-half left if need be. The halves are written to --halves DIR.",
     "parts": [{"rule": "side_by_side", "lq": "{dir}{name}", "rain_type": "drs"}]},
    {"name": "rain1400", "title": "Rain1400 / Rain12600 (DDN)", "status": "read",
     "note": "rainy_image/I_J.jpg and ground_truth/I.jpg, 14 to 1.",
     "parts": [{"rule": "many_to_one", "lq": "{dir}rainy_image/{id}_{n}", "gt": "{dir}ground_truth/{id}",
                "rain_type": "drs", "fields": _NUMBER}]},
    {"name": "rain13k", "title": "Rain13K and its test sets", "status": "read",
     "note": "train/Rain13K/{input,target} and test/SET/{input,target}, same names; the set is the source.",
     "parts": [{"rule": "same_name", "lq": "{dir}{set}/input/{name}", "gt": "{dir}{set}/target/{name}",
                "rain_type": "drs", "source": "rain13k/{set}"},
               {"rule": "same_name", "lq": "input/{name}", "gt": "target/{name}", "rain_type": "drs"}]},
    {"name": "spa", "title": "SPA-Data", "status": "read", "note": "A text file lists 'rainy clean' on each line.",
     "parts": [{"rule": "list_file", "lq": "**/*.txt", "rain_type": "drs"}]},
    {"name": "rainds", "title": "RainDS (synthetic and real)", "status": "read",
     "note": "rainstreak_raindrop holds both kinds and counts as raindrops (our choice: drops hide more); --map "
             "rainstreak_raindrop=drs changes it. The real part's prefix 'pie-' is from memory.",
     "parts": [{"rule": "many_to_one", "lq": "{dir}{kind}/{before}{n}", "rain_type": "{kind}",
                "gt": ["{dir}gt/norain-{n}", "{dir}gt/pie-norain-{n}"],
                "types": {"rainstreak": "drs", "raindrop": "drd", "rainstreak_raindrop": "drd"},
                "fields": {"kind": "rainstreak|raindrop|rainstreak_raindrop", "before": "(?:[^/]*-)?",
                           "n": "[^-/]+"}}]},
    {"name": "raindrop", "title": "RainDrop (Qian)", "status": "read", "note": "data/N_rain.png and gt/N_clean.png.",
     "parts": [{"rule": "suffix_swap", "lq": "{dir}data/{n}_rain", "gt": "{dir}gt/{n}_clean", "rain_type": "drd"}]},
    {"name": "gt-rain", "title": "GT-Rain", "status": "read",
     "note": "Scene folders, *R-xxx.png and one *C-000.png; Gurutto_1-2 has a clean image for every rainy one.",
     "parts": [{"rule": "suffix_swap", "lq": "{dir}Gurutto_1-2/{stem}R-{n}", "gt": "{dir}Gurutto_1-2/{stem}C-{n}",
                "rain_type": "drs", "fields": _NUMBER},
               {"rule": "scene", "lq": "{dir}{scene}/{stem}R-{n}", "gt": "{dir}{scene}/{stem}C-000",
                "rain_type": "drs", "fields": {**_NUMBER, "scene": r"(?!Gurutto_1-2/)[^/]+"}}]},
    {"name": "realrain-1k", "title": "RealRain-1k L / H", "status": "guess", "note": "input and target, same names.",
     "parts": [_usual("drs")]},
    {"name": "lhp-rain", "title": "LHP-Rain", "status": "read", "note": "input and gt, paired by sorted order.",
     "parts": [{"rule": "sorted", "lq": "{dir}input/{sub}{name}", "gt": "{dir}gt/{sub}{name}", "rain_type": "drs"}]},
    {"name": "gtav-nightrain", "title": "GTAV-NightRain", "status": "read",
     "note": "set1,2/{Train,Test}/{Rainy,GT} and set3/{Rainy,GT}; 0000_00.png to 0000_09.png and 0000.png. set3 is not "
             "divided and counts as train.",
     "parts": [{"rule": "many_to_one", "lq": "{dir}set3/Rainy/{id}_{n}", "gt": "{dir}set3/GT/{id}", "rain_type": "nrs",
                "split": "train", "fields": _NUMBER},
               {"rule": "many_to_one", "lq": "{dir}Rainy/{id}_{n}", "gt": "{dir}GT/{id}", "rain_type": "nrs",
                "fields": _NUMBER}]},
    {"name": "hq-nightrain", "title": "HQ-NightRain", "status": "guess",
     "note": "RS, RD and SD with input and target; SD (both kinds) counts as raindrops: --map SD=nrs changes it.",
     "parts": [{"rule": "same_name", "lq": "{dir}{kind}/{sub}input/{name}", "gt": "{dir}{kind}/{sub}target/{name}",
                "rain_type": "{kind}", "types": {"RS": "nrs", "RD": "nrd", "SD": "nrd"},
                "fields": {"kind": "RS|RD|SD"}}]},
    {"name": "raindrop-clarity", "title": "Raindrop Clarity", "status": "read",
     "note": "Drop/SCENE/* and Clear/SCENE/*, paired by sorted order. A folder whose name holds Day or Night tells the "
             "type; without one give --rain-type.",
     "parts": [{"rule": "sorted", "lq": "{dir}{when}{sub}Drop/{scene}/{name}", "rain_type": rain_type,
                "gt": "{dir}{when}{sub}Clear/{scene}/{name}", "fields": {"when": f"[^/]*(?i:{when})[^/]*/"}}
               for when, rain_type in (("day", "drd"), ("night", "nrd"))]
     + [{"rule": "sorted", "lq": "{dir}Drop/{scene}/{name}", "gt": "{dir}Clear/{scene}/{name}"}]},
    {"name": "4k-rain13k", "title": "4K-Rain13k", "status": "guess", "note": "Same names.", "parts": [_usual("drs")]},
    {"name": "raincityscapes", "title": "RainCityscapes", "status": "read",
     "note": "X_rain_alpha_A_beta_B_dropsize_D_pattern_P.png and X_leftImg8bit.png. Holds haze too.",
     "parts": [{"rule": "many_to_one", "rain_type": "drs", "lq": "{dir}{folder}/{sub}{id}{mid}_rain_alpha_{n}",
                "gt": [f"{{dir}}{folder}/{{sub}}{{id}}_leftImg8bit" for folder in ("leftImg8bit", *_GT_FOLDERS)],
                "fields": {"folder": "leftImg8bit_rain|input|rain|rainy|in", "id": r"[^/]+?",
                           "mid": "(?:_leftImg8bit)?"}},
               {"rule": "many_to_one", "rain_type": "drs", "lq": "{dir}{id}{mid}_rain_alpha_{n}",
                "gt": "{dir}{id}_leftImg8bit", "fields": {"id": r"[^/]+?", "mid": "(?:_leftImg8bit)?"}}]},
    {"name": "outdoor-rain", "title": "Outdoor-Rain", "status": "read",
     "note": "in/im_0001_s80_a04.png and gt/im_0001.png. Holds haze too.",
     "parts": [{"rule": "many_to_one", "lq": "{dir}in/{id}_s{s}_a{a}", "gt": "{dir}gt/{id}", "rain_type": "drs",
                "fields": {"s": r"\d+", "a": r"\d+"}}]},
    {"name": "weatherbench", "title": "WeatherBench", "status": "guess",
     "note": "The sub-folders are not known; rain, haze and snow with the usual names of rainy and clean folders.",
     "parts": [_usual("{kind}", "{dir}{kind}/{rest}", types={"rain": "drs"},
                      fields={"kind": "rain|haze|snow", "rest": "(?:[^/]+/)*"})]},
    {"name": "uav-rain1k", "title": "UAV-Rain1k", "status": "guess", "note": "Same names.", "parts": [_usual("drd")]},
    {"name": "snow100k", "title": "Snow100K", "status": "recalled",
     "note": "synthetic and gt, same names; the test set's three parts are folders Snow100K-S, -M and -L.",
     "parts": [{"rule": "same_name", "lq": "{dir}synthetic/{name}", "gt": "{dir}gt/{name}", "rain_type": "snow"}]},
    {"name": "csd", "title": "CSD", "status": "recalled", "note": "Train and Test with Snow and Gt, same names.",
     "parts": [{"rule": "same_name", "lq": "{dir}Snow/{name}", "gt": "{dir}Gt/{name}", "rain_type": "snow"}]},
    {"name": "reside", "title": "RESIDE (ITS, OTS, SOTS)", "status": "recalled",
     "note": "hazy/1400_1.png or hazy/0001_0.8_0.2.jpg, and clear/ or gt/ with 1400.png or 0001.jpg.",
     "parts": [{"rule": "many_to_one", "lq": "{dir}hazy/{id}_{n}", "gt": ["{dir}gt/{id}", "{dir}clear/{id}"],
                "rain_type": "haze", "fields": {"id": r"[^/_]+", "n": r"[\d._]+"}}]},
)  # fmt: skip


@cache
def public_layouts() -> dict[str, Layout]:
    """All layouts by name."""
    return {row["name"]: parse_layout(row, row["name"]) for row in _TABLE}


def public_layout(name: str) -> Layout:
    """The layout of this name (in any case); an OptionError names the nearest."""
    layouts = public_layouts()
    if name.lower() not in layouts:
        hint = did_you_mean(name.lower(), layouts)
        raise OptionError(f"--layout: no layout '{name}'.{hint} --list shows all; a path of a .yml file is your own.")
    return layouts[name.lower()]
