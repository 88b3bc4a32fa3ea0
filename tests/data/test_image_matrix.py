"""Every arrangement of samples comes back with the values it stands for, in restoring and training, or is refused."""

import io

import numpy as np
import pytest
import tifffile
from image_matrix import all_cells
from PIL import Image

from unirain_plugin.data.image_io import CONVERSIONS, EncodedImage
from unirain_plugin.errors import DataError
from unirain_plugin.inference.pictures import read_picture, write_picture

CELLS = all_cells()


def allowed(name, values):
    """One level; premultiplied colours are stored in fewer levels where alpha is small."""
    return np.where(values[..., -1:] > 0, 1.3 * values.max() / values[..., -1:], 0) if "premultiplied" in name else 1


@pytest.mark.parametrize("name", CELLS)
def test_values_are_right_in_restoring_and_in_training(tmp_path, name):
    data, values = CELLS[name]
    (tmp_path / "a").write_bytes(data)
    if values is None:
        for read in (lambda: read_picture(tmp_path / "a"), lambda: EncodedImage(data, f"{tmp_path}/a", CONVERSIONS)):
            with pytest.raises(DataError, match=rf"{tmp_path}/a: holds "):
                read()
        return
    pixels = read_picture(tmp_path / "a").pixels
    assert pixels.shape == values.shape and pixels.dtype == (np.uint16 if values.max() > 255 else np.uint8)
    assert (np.abs(pixels - values.astype(float)) <= allowed(name, values)).all()
    trained = EncodedImage(data, "a", CONVERSIONS).decode()[..., ::-1].astype(float)
    colours = values[..., :3] if values.shape[2] > 2 else values[..., [0, 0, 0]]
    bound = allowed(name, values) if values.max() <= 255 else 1 + 257 * (allowed(name, values) > 1)
    assert (np.abs(trained - colours / (257 if values.max() > 255 else 1)) <= bound).all()


@pytest.mark.parametrize("name", [name for name, (_, values) in CELLS.items() if values is not None])
def test_results_are_read_alike_by_others(tmp_path, name):
    data, values = CELLS[name]
    (tmp_path / "a").write_bytes(data)
    picture = read_picture(tmp_path / "a")
    write_picture(tmp_path / "b.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif").reshape(values.shape), picture.pixels)
    write_picture(tmp_path / "b.png", picture)
    found = Image.open(tmp_path / "b.png")
    if picture.pixels.dtype == np.uint8:
        np.testing.assert_array_equal(np.asarray(found).reshape(values.shape), picture.pixels)
    else:
        np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels[..., -1], picture.pixels[..., -1])


def test_without_a_request_no_kind_is_converted():
    for name, kind in (("tiff-rgb-8-straight-planar-tiles-None", "alpha"), ("pnm-P6-1023", "more than 8 bits"),
                       ("tiff-CMYK-raw", "CMYK"), ("tiff-miniswhite-8-contig-strips-zlib", "grey")):  # fmt: skip
        with pytest.raises(DataError, match=kind):
            EncodedImage(CELLS[name][0], "a")


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_tiff_is_told(part):
    for name in ("tiff-rgb-8-contig-strips-zlib", "tiff-rgb-16-planar-tiles-None", "tiff-RGB-tiff_lzw"):
        data = CELLS[name][0]
        with pytest.raises(DataError, match=r"a\.tif: "):
            EncodedImage(data[: int(part * len(data))], "a.tif", CONVERSIONS)


def test_floating_point_and_signed_tiffs_are_refused():
    for values, kind in ((np.zeros((4, 5, 3), np.float16), "float16"), (np.zeros((4, 5), np.int16), "int16")):
        file = io.BytesIO()
        tifffile.imwrite(file, values, metadata=None)
        with pytest.raises(DataError, match=f"holds {kind} values; expected 8 or 16 bits"):
            EncodedImage(file.getvalue(), "a", CONVERSIONS)
