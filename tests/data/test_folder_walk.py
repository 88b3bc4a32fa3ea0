"""The one folder walk, and the limit of pixels, in every command that reads folders."""

import os

import cv2
import pytest
from data_images import any_image, data_set, encode, make_lmdb, write_pair
from PIL import Image

from unirain_plugin import __main__ as cli
from unirain_plugin.data.folders import types_in_order, walk_files, walk_images
from unirain_plugin.data.image_header import VARIABLE, limited, max_pixels
from unirain_plugin.data.images import EncodedImage
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError, OptionError


def test_what_has_no_end_or_never_begins_is_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    for name in ("/dev/zero", "pipe.png"):
        with pytest.raises(DataError, match=f"^{name}: cannot be read: it is a device, a pipe or a socket"):
            read_file(name)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_folders_and_links_are_entered_once_and_circles_left_alone(tmp_path):
    root = tmp_path / "root"
    touch(root / "a.png", root / "b/c.JPG", root / "b/.hidden.png", root / ".cache/d.png", root / "b/notes.txt")
    touch(tmp_path / "elsewhere/e.png", tmp_path / "sibling.png")
    (root / "self").symlink_to(".")
    (root / "b/up").symlink_to("..")
    (root / "b/far_up").symlink_to(tmp_path)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(root)
    (root / "file_link.png").symlink_to(tmp_path / "sibling.png")
    (root / "nowhere.png").symlink_to("missing.png")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    expected = ["a.png", "b/c.JPG", "file_link.png", "linked/e.png", "loop.png", "nowhere.png"]
    assert list(walk_images(root)) == expected
    assert list(walk_files(root)) == sorted([*expected, "b/notes.txt"])
    assert list(walk_files(root, without=root / "b")) == [name for name in expected if not name.startswith("b/")]
    touch(tmp_path / "twice/shared/a.png")
    for name in ("x", "y"):
        (tmp_path / "twice" / name).symlink_to("shared")
    assert list(walk_images(tmp_path / "twice")) == ["shared/a.png", "x/a.png", "y/a.png"]
    types = types_in_order(["snow", "nrd", "haze", "dust", "drs"])
    assert types == ("drs", "nrd", "dust", "haze", "snow"), "in the order of their labels"


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "in/open/a.png", tmp_path / "in/closed/b.png")
    scandir, closed = os.scandir, f"{tmp_path}/in/closed/"

    def refused(folder):  # who runs the tests may be allowed everything
        if os.fspath(folder).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"in/closed/: cannot be listed: Permission denied"):
        list(walk_files(tmp_path / "in"))
    unlisted = []
    assert list(walk_files(tmp_path / "in", unlisted)) == ["open/a.png"]
    assert unlisted == [(closed, "cannot be listed: Permission denied")]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
def test_too_many_pixels_are_refused_by_the_header(suffix, monkeypatch):
    data = encode(any_image(), suffix)
    assert EncodedImage(data, "a", max_pixels=48 * 64).decode().shape == (48, 64, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(DataError, match=r"a: 64 × 48 pixels are too many: at most 0\.003071 megapixels are read"):
        EncodedImage(data, "a", max_pixels=48 * 64 - 1)


def test_the_limit_holds_for_a_while_and_without_one_memory_is_the_limit(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    free = max_pixels()
    with limited(0.5):
        assert max_pixels() == 500_000
        for inner, pixels in ((None, 500_000), (0.2, 200_000)):
            with limited(inner):
                assert max_pixels() == pixels
        assert max_pixels() == 500_000
    assert max_pixels() == free > 10**6
    for wrong in (0, -1, float("nan"), "many", True):
        with pytest.raises(OptionError, match="expected a number of megapixels above 0"), limited(wrong):
            pass
    data = encode(any_image())
    with pytest.raises(DataError, match=r"a\.png: 1073741824 × 1073741824 pixels are too many"):
        EncodedImage(data[:16] + (2**30).to_bytes(4, "big") * 2 + data[24:], "a.png")


def test_commands_and_data_sets_refuse_by_name_and_go_on(tmp_path, capsys):
    for name, size in (("small", (40, 40)), ("large", (60, 60))):  # one is too large for 2,000 pixels
        write_pair(tmp_path / "D", "drs", f"{name}.png", *(encode(any_image(*size, seed=seed)) for seed in (0, 1)))
    index = ["index-dataset", "--layout", "rainrag", "--root", f"{tmp_path}/D", "--output", f"{tmp_path}/D/m.jsonl"]
    limit = ["--workers", "1", "--max-megapixels"]
    for command in (
        index,
        ["create-lmdb", "--dataroot", f"{tmp_path}/D", "--output", f"{tmp_path}/L"],
        ["extract-subimages", "--dataroot", f"{tmp_path}/D", "--output", f"{tmp_path}/S"],
    ):
        assert cli.main([*command, *limit, "0.002"]) == 2
        assert "large.png: 60 × 60 pixels are too many: at most 0.00" in capsys.readouterr().err
    assert cli.main([*index, *limit, "0.002", "--on-error", "skip"]) == 0
    manifest = (tmp_path / "D/m.jsonl").read_text()
    assert "small.png" in manifest and "large" not in manifest
    check = ["index-dataset", "--check-manifest", f"{tmp_path}/D/m.jsonl", *limit]
    assert cli.main([*check, "0.001"]) == 2
    assert "pixels are too many: at most 0.00" in capsys.readouterr().err
    assert cli.main([*check, "0.002"]) == 0
    assert VARIABLE not in os.environ
    make_lmdb(tmp_path / "D", tmp_path / "M")
    for root, kind in (("D", "disk"), ("M", "lmdb")):
        dataset = data_set(tmp_path / root, kind=kind, max_megapixels=0.002)
        assert dataset[1]["lq"].shape == (3, 40, 40)
        with pytest.raises(DataError, match=r"input/large.*: 60 × 60 pixels are too many"):
            dataset[0]
    with pytest.raises(OptionError, match=r"max_megapixels: found 0; expected a number > 0"):
        data_set(tmp_path / "D", max_megapixels=0)
