"""Every arrangement of samples comes back with the values it stands for, in restoring and training, or is refused."""

import json
import shutil
import zlib
from itertools import product

import cv2
import numpy as np
import pytest
import tifffile
from data_images import data_set, make_lmdb, write_pair
from image_matrix import COLOURS, HEIGHT, WIDTH, all_cells, png, tiff
from PIL import Image

from unirain_plugin.data.image_decode import decode_samples
from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.data.names import make_key
from unirain_plugin.errors import DataError
from unirain_plugin.inference.images import read_image, write_image
from unirain_plugin.preparation.command import index_dataset

CELLS = all_cells()
ENDINGS = {"jpeg": "jpg", "pnm": "ppm", "tiff": "tif"}
by_container = pytest.mark.parametrize("container", sorted({name.partition("-")[0] for name in CELLS}))


def cells_of(container, refused=False):
    found = {name: cell for name, cell in CELLS.items() if name.startswith(f"{container}-")}
    return {name: cell for name, cell in found.items() if (cell[1] is None) == refused}


def within_limits(name, pixels, values):
    """Exact, but where a format loses, Pillow scales, or alpha is small and leaves premultiplied colours few levels."""
    if name.startswith(("avif", "jpeg")) or (name.startswith("pnm") and pixels.dtype == np.uint8):
        return np.abs(pixels.astype(float) - values).max() <= 1
    step = values.max() / np.maximum(values[..., -1:], 1) if "premultiplied" in name else 0
    return (np.abs(pixels.astype(float) - values) <= step).all()


@by_container
def test_values_are_right_in_restoring_and_in_training(tmp_path, container):
    for name, (data, values) in cells_of(container).items():
        (tmp_path / "a").write_bytes(data)
        pixels = read_image(tmp_path / "a").pixels
        assert pixels.shape == values.shape, name
        assert pixels.dtype == (np.uint16 if values.max() > 255 else np.uint8), name
        assert within_limits(name, pixels, values), name
        trained = EncodedImage(data, "a", CONVERSIONS).decode()[..., ::-1]
        colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
        off = np.abs(trained - colours / (257 if pixels.dtype == np.uint16 else 1)).max()
        assert off <= (1 if container in ("avif", "jpeg", "png", "webp") else 0.5), name  # these OpenCV decodes here


