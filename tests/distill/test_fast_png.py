"""pyspng gives OpenCV's pixels, and whatever OpenCV refuses is refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from rain_pictures import photographs

from unirain_plugin.data.image_header import read_header
from unirain_plugin.distill import fast_png
from unirain_plugin.distill.errors import UnreadableImageError
from unirain_plugin.distill.images import decode_rgb

PHOTO = photographs(96)["coffee"]


def by_opencv(*flags):
    return cv2.imencode(".png", np.ascontiguousarray(PHOTO[..., ::-1]), flags)[1].tobytes()


def by_pillow(mode, **options):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(buffer, "png", **options)
    return buffer.getvalue()


def fast(data):
    return fast_png.decode_png(data, read_header(data, "x"))


def slow(data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fast_png, "pyspng", None)
        return decode_rgb(data, "x")


@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_PNG_COMPRESSION, 9), (cv2.IMWRITE_PNG_COMPRESSION, 0)])
def test_pixels_of_what_opencv_writes(flags):
    pytest.importorskip("pyspng")
    np.testing.assert_array_equal(fast(by_opencv(*flags)), PHOTO)


def test_pixels_of_what_pillow_writes():
    pytest.importorskip("pyspng")
    np.testing.assert_array_equal(fast(by_pillow("RGB", optimize=True)), PHOTO)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_other_kinds_are_left_to_opencv(mode, monkeypatch):
    deep = cv2.imencode(".png", PHOTO.astype(np.uint16) * 200)[1].tobytes()
    data = deep if mode == "I;16" else by_pillow(mode)
    assert fast(data) is None
    np.testing.assert_array_equal(decode_rgb(data, "x"), slow(data, monkeypatch))


def chunks(data):
    """Offset and length of the chunks' contents, by kind."""
    position, found = 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        found.append((data[position + 4 : position + 8], position + 8, length))
        position += 12 + length
    return found


def spoilt(how):
    data = bytearray(by_opencv())
    _, start, length = next(chunk for chunk in chunks(data) if chunk[0] == b"IDAT")
    if how == "flipped byte":
        data[start + length // 2] ^= 0x55
    elif how == "wrong checksum":
        data[start + length] ^= 1
    elif how == "flipped byte, checksum mended":
        data[start + length // 2] ^= 0x55
        checksum = zlib.crc32(data[start - 4 : start + length])
        data[start + length : start + length + 4] = struct.pack(">I", checksum)
    elif how == "cut, end kept":
        data = data[: start + length // 2] + data[-12:]
    return bytes(data)


@pytest.mark.parametrize("how", ["flipped byte", "wrong checksum", "flipped byte, checksum mended", "cut, end kept"])
def test_damage_is_an_error_with_and_without(how, monkeypatch):
    data = spoilt(how)
    assert fast(data) is None
    with pytest.raises(UnreadableImageError, match="cannot be decoded") as with_it:
        decode_rgb(data, "x")
    with pytest.raises(UnreadableImageError) as without:
        slow(data, monkeypatch)
    assert str(with_it.value) == str(without.value)


def test_without_pyspng_the_pixels_are_the_same(monkeypatch):
    data = by_opencv()
    np.testing.assert_array_equal(slow(data, monkeypatch), PHOTO)
