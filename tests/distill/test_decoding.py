"""Images as OpenCV decodes them, with the packages of the extra ``speed`` and without; damage is refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from rain_images import photographs

from unirain_plugin.data import partial_decode
from unirain_plugin.distill.records import decode_rgb
from unirain_plugin.errors import DataError

PHOTO = photographs(96)["coffee"]


@pytest.fixture(params=["with speed", "without"])
def decode(request, monkeypatch):
    """:func:`decode_rgb`, also with what this installation falls back to where the extra is missing."""
    if request.param == "without":
        monkeypatch.setattr(partial_decode, "_inflater", zlib)
        monkeypatch.setattr(partial_decode, "_PNG_WORTH", 0.7)
        monkeypatch.setattr(partial_decode, "decoders", lambda: {"partial": True, "simplejpeg": False})
    return lambda data: decode_rgb(data, "x")


def coded(image, kind=".png", *flags):
    return cv2.imencode(kind, np.ascontiguousarray(image), flags)[1].tobytes()


def by_pillow(mode, **options):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(buffer, "png", **options)
    return buffer.getvalue()


FILES = {
    "PNG": coded(PHOTO[..., ::-1]),
    "stored": coded(PHOTO[..., ::-1], ".png", cv2.IMWRITE_PNG_COMPRESSION, 0),
    "Pillow's": by_pillow("RGB", optimize=True),
    "grey": by_pillow("L"),
    "palette": by_pillow("P"),
    "alpha": by_pillow("RGBA"),
    "16 bits": coded(PHOTO[..., ::-1].astype(np.uint16) * 200),
    "JPEG": coded(PHOTO[..., ::-1], ".jpg"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_opencv_s(name, decode):
    expected = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode(FILES[name]), expected)
    if name in ("PNG", "stored", "Pillow's"):
        np.testing.assert_array_equal(expected, PHOTO)


def spoilt(how):
    data = bytearray(FILES["PNG"])
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack_from(">I", data, start - 8)
    if how == "cut, end kept":
        return bytes(data[: start + length // 2] + data[-12:])
    if how.startswith("flipped byte"):
        data[start + length // 2] ^= 0x55
    if how == "flipped byte, checksum mended":
        struct.pack_into(">I", data, start + length, zlib.crc32(data[start - 4 : start + length]))
    if how == "wrong checksum":
        data[start + length] ^= 1
    return bytes(data)


@pytest.mark.parametrize("how", ["flipped byte", "wrong checksum", "flipped byte, checksum mended", "cut, end kept"])
def test_damage_is_an_error(how, decode):
    with pytest.raises(DataError, match=r"^x: the image cannot be decoded"):
        decode(spoilt(how))
