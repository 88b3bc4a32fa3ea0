"""Making a shorter image file out of a longer one, so that a decoder stops at the last row that is needed.

Both formats are stored from top to bottom, so of a random crop's image only what lies above the crop's lower end must
be decoded; the pixels are exactly those of the whole image.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache

import cv2
import numpy as np

try:  # 2 to 3 times as fast; the results are the same
    from isal import isal_zlib as _inflater

    _PNG_WORTH, INFLATER = 1.0, "isal"
except ImportError:
    _inflater = zlib
    _PNG_WORTH, INFLATER = 0.7, "zlib"  # beyond this share of the rows, wrapping anew costs more than it saves

try:  # a fifth faster than OpenCV's decoder; both are libjpeg-turbo
    import simplejpeg
except ImportError:
    simplejpeg = None

from unirain_plugin.data.image_header import PNG_SIGNATURE, ImageHeader, read_header
from unirain_plugin.errors import DataError


def decode_upper(data: bytes, header: ImageHeader, stop: int, name: str) -> np.ndarray | None:
    """Decode the upper ``stop`` rows, or a few more, to uint8 BGR; None where the whole has to be decoded otherwise.

    Args:
        data: The file's bytes.
        header: Their header.
        stop: Number of rows that are needed, at most the image's.
        name: The file's name for error texts.

    Raises:
        DataError: If a PNG's data is damaged.
    """
    if header.height_at == 0 or header.orientation != 1:
        return None
    if header.format == "png":
        part = _png(data, header, stop, name)
        return None if part is None else cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)
    if not decoders()["partial"]:
        return None
    if header.channels == 3 and decoders()["simplejpeg"]:
        return _by_simplejpeg(data, header, stop)
    part = _jpeg(data, header, stop)
    return None if part is None else cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)


def _by_simplejpeg(data: bytes, header: ImageHeader, stop: int) -> np.ndarray | None:
    """Decode without the data that the rows are unlikely to need, and look whether they needed it.

    Otherwise the decoder would search all of it for the end marker. Where the data ran out, the rest is of one colour
    (the decoder leaves all coefficients at 0). So one more row of coding units is asked for: if that is of one colour,
    nothing is cut; if not, the data has reached it, and all rows before it are whole.
    """
    part = _jpeg(data, header, stop + header.mcu_rows)
    share = _rows(header, stop + header.mcu_rows) / header.height
    likely = header.scan_at + int((header.end_at - header.scan_at) * share * 1.2) + 4096
    try:
        if part is not None and likely < len(part):
            image = simplejpeg.decode_jpeg(memoryview(part)[:likely], "BGR", strict=False)
            if (image[-1] != image[-1, :1]).any():
                return image
        return simplejpeg.decode_jpeg(data if part is None else part, "BGR", strict=False)
    except ValueError:
        return None


@cache
def decoders() -> dict[str, bool]:
    """Try out once, on a small image, what this installation's JPEG decoders make of a part.

    Returns:
        ``partial``: whether OpenCV's pixels of a part are those of the whole; ``simplejpeg``: whether simplejpeg is
        installed and gives OpenCV's pixels.
    """
    noise = np.random.default_rng(0).integers(0, 256, (96, 40, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", cv2.blur(noise, (3, 3)))[1].tobytes()
    header = read_header(data, "self-test")
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    part = _jpeg(data, header, 30)
    upper = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)
    partial = upper is not None and np.array_equal(upper[:30], whole[:30])
    same = simplejpeg is not None and np.array_equal(simplejpeg.decode_jpeg(part, "BGR", strict=False)[:30], whole[:30])
    return {"partial": partial, "simplejpeg": partial and same}


def _rows(header: ImageHeader, stop: int) -> int:
    """Return ``stop`` rounded up to whole rows of coding units, and one such row more."""
    return (-(-stop // header.mcu_rows) + 1) * header.mcu_rows


def _jpeg(data: bytes, header: ImageHeader, stop: int) -> bytearray | None:
    """Lower the height in the header and drop the end marker, so that the decoder does not go looking for it.

    One row of coding units more than needed is kept: the up-sampling of the chroma looks at the row below.
    """
    rows = _rows(header, stop)
    if rows >= header.height:
        return None
    cut = bytearray(memoryview(data)[: header.end_at])
    cut[header.height_at : header.height_at + 2] = rows.to_bytes(2, "big")
    return cut


def _png(data: bytes, header: ImageHeader, stop: int, name: str) -> bytes | None:
    """Inflate the rows that are needed and wrap them, uncompressed, as a PNG of their own."""
    if stop > _PNG_WORTH * header.height:
        return None
    inflater, needed, rows = _inflater.decompressobj(), stop * (3 * header.width + 1), []
    try:
        for chunk in _idat_chunks(data, name):
            rows.append(inflater.decompress(chunk, needed))
            needed -= len(rows[-1])
            if needed <= 0:
                break
    except (zlib.error, _inflater.error) as error:
        raise DataError(f"{name}: the PNG's data is damaged: {error}.") from None
    if needed > 0:
        raise DataError(f"{name}: the PNG's data ends before row {stop} of {header.height}.")
    ihdr = b"IHDR" + data[16:20] + struct.pack(">I", stop) + data[24:29]
    body = b"IDAT" + _stored(b"".join(rows))
    parts = [PNG_SIGNATURE]
    for chunk in (ihdr, body, b"IEND"):
        parts += [struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", _inflater.crc32(chunk))]
    return b"".join(parts)


def _stored(raw: bytes) -> bytes:
    """Wrap bytes as a zlib stream of uncompressed blocks (RFC 1950 and 1951), without the compressor's detour."""
    parts = [b"\x78\x01"]
    for start in range(0, len(raw), 0xFFFF):
        block = raw[start : start + 0xFFFF]
        last = start + 0xFFFF >= len(raw)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", _inflater.adler32(raw))])


def _idat_chunks(data: bytes, name: str) -> list[memoryview]:
    """Return the contents of the IDAT chunks, their checksums verified."""
    view, position, chunks = memoryview(data), 8, []
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            if position + 12 + length > len(data):
                raise DataError(f"{name}: the PNG's data is damaged: a chunk (byte {position}) ends beyond the file.")
            (crc,) = struct.unpack_from(">I", data, position + 8 + length)
            if _inflater.crc32(view[position + 4 : position + 8 + length]) != crc:
                raise DataError(f"{name}: the PNG's data is damaged: wrong checksum at byte {position}.")
            chunks.append(view[position + 8 : position + 8 + length])
        elif chunks:
            break
        position += 12 + length
    return chunks
