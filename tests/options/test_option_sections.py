"""Strict parsing of sections into dataclasses."""

import pickle
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.options import parse_section
from unirain_plugin.support.spec import above, at_least, at_most, below, between, complaint, filled, one_of


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class Inner:
    weight: float = 1.0


@dataclass(frozen=True)
class Section:
    count: int
    rate: float = 0.5
    name: str = "x"
    flag: bool = False
    folder: Path | None = None
    mode: Mode = Mode.FAST
    engine: Literal["local", "ray"] = "local"
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    names: list[str] = field(default_factory=list)
    inner: Inner = Inner()
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: found {self.count}; expected an integer ≥ 0.")


def test_every_kind_of_value():
    given = {
        "count": 3, "rate": 2, "name": "n", "flag": True, "folder": "/a", "mode": "slow", "engine": "ray",
        "sizes": [1, 2], "pair": [1, "a"], "names": ["a"], "inner": {"weight": 2}, "weights": {"a": 1}, "anything": [1],
    }  # fmt: skip
    assert parse_section(Section, given, "s") == Section(
        3, 2.0, "n", True, Path("/a"), Mode.SLOW, "ray", (1, 2), (1, "a"), ["a"], Inner(2.0), {"a": 1.0}, [1]
    )
    assert isinstance(parse_section(Section, given, "s").rate, float)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "s.count: is missing; expected an integer."),
        ({"cuont": 1}, "s.cuont: unknown key. Did you mean 'count'?"),
        ({"count": 1, "zebra": 1}, "s.zebra: unknown key. Known: count, rate, name,"),
        ({"count": "1"}, "s.count: found the text '1'; expected an integer."),
        ({"count": True}, "s.count: found true; expected an integer."),
        ({"count": 1.5}, "s.count: found 1.5; expected an integer."),
        ({"count": 1, "rate": "1e-4"}, "s.rate: found the text '1e-4'; expected a number. Write 1.0e-4, without quot"),
        ({"count": 1, "flag": 1}, "s.flag: found 1; expected true or false."),
        ({"count": 1, "name": None}, "s.name: found nothing (null); expected a text."),
        ({"count": 1, "folder": 5}, "s.folder: found 5; expected a path or ~ (none)."),
        ({"count": 1, "mode": "medium"}, "s.mode: found the text 'medium'; expected one of fast, slow."),
        ({"count": 1, "engine": "spark"}, "s.engine: found the text 'spark'; expected one of local, ray."),
        ({"count": 1, "sizes": [1, "a"]}, "s.sizes[1]: found the text 'a'; expected an integer."),
        ({"count": 1, "sizes": 3}, "s.sizes: found 3; expected a list, each an integer."),
        ({"count": 1, "pair": [1]}, "s.pair: found the list [1]; expected a list of 2 entries."),
        ({"count": 1, "inner": {"wieght": 1}}, "s.inner.wieght: unknown key. Did you mean 'weight'?"),
        ({"count": 1, "weights": {"a": "x"}}, "s.weights.a: found the text 'x'; expected a number."),
        ({"count": -1}, "s: count: found -1; expected an integer ≥ 0."),
        ([1], "s: found the list [1]; expected a section of 'key: value' lines."),
    ],
)
def test_mistakes(given, says):
    with pytest.raises(OptionError) as caught:
        parse_section(Section, given, "s")
    assert str(caught.value).startswith(says)


def test_all_mistakes_are_told_at_once_and_an_empty_section_is_the_defaults():
    with pytest.raises(OptionError, match=r"(?s)s\.rate: .*\ns\.flag: .*\ns\.count: is missing"):
        parse_section(Section, {"rate": "x", "flag": "y"}, "s")
    assert parse_section(Inner, None, "s") == Inner()


