"""``restore`` takes arrays, Pillow images and paths; the results are the same pixels."""

import numpy as np
import pytest
from inference_helpers import random_image
from PIL import Image

from unirain_plugin import load, restore
from unirain_plugin.errors import DataError, OptionError


@pytest.fixture(scope="module")
def net():
    return load(device="cpu")


def test_a_path_gives_the_upright_array(net, tmp_path):
    pixels = random_image(20, 31)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "a.png", exif=exif)  # stored turned, shown as `pixels`
    expected = restore(net, pixels)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(restore(net, path), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_pillow_image_gives_one_of_its_mode(net, mode):
    image = Image.fromarray(random_image(20, 31)).convert(mode)
    restored = restore(net, image)
    assert isinstance(restored, Image.Image) and restored.mode == mode
    assert np.array_equal(np.asarray(restored), restore(net, np.asarray(image)))


def test_what_cannot_be_restored_is_told(net, tmp_path):
    with pytest.raises(OptionError, match="Pillow image of mode CMYK; expected RGB, RGBA, L or LA"):
        restore(net, Image.new("CMYK", (20, 20)))
    with pytest.raises(OptionError, match="got list; expected an array"):
        restore(net, [1, 2])
    with pytest.raises(DataError, match=r"none\.jpg"):
        restore(net, tmp_path / "none.jpg")
