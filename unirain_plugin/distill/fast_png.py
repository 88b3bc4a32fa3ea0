"""PNGs to RGB pixels in two thirds of OpenCV's time, where ``pyspng`` is installed (extra ``speed``).

Decoding is what the default pipeline spends most time on. The pixels are OpenCV's; and since the shards must not depend
on what is installed, whatever OpenCV refuses is refused here too.
"""

from __future__ import annotations

import struct

import numpy as np

from unirain_plugin.data.image_header import ImageHeader

try:
    import pyspng
except ImportError:
    pyspng = None

try:  # some times as fast
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

DECODER = "OpenCV" if pyspng is None else "pyspng"
"""What decodes plain PNGs here."""
_CHUNK, _NUMBER = struct.Struct(">I4s").unpack_from, struct.Struct(">I").unpack_from


def decode_png(data: bytes, header: ImageHeader) -> np.ndarray | None:
    """Decode an upright 8-bit RGB PNG to uint8 RGB (H, W, 3); None for anything else and for damaged data."""
    plain = header.format == "png" and header.channels == 3 and header.height_at and header.orientation == 1
    if pyspng is None or not plain or not _checksums_agree(data):
        return None
    try:
        image = pyspng.load(data)
    except (RuntimeError, ValueError):
        return None  # OpenCV then says what is wrong
    return image if image.shape == (header.height, header.width, 3) else None


def _checksums_agree(data: bytes) -> bool:
    """Whether the chunks are as they were written; pyspng does not look at their checksums."""
    view, position = memoryview(data), 8
    try:
        while True:
            length, kind = _CHUNK(data, position)
            end = position + 8 + length
            if crc32(view[position + 4 : end]) != _NUMBER(data, end)[0]:
                return False
            if kind == b"IEND":
                return True
            position = end + 4
    except struct.error:  # the file ends before its last chunk
        return False