@dataclass(frozen=True)
class Ranges:
    low: Annotated[int, at_least(1)] = 1
    share: Annotated[float, above(0), below(1)] = 0.5
    size: Annotated[int, between(4, 8)] | None = None
    scale: Annotated[float, at_most(2)] = 1.0
    name: Annotated[str, filled] = "x"
    kind: Annotated[str, one_of("grey", "rgb")] = "rgb"
    depths: tuple[Annotated[int, at_least(0)], ...] = ()
    inner: Inner | None = None

    def check_low(self):
        if self.size is not None and self.low > self.size:
            yield "low", f"found {self.low}, more than size ({self.size})."

    def check_depths(self):
        if len(self.depths) > self.low:
            yield ("depths", 0), f"there are more than {self.low}."


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"low": 0}, "s.low: found 0; expected an integer ≥ 1."),
        ({"share": 1}, "s.share: found 1; expected a number > 0 and < 1."),
        ({"share": 0.0}, "s.share: found 0.0; expected a number > 0 and < 1."),
        ({"share": float("nan")}, "s.share: found nan; expected a number > 0 and < 1."),
        ({"scale": float("-inf")}, "s.scale: found -inf; expected a number ≤ 2."),
        ({"scale": 10**400}, "s.scale: found 1000"),
        ({"size": 9}, "s.size: found 9; expected an integer from 4 to 8 or ~ (none)."),
        ({"size": "5"}, "s.size: found the text '5'; expected an integer from 4 to 8 or ~ (none). Write 5, without"),
        ({"name": " "}, "s.name: found the text ' '; expected a text (not empty)."),
        ({"kind": "gray"}, "s.kind: found the text 'gray'; expected one of grey, rgb. Did you mean 'grey'?"),
        ({"depths": [0, -1]}, "s.depths[1]: found -1; expected an integer ≥ 0."),
        ({"inner": {"weight": "x"}}, "s.inner.weight: found the text 'x'; expected a number."),
        ({"inner": 3}, "s.inner: found 3; expected a section of 'key: value' lines"),
        ({"low": 7, "size": 5}, "s.low: found 7, more than size (5)."),
        ({"depths": [0, 0]}, "s.depths[0]: there are more than 1."),
    ],
)
def test_rules_of_a_field_and_of_several(given, says):
    with pytest.raises(OptionError) as caught:
        parse_section(Ranges, given, "s")
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_lines_of_a_file_and_an_error_survives_the_way_from_a_worker():
    lines = {("inner",): 3, ("inner", "weight"): 4, ("low",): 7}
    with pytest.raises(OptionError) as caught:
        parse_section(Ranges, {"inner": {"weight": "x", "b": 1}, "low": 0, "share": 3}, "f.yml", lines=lines)
    assert [line.split(" ")[:2] for line in str(caught.value).splitlines()] == [
        ["f.yml:4:", "inner.weight:"], ["f.yml:3:", "inner.b:"], ["f.yml:7:", "low:"], ["f.yml:", "share:"],
    ]  # fmt: skip
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and copy.problems == caught.value.problems


def test_limits_null_for_the_default_keys_of_others_and_single_values():
    given = {"low": 1, "share": 0.999, "size": 4, "scale": 2, "name": "a", "kind": "grey", "depths": [0]}
    assert parse_section(Ranges, given, "s") == Ranges(1, 0.999, 4, 2.0, "a", "grey", (0,))
    assert parse_section(Ranges, {"size": 8, "inner": None}, "s") == Ranges(size=8)
    given = {"low": None, "theirs": 1}
    assert parse_section(Ranges, given, "s", passed_over={"theirs"}, empty_is_default=True) == Ranges()
    assert complaint(0, Annotated[int, at_least(1)] | None).startswith("found 0; expected an integer ≥ 1 or ~")
    assert complaint(None, Annotated[int, at_least(1)] | None) is None


@pytest.mark.parametrize("wrong", [{"size": "x"}, {"siez": 3}])
def test_rules_that_need_no_wrong_value_are_told_too(wrong):
    with pytest.raises(OptionError) as caught:
        parse_section(Ranges, {**wrong, "low": 2, "depths": [0, 0, 0]}, "s")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [f"s.{next(iter(wrong))}", "s.depths[0]"]
