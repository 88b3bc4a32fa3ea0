"""Files appear whole or not at all, leftovers of the dead go, and strangers' names stay in their folder."""

import errno
import os
import signal

import pytest

from unirain_plugin import __main__ as cli
from unirain_plugin.errors import DataError
from unirain_plugin.support import files
from unirain_plugin.support.files import remove_leftovers, safe_path, whole_file, write_whole


def test_any_name_can_be_written_with_the_mode_of_any_new_file_and_an_error_leaves_nothing(tmp_path):
    for name in ("x" * 255, "語" * 85, "x" * 250 + ".png", "a." + "x" * 250):
        write_whole(tmp_path / name, "text")
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "c") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_names_the_file_and_leaves_the_old_one_alone(tmp_path, monkeypatch, step):
    write_whole(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(DataError, match=r"a\.txt: cannot be written: No space left") as caught:
        write_whole(tmp_path / "a.txt", "new")
    assert caught.value.__cause__.filename == str(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_killed_writers_file_goes_and_a_living_ones_or_a_users_stays(tmp_path):
    child = os.fork()
    if child == 0:
        with whole_file(tmp_path / "a.txt") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1
    users = {".notes.tmp", "a.tmp", ".tmp-unirain", ".0123456789ab.tmp"}
    for name in users:
        (tmp_path / name).touch()
    files._swept.discard(str(tmp_path))
    with whole_file(tmp_path / "b.txt") as living:
        remove_leftovers(tmp_path)
        assert set(os.listdir(tmp_path)) == users | {os.path.basename(living.name)}
    assert set(os.listdir(tmp_path)) == users | {"b.txt"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_device_is_written_and_never_replaced(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DataError, match="full: cannot be written: No space left"):
        write_whole(tmp_path / "full", "text")
    assert (tmp_path / "full").is_symlink() and not os.path.isfile("/dev/full")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_one_line_and_status_2(monkeypatch, capsys, number):
    def refuse(argv):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("unirain_plugin.inference.export.main", refuse)
    assert cli.run("export", []) == 2
    assert capsys.readouterr().err == f"error: some/file: {os.strerror(number)}\n"


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
