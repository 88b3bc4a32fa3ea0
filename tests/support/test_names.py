"""Names from strangers become paths that stay in their folder, and never one of another name."""

import os

import pytest

from unirain_plugin.support.files import safe_path

USUAL = ["a", "drs/input/000", "b c ö", "a.v1", "x..y/..z", "2024-01-01T10:20", "雨/1", "100%2E", "\udcff"]
CLIMBING = [
    "../a", "..", ".", "", "/", "/etc/passwd", "a/../../b", "a/./b", "a//b", "a/", "..\\a", "a\\..\\b", "C:\\a", "C:/a",
    "c:a", "a\0b", "a\nb", "\ud800", "x" * 300, "語" * 100, "../" * 50 + "a",
]  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_usual_names_stay(name):
    assert safe_path(name) == name


@pytest.mark.parametrize("name", CLIMBING, ids=range(len(CLIMBING)))
def test_no_name_leaves_its_folder_and_every_one_can_be_written(tmp_path, name):
    path = safe_path(name)
    home = tmp_path / "home"
    target = home / f"{path}.png"
    assert os.path.normpath(target) == str(target) and target.is_relative_to(home) and path[1:2] != ":"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    assert os.listdir(tmp_path) == ["home"]


def test_different_names_stay_different():
    names = [*USUAL, *CLIMBING, "b", "etc/passwd", "a/b", "a\\b", "x" * 301, "../../a"]
    assert len({safe_path(name).casefold() for name in names}) == len(set(names))
