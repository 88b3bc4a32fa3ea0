"""Images that hold the rainy and the clean image side by side."""

import cv2
import numpy as np
import pytest
from data_images import any_image, encode, index, plant

from unirain_plugin.errors import DataError, OptionError


def test_side_by_side(tmp_path):
    root = tmp_path / "data"
    clean, rainy = any_image(8, 12, 1), any_image(8, 12, 2)
    (root / "training").mkdir(parents=True)
    (root / "training/1.png").write_bytes(encode(np.hstack([clean, rainy])))
    with pytest.raises(OptionError, match="give --halves DIR"):
        index(root, "rain800")
    assert index(root, "rain800", "--halves", str(tmp_path / "h")) == [
        ("h/input/training/1.png", "h/target/training/1.png", "drs")
    ]
    assert np.array_equal(cv2.imread(str(tmp_path / "h/input/training/1.png")), rainy)
    assert np.array_equal(cv2.imread(str(tmp_path / "h/target/training/1.png")), clean)
    assert index(root, "rain800", "--halves", str(tmp_path / "h"))
    index(root, "rain800", "--halves", str(tmp_path / "l"), "--rainy-half", "left")
    assert np.array_equal(cv2.imread(str(tmp_path / "l/input/training/1.png")), clean)
    plant(root, "odd.png", size=(8, 11))
    with pytest.raises(DataError, match=r"odd.png: 11 columns cannot be two halves"):
        index(root, "rain800", "--halves", str(tmp_path / "h"))


def test_halves_never_take_the_place_of_others(tmp_path):
    plant(tmp_path / "train", "x/a.png", "x_a.png", "b.png", "b.jpg", size=(8, 12))
    pairs = index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "h"))
    assert len({lq for lq, _, _ in pairs}) == len(list((tmp_path / "h/input").rglob("*.png"))) == 4
    (tmp_path / "test").mkdir()
    (tmp_path / "test/b.png").write_bytes(encode(any_image(8, 12, seed=1)))
    before = (tmp_path / "h/input/b.png").read_bytes()
    for arguments in (["test"], ["train", "--rainy-half", "left"]):
        with pytest.raises(DataError, match="/h: holds the halves of other images or the other way round"):
            index(tmp_path / arguments[0], "rain800", "--halves", str(tmp_path / "h"), *arguments[1:])
    assert (tmp_path / "h/input/b.png").read_bytes() == before
    with pytest.raises(OptionError, match=r"--halves .*train/h: lies inside --root"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "train/h"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(DataError, match="full: the folder is not empty"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "full"))
    plant(tmp_path / "train", "b.jpg.png", size=(8, 12))
    with pytest.raises(DataError, match=r"b\.jpg: b\.jpg\.png is there too"):
        index(tmp_path / "train", "rain800", "--halves", str(tmp_path / "h"))
