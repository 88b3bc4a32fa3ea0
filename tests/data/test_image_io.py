"""Image bytes: headers, orientations, bad files, decoding of a part; with the extra ``speed`` and without."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from data_images import any_image, encode, encode_pil, without_chunk
from PIL import Image, ImageOps

from unirain_plugin.data import partial_decode
from unirain_plugin.data.image_header import read_header
from unirain_plugin.data.images import EncodedImage, image_shape
from unirain_plugin.distill.records import decode_rgb
from unirain_plugin.errors import DataError

IMAGE = any_image()
FILES = {suffix: encode(IMAGE, suffix) for suffix in (".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm")} | {
    "stored": encode(IMAGE, ".png", cv2.IMWRITE_PNG_COMPRESSION, 0),
    "Pillow's": encode_pil(IMAGE, "PNG", optimize=True),
    "palette": encode_pil(IMAGE, "PNG", "P"),
    "grey": encode(IMAGE[..., 0]),
    "alpha": encode(np.dstack([IMAGE, IMAGE[..., :1]])),
    "depth16": encode(IMAGE.astype(np.uint16) * 257),
    "cmyk": encode_pil(IMAGE, mode="CMYK"),
}


def by_opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(params=["with speed", "without"])
def speed(request, monkeypatch):
    """Also what this installation falls back to where the packages of the extra are missing."""
    if request.param == "without":
        monkeypatch.setattr(partial_decode, "_inflater", zlib)
        monkeypatch.setattr(partial_decode, "_PNG_WORTH", 0.7)
        monkeypatch.setattr(partial_decode, "decoders", lambda: {"partial": True, "simplejpeg": False})


@pytest.mark.parametrize("kind", FILES)
def test_files_decode_as_opencv_decodes_them_some_on_request(kind, speed):
    data = FILES[kind]
    expected = by_opencv(data)
    if kind in (".png", "stored", "Pillow's"):
        np.testing.assert_array_equal(expected, IMAGE)
    image = EncodedImage(data, "x", {"grey", "alpha", "depth16", "cmyk"} & {kind})
    assert (image.height, image.width) == expected.shape[:2] == (48, 64)
    assert np.array_equal(image.decode(), expected)
    assert np.array_equal(image.decode_rows(16)[:16], expected[:16])
    assert np.array_equal(decode_rgb(data, "x"), expected[..., ::-1])
    if kind == ".jpg":  # trailing bytes do not make a file bad
        assert np.array_equal(EncodedImage(data + bytes(50), "x").decode(), expected)


@pytest.mark.parametrize("how", ["flipped byte", "wrong checksum", "flipped byte, checksum mended", "cut, end kept"])
def test_damage_is_an_error(how, speed):
    data = bytearray(FILES[".png"])
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack_from(">I", data, start - 8)
    if how.startswith("flipped byte"):
        data[start + length // 2] ^= 0x55
    if how.endswith("mended"):
        struct.pack_into(">I", data, start + length, zlib.crc32(data[start - 4 : start + length]))
    if how == "wrong checksum":
        data[start + length] ^= 1
    if how == "cut, end kept":
        del data[start + length // 2 : -12]
    with pytest.raises(DataError, match=r"^x: the image cannot be decoded"):
        decode_rgb(bytes(data), "x")


def test_png_with_data_behind_its_end_is_whole_and_one_without_is_not():
    data = FILES[".png"]
    for more in (bytes(6000), b"IEND" * 2000, data):
        assert np.array_equal(EncodedImage(data + more, "a").decode(), EncodedImage(data, "a").decode())
    for kept in (len(data) - 13, len(data) // 2):
        with pytest.raises(DataError, match="truncated"):
            EncodedImage(data[:kept] + bytes(6000), "a")


def test_sixteen_bits_become_the_nearest_of_256_levels():
    deep = np.linspace(0, 65535, 9 * 999, dtype=np.uint16).reshape(9, -1, 3)
    for suffix in (".tif", ".ppm"):
        image = EncodedImage(encode(deep, suffix), "x", convert=["depth16"])
        assert np.array_equal(image.decode(), np.round(deep / 257))


def test_a_header_that_promises_another_size_is_an_error_and_a_second_image_behind_the_first_does_not_count():
    assert read_header(FILES[".bmp"], "x") is None
    jpeg = bytearray(FILES[".jpg"])
    at = read_header(bytes(jpeg), "x").height_at
    jpeg[at : at + 2] = (0).to_bytes(2, "big")
    with pytest.raises(DataError, match=r"lie.jpg"):
        EncodedImage(bytes(jpeg), "lie.jpg").decode()
    first, second = encode(any_image(200, 48), ".jpg"), encode(any_image(64, 48, 1), ".jpg")
    data = first[:2] + b"\xff\xe2\x00\x08MPF\0\0\0" + first[2:] + second
    header = read_header(data, "x")
    assert (header.height, header.end_at) == (200, len(first) + 10 - 2)
    assert np.array_equal(EncodedImage(data, "x").decode_rows(60)[:60], EncodedImage(first, "x").decode()[:60])


SAMPLING = cv2.IMWRITE_JPEG_SAMPLING_FACTOR


def check_upper_rows(data, step=1):
    whole = EncodedImage(data, "x").decode()
    for stop in range(1, len(whole) + 1, step):
        assert np.array_equal(EncodedImage(data, "x").decode_rows(stop)[:stop], whole[:stop]), stop


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x121111, 0x221111, 0x411111])
def test_upper_rows_are_those_of_the_whole(monkeypatch, sampling):
    for size in ((90, 121), (17, 9), (64, 64)):
        check_upper_rows(encode(any_image(*size), ".jpg", SAMPLING, sampling))
    for worth in (0.7, 1.0):
        monkeypatch.setattr(partial_decode, "_PNG_WORTH", worth)
        check_upper_rows(encode(any_image(70, 33)))


@pytest.mark.parametrize("noisy", [slice(0, 100), slice(100, 200), slice(40, 48), slice(0, 0)])
@pytest.mark.parametrize("sampling", [0x111111, 0x221111])
def test_data_crowded_in_a_part_of_a_jpeg_is_not_cut_off(noisy, sampling):
    image = np.full((200, 160, 3), 90, np.uint8)
    image[noisy] = np.random.default_rng(0).integers(0, 255, image[noisy].shape, dtype=np.uint8)
    check_upper_rows(encode(image, ".jpg", SAMPLING, sampling, cv2.IMWRITE_JPEG_QUALITY, 95), step=3)


def test_only_as_many_rows_are_decoded_as_needed_where_a_file_can_be_cut():
    tall = any_image(400, 32)
    assert EncodedImage(encode(tall), "x").decode_rows(50).shape[0] == 50
    assert EncodedImage(encode(tall, ".jpg"), "x").decode_rows(50).shape[0] <= 50 + 48
    for option, value in ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        image = EncodedImage(encode(tall, ".jpg", option, value), "x")
        assert not image.header.cuttable and image.decode_rows(20).shape[0] == 400
    damaged = bytearray(encode(any_image(200, 200)))
    damaged[len(damaged) // 2] ^= 0x55
    with pytest.raises(DataError, match=r"bad\.png.*damaged"):  # in the part that is decoded
        EncodedImage(bytes(damaged), "bad.png").decode_rows(100)


@pytest.mark.parametrize("partial", [True, False])
def test_without_the_faster_decoders_the_pixels_are_the_same(monkeypatch, partial):
    assert partial_decode.decoders()["partial"], "this installation decodes parts"
    data = encode(any_image(200, 48), ".jpg")
    expected = EncodedImage(data, "x").decode()[:60]
    monkeypatch.setattr(partial_decode, "decoders", lambda: {"partial": partial, "simplejpeg": False})
    rows = EncodedImage(data, "x").decode_rows(60)
    assert np.array_equal(rows[:60], expected) and (rows.shape[0] == 200) == (not partial)


FORMATS = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", [*FORMATS, "PNG, at the end"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_on_request_an_image_is_upright_in_size_pixels_and_rows(kind, orientation):
    kind, _, place = kind.partition(", ")
    data = encode_pil(IMAGE, kind, orientation=orientation, **FORMATS[kind])
    if place and orientation > 1:  # the EXIF data lie behind those of the image, where the format allows them too
        rest, at = without_chunk(data, b"eXIf"), data.index(b"eXIf") - 4
        data = rest[:-12] + data[at : at + len(data) - len(rest)] + rest[-12:]
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))[..., ::-1]  # Pillow's, as BGR
    size = (48, 64) if orientation in (1, 2, 3, 4) else (64, 48)
    assert upright.shape == image_shape(data, "x") == (*size, 3)
    image = EncodedImage(data, "x", convert=["exif"])
    assert (image.height, image.width) == size
    assert np.array_equal(image.decode(), by_opencv(data))
    for rows in (size[0], 20):
        pixels = EncodedImage(data, "x", convert=["exif"]).decode_rows(rows)
        for found in (image.decode(), pixels):
            np.testing.assert_allclose(found[:rows], upright[:rows], atol=2 if kind == "JPEG" else 0)
    if orientation > 1:
        with pytest.raises(DataError, match=r"^x: the image is marked as rotated by its EXIF orientation"):
            EncodedImage(data, "x")


def test_an_orientation_that_does_not_exist_counts_as_upright():
    for value in (0, 9, 600):
        data = encode_pil(IMAGE, orientation=value)
        image = EncodedImage(data, "x")
        assert (image.height, image.width) == image.decode().shape[:2] == image_shape(data, "x")[:2] == (48, 64)