def pairs_of(container, folder):
    """Some 20 of the cells as both sides of pairs in RainRAG's layout."""
    cells = list(cells_of(container).items())
    cells = dict(cells[:: max(1, len(cells) // 20)])
    for name, (data, _) in cells.items():
        write_pair(folder, "drs", f"{name}.{ENDINGS.get(container, container)}", data, data)
    return cells


@by_container
@pytest.mark.parametrize("stored", [[], ["--seekable"], ["--recompress", "png"]], ids=" ".join)
def test_values_are_the_same_through_lmdbs(tmp_path, container, stored):
    if container == "jpeg" and "--seekable" in stored and shutil.which("jpegtran") is None:
        pytest.skip("needs jpegtran")
    cells = pairs_of(container, tmp_path / "data")
    output = make_lmdb(tmp_path / "data", tmp_path / "lmdb", *stored, "--convert", *CONVERSIONS)
    data = data_set(output, kind="lmdb", convert=list(CONVERSIONS))
    found = {item["lq_path"].split("lq.lmdb/drs/input/")[1]: item["lq"] for item in data}
    assert len(found) == len(cells)
    for name, (content, _) in cells.items():
        expected = EncodedImage(content, name, CONVERSIONS).decode()[..., ::-1]
        assert np.array_equal((found[make_key(f"{name}.x")] * 255).round().numpy().transpose(1, 2, 0), expected), name


@by_container
def test_an_index_takes_the_same_images(tmp_path, container):
    cells = pairs_of(container, tmp_path / "data")
    refused = {f"refused/{name}": cell for name, cell in list(cells_of(container, refused=True).items())[::9]}
    for name, (content, _) in refused.items():
        write_pair(tmp_path / "data", "drs", f"{name}.tif", content, content)
    where = ["--root", str(tmp_path / "data"), "--output", str(tmp_path / "m.jsonl"), "--workers", "1"]
    options = ["--layout", "rainrag", "--on-error", "skip", "--allow-dry"]
    assert index_dataset([*where, *options, "--convert", *CONVERSIONS]) == 0
    records = list(read_manifest(tmp_path / "m.jsonl"))
    assert len(records) == len(cells) and {record.size for record in records} == {(21, 40)}
    report = json.loads((tmp_path / "m.jsonl.report.json").read_text())
    assert report["problems_by_kind"] == ({"unreadable": len(refused)} if refused else {})
    assert all(problem["message"].partition(": ")[2].startswith("holds ") for problem in report["problems"])


def test_what_has_no_certain_meaning_is_refused_by_name_and_no_kind_converted_without_a_request(tmp_path):
    cells = cells_of("tiff", refused=True)
    assert len(cells) > 50
    for name, (data, _) in cells.items():
        path = tmp_path / f"{name}.tif"
        path.write_bytes(data)
        for read in (lambda: read_image(path), lambda: EncodedImage(data, str(path), CONVERSIONS)):  # noqa: B023
            with pytest.raises(DataError, match=rf"{path}: holds "):
                read()
    for name, kind in (("tiff-rgb-8-straight-planar-tiles-None", "alpha"), ("pnm-P6-1023", "more than 8 bits"),
                       ("tiff-CMYK-raw", "CMYK"), ("tiff-miniswhite-8-contig-strips-zlib", "grey")):  # fmt: skip
        with pytest.raises(DataError, match=kind):
            EncodedImage(CELLS[name][0], "a")


@by_container
def test_results_are_read_alike_by_others(tmp_path, container):
    for name, (data, values) in cells_of(container).items():
        (tmp_path / "a").write_bytes(data)
        loaded = read_image(tmp_path / "a")
        write_image(tmp_path / "b.tif", loaded)
        found = tifffile.TiffFile(tmp_path / "b.tif").pages[0].tags["Compression"].value
        read = tifffile.imread if found != 5 else Image.open  # LZW, which tifffile does not decode alone
        again = np.asarray(read(tmp_path / "b.tif"))
        np.testing.assert_array_equal(again.reshape(values.shape), loaded.pixels)
        write_image(tmp_path / "b.png", loaded)
        if loaded.pixels.dtype == np.uint8:
            again = np.asarray(Image.open(tmp_path / "b.png"))
        else:
            again = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
            if again.ndim == 3:
                again = again[..., {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]]
        np.testing.assert_array_equal(again.reshape(values.shape), loaded.pixels, name)


def test_a_png_whose_data_ends_early_is_told(tmp_path):
    path = tmp_path / "a.png"
    for bits, interlaced in product((1, 8, 16), (False, True)):
        data = bytearray(png(bits, 0, [bytes(-(-WIDTH * bits // 8))] * (HEIGHT - 1)))
        data[28] = interlaced
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        path.write_bytes(data)
        for read in (read_image, lambda path: EncodedImage(path.read_bytes(), str(path), CONVERSIONS).decode()):
            with pytest.raises(DataError, match=r"a\.png: the (PNG's data ends early: it inf|image cannot be decoded)"):
                read(path)


def test_truncated_tiffs_and_those_of_other_numbers_are_refused():
    names = ("tiff-rgb-8-contig-strips-zlib", "tiff-rgb-16-planar-tiles-None", "tiff-RGB-tiff_lzw")
    wrong = [(CELLS[name][0][: int(part * len(CELLS[name][0]))], "") for name in names for part in (0.5, 0.9)]
    for values, kind in ((np.zeros((4, 5, 3), np.float16), "float16"), (np.zeros((4, 5), np.int16), "int16")):
        wrong.append((tiff(values), f"holds {kind} values; expected 8 or 16 bits"))
    for data, told in wrong:
        with pytest.raises(DataError, match=rf"a\.tif: {told}"):
            EncodedImage(data, "a.tif", CONVERSIONS)


def test_colours_come_back_from_the_faintest_alpha_and_an_unknown_orientation_is_upright():
    stored = np.uint8([[[1, 0, 1, 1], [0, 0, 0, 0], [1, 2, 1, 2]]])
    found = decode_samples(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]), "a").pixels
    assert found.tolist() == [[[255, 0, 255, 1], [0, 0, 0, 0], [128, 255, 128, 2]]]
    data = tiff(COLOURS, photometric="rgb", extratags=[(274, "H", 1, 0, True)])
    assert np.array_equal(EncodedImage(data, "a").decode()[..., ::-1], COLOURS)
