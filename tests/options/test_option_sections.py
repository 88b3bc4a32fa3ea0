"""Strict parsing of sections into dataclasses."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.options import parse_section


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
        (
            {"count": 1, "rate": "1e-4"},
            "s.rate: found the text '1e-4'; expected a number. Write 1.0e-4, without quotes.",
        ),
        ({"count": 1, "flag": 1}, "s.flag: found 1; expected true or false."),
        ({"count": 1, "name": None}, "s.name: found nothing (null); expected a text."),
        ({"count": 1, "folder": 5}, "s.folder: found 5; expected a path."),
        ({"count": 1, "mode": "medium"}, "s.mode: found the text 'medium'; expected one of fast, slow."),
        ({"count": 1, "engine": "spark"}, "s.engine: found the text 'spark'; expected one of local, ray."),
        ({"count": 1, "sizes": [1, "a"]}, "s.sizes[1]: found the text 'a'; expected an integer."),
        ({"count": 1, "sizes": 3}, "s.sizes: found 3; expected a list."),
        ({"count": 1, "pair": [1]}, "s.pair: found 1 entries; expected 2."),
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


def test_all_mistakes_are_told_at_once():
    with pytest.raises(OptionError, match=r"(?s)s\.rate: .*\ns\.flag: .*\ns\.count: is missing"):
        parse_section(Section, {"rate": "x", "flag": "y"}, "s")


def test_an_empty_section_is_the_defaults():
    assert parse_section(Inner, None, "s") == Inner()
