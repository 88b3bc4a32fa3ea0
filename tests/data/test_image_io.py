"""Image bytes: headers, every kind of bad file, decoding of a part."""

import cv2
import numpy as np
import pytest
from data_images import any_image, encode, encode_pil

from unirain_plugin.data import partial_decode
from unirain_plugin.data.image_header import read_header
from unirain_plugin.data.images import EncodedImage
from unirain_plugin.errors import DataError


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
def test_good_files_decode_as_opencv_decodes_them(suffix):
    data = encode(any_image(), suffix)
    image = EncodedImage(data, "x")
    assert (image.height, image.width) == (48, 64)
    assert np.array_equal(image.decode(), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    if suffix in (".png", ".jpg"):  # trailing bytes do not make a file bad
        assert np.array_equal(EncodedImage(data + bytes(50), "x").decode(), image.decode())


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("grey", encode(any_image()[..., 0])),
        ("alpha", encode(np.dstack([any_image(), any_image()[..., :1]]))),
        ("depth16", encode(any_image().astype(np.uint16) * 257)),
        ("cmyk", encode_pil(any_image(), mode="CMYK")),
        ("exif", encode_pil(any_image(), orientation=6)),
    ],
)
def test_conversion_on_request_is_opencvs(kind, data):
    image = EncodedImage(data, "x", convert=[kind])
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image.decode(), expected)
    assert np.array_equal(image.decode_rows(16)[:16], expected[:16])
    assert (image.height, image.width) == expected.shape[:2]


@pytest.mark.parametrize("suffix", [".tif", ".ppm"])
def test_sixteen_bits_become_the_nearest_of_256_levels(suffix):
    deep = np.linspace(0, 65535, 9 * 999, dtype=np.uint16).reshape(9, -1, 3)
    image = EncodedImage(encode(deep, suffix), "x", convert=["depth16"])
    assert np.array_equal(image.decode(), np.round(deep / 257))


def test_header_that_promises_another_size_is_an_error():
    assert read_header(encode(any_image(), ".bmp"), "x") is None
    jpeg = bytearray(encode(any_image(), ".jpg"))
    at = read_header(bytes(jpeg), "x").height_at
    jpeg[at : at + 2] = (0).to_bytes(2, "big")
    with pytest.raises(DataError, match=r"lie.jpg"):
        EncodedImage(bytes(jpeg), "lie.jpg").decode()


def check_upper_rows(data, step=1):
    whole = EncodedImage(data, "x").decode()
    for stop in range(1, len(whole) + 1, step):
        assert np.array_equal(EncodedImage(data, "x").decode_rows(stop)[:stop], whole[:stop]), stop


@pytest.mark.parametrize("size", [(90, 121), (17, 9), (64, 64)])
@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x121111, 0x221111, 0x411111])
def test_upper_rows_of_a_jpeg_are_those_of_the_whole(size, sampling):
    check_upper_rows(encode(any_image(*size), ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling))


@pytest.mark.parametrize("worth", [0.7, 1.0])
def test_upper_rows_of_a_png_are_those_of_the_whole(monkeypatch, worth):
    monkeypatch.setattr(partial_decode, "_PNG_WORTH", worth)
    check_upper_rows(encode(any_image(70, 33)))


def test_only_as_many_rows_are_decoded_as_needed_where_a_file_can_be_cut():
    tall = any_image(400, 32)
    assert EncodedImage(encode(tall), "x").decode_rows(50).shape[0] == 50
    assert EncodedImage(encode(tall, ".jpg"), "x").decode_rows(50).shape[0] <= 50 + 48
    for option, value in ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        image = EncodedImage(encode(tall, ".jpg", option, value), "x")
        assert not image.header.cuttable and image.decode_rows(20).shape[0] == 400


def test_damage_in_the_part_that_is_decoded_is_found():
    data = bytearray(encode(any_image(200, 200)))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(DataError, match=r"bad\.png.*damaged"):
        EncodedImage(bytes(data), "bad.png").decode_rows(100)


@pytest.mark.parametrize("partial", [True, False])
def test_without_the_faster_decoders_the_pixels_are_the_same(monkeypatch, partial):
    assert partial_decode.decoders()["partial"], "this installation decodes parts"
    data = encode(any_image(200, 48), ".jpg")
    expected = EncodedImage(data, "x").decode()[:60]
    monkeypatch.setattr(partial_decode, "decoders", lambda: {"partial": partial, "simplejpeg": False})
    rows = EncodedImage(data, "x").decode_rows(60)
    assert np.array_equal(rows[:60], expected) and (rows.shape[0] == 200) == (not partial)


@pytest.mark.parametrize("noisy", [slice(0, 100), slice(100, 200), slice(40, 48), slice(0, 0)])
@pytest.mark.parametrize("sampling", [0x111111, 0x221111])
def test_data_crowded_in_a_part_of_a_jpeg_is_not_cut_off(noisy, sampling):
    image = np.full((200, 160, 3), 90, np.uint8)
    image[noisy] = np.random.default_rng(0).integers(0, 255, image[noisy].shape, dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_QUALITY, 95]
    check_upper_rows(encode(image, ".jpg", *options), step=3)


def test_a_second_image_behind_the_first_does_not_count():
    first, second = encode(any_image(200, 48), ".jpg"), encode(any_image(64, 48, 1), ".jpg")
    data = first[:2] + b"\xff\xe2\x00\x08MPF\0\0\0" + first[2:] + second
    header = read_header(data, "x")
    assert (header.height, header.end_at) == (200, len(first) + 10 - 2)
    assert np.array_equal(EncodedImage(data, "x").decode_rows(60)[:60], EncodedImage(first, "x").decode()[:60])
