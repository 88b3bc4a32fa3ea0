"""Every arrangement of samples comes back with the values it stands for, in restoring and training, or is refused."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from image_matrix import all_cells
from PIL import Image

from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.errors import DataError
from unirain_plugin.inference.images import read_image, write_image

CELLS = all_cells()
by_container = pytest.mark.parametrize("container", sorted({name.partition("-")[0] for name in CELLS}))


def cells_of(container, refused=False):
    found = {name: cell for name, cell in CELLS.items() if name.startswith(f"{container}-")}
    return {name: cell for name, cell in found.items() if (cell[1] is None) == refused}


def levels_off(name, pixels, values):
    """How far off, in levels; premultiplied colours are stored in fewer levels where alpha is small."""
    step = values.max() / np.maximum(values[..., -1:], 1) if "premultiplied" in name else 1
    return (np.abs(pixels.astype(float) - values) / step).max()


@by_container
def test_values_are_right_in_restoring_and_in_training(tmp_path, container):
    for name, (data, values) in cells_of(container).items():
        (tmp_path / "a").write_bytes(data)
        pixels = read_image(tmp_path / "a").pixels
        assert pixels.shape == values.shape, name
        assert pixels.dtype == (np.uint16 if values.max() > 255 else np.uint8), name
        assert levels_off(name, pixels, values) <= 1, name
        trained = EncodedImage(data, "a", CONVERSIONS).decode()[..., ::-1]
        colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
        assert np.abs(trained - colours / (257 if pixels.dtype == np.uint16 else 1)).max() <= 1, name


def test_what_has_no_certain_meaning_is_refused_by_name(tmp_path):
    cells = cells_of("tiff", refused=True)
    assert len(cells) > 50
    for name, (data, _) in cells.items():
        path = tmp_path / f"{name}.tif"
        path.write_bytes(data)
        for read in (lambda: read_image(path), lambda: EncodedImage(data, str(path), CONVERSIONS)):  # noqa: B023
            with pytest.raises(DataError, match=rf"{path}: holds "):
                read()


@by_container
def test_results_are_read_alike_by_others(tmp_path, container):
    for name, (data, values) in cells_of(container).items():
        (tmp_path / "a").write_bytes(data)
        picture = read_image(tmp_path / "a")
        write_image(tmp_path / "b.tif", picture)
        found = tifffile.TiffFile(tmp_path / "b.tif").pages[0].tags["Compression"].value
        if found != 5:  # LZW, which tifffile does not decode alone
            np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif").reshape(values.shape), picture.pixels)
        else:
            np.testing.assert_array_equal(
                np.asarray(Image.open(tmp_path / "b.tif")).reshape(values.shape), picture.pixels
            )
        write_image(tmp_path / "b.png", picture)
        if picture.pixels.dtype == np.uint8:
            again = np.asarray(Image.open(tmp_path / "b.png"))
        else:
            again = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
            again = (
                again if again.ndim == 2 else again[..., {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]]
            )
        np.testing.assert_array_equal(again.reshape(values.shape), picture.pixels, name)


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
