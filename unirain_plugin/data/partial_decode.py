"""Making a smaller image file out of a larger one, so that a decoder sees only the rows that are needed.

Both formats are stored from top to bottom: only what lies above a crop's lower end must be decoded, and with an index
of rows (see :class:`RowIndex`) not what lies above the crop. The pixels are exactly those of the whole image.
"""

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
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

_INDEX = struct.Struct("<4sHHIII")
_MAGIC, VERSION = b"rows", 1
_REMEDY = "Make the LMDB anew, or read whole images with decode_region: false."


@dataclass(frozen=True, slots=True)
class RowIndex:
    """Where an image can be entered: a JPEG behind restart markers, a PNG at chunks that need none before them."""

    size: int  # bytes of the image
    rows: int  # rows of pixels in a block (the last one may have fewer)
    starts: "array[int]"  # where each block begins, and where the last one ends

    def to_bytes(self) -> bytes:
        starts = np.asarray(self.starts, "<u4").tobytes()
        return _INDEX.pack(_MAGIC, VERSION, self.rows, self.size, len(self.starts), zlib.crc32(starts)) + starts

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, name: str) -> "RowIndex":
        """Read what :meth:`to_bytes` wrote; a DataError says if it is cut short or of a newer version."""
        if len(data) < _INDEX.size or bytes(data[:4]) != _MAGIC:
            raise DataError(f"{name}: its index of rows is damaged: {len(data)} bytes without its header. {_REMEDY}")
        _, version, rows, size, count, checksum = _INDEX.unpack_from(data)
        if version != VERSION:
            what = f"has version {version}; this release reads version {VERSION}"
            raise DataError(f"{name}: its index of rows {what}. {_REMEDY}")
        expected = _INDEX.size + 4 * count
        if len(data) != expected:
            what = f"found {len(data)} bytes, expected {expected}"
        elif zlib.crc32(data[_INDEX.size :]) != checksum or not rows or count < 2:
            what = "its checksum is wrong"
        else:
            return cls(size, rows, array("I", np.frombuffer(data, "<u4", count, _INDEX.size).tolist()))
        raise DataError(f"{name}: its index of rows is damaged: {what}. {_REMEDY}")

    def header(self, data: bytes | memoryview, name: str) -> ImageHeader:
        """The header of the image, which the index is checked against (else DataError); blocks are when decoded."""
        steps = np.diff(np.asarray(self.starts, np.int64))
        if len(data) != self.size:
            raise self.misfit(name, f"the image has {len(data)} bytes, the index is one of {self.size}")
        if self.starts[-1] > self.size or steps.min() <= 0:
            raise self.misfit(name, "its positions are not in order")
        header = read_header(bytes(data[: self.starts[0] + 8]), name, whole=False)
        if header is None or len(steps) != -(-header.height // self.rows):
            found = "no JPEG or PNG" if header is None else f"one of {header.height} rows"
            raise self.misfit(name, f"it is of {len(steps)} blocks of {self.rows} rows, the image is {found}")
        return header

    @staticmethod
    def misfit(name: str, why: str) -> DataError:
        return DataError(f"{name}: its index of rows does not fit the image: {why}. {_REMEDY}")


def decode_part(
    data: bytes | memoryview, header: ImageHeader, index: RowIndex | None, start: int, stop: int, name: str
) -> np.ndarray | None:
    """Decode the rows from ``start`` up to ``stop`` (at most the height), or some more below, to uint8 BGR.

    None where the whole image has to be decoded. A DataError if a PNG's data is damaged, or the index does not fit.
    """
    if header.orientation != 1 or not (header.cuttable or index):
        return None
    if header.format == "png":
        first, part = _png(data, header, index, start, stop, name)
        image = None if part is None else _decode(part, False)
    elif not decoders()["partial"]:
        return None
    else:
        fast = header.channels == 3 and decoders()["simplejpeg"]
        if index is not None:
            first, part = _jpeg_between(data, header, index, start, stop, name)
            image = _decode(part, fast)
        else:
            first, image = 0, _upper_jpeg(data, header, stop, fast)
    return None if image is None else image[start - first :]


def _decode(part: bytes | bytearray | memoryview, fast: bool) -> np.ndarray | None:
    if not fast:
        return cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)
    try:
        return simplejpeg.decode_jpeg(part, "BGR", strict=False)
    except ValueError:
        return None


def _upper_jpeg(data: bytes, header: ImageHeader, stop: int, fast: bool) -> np.ndarray | None:
    """Decode, if possible without the data that the rows are unlikely to need, and look whether they needed it.

    Otherwise simplejpeg would search all of it for the end marker. Where the data ran out, the rest is of one colour.
    So one more row of coding units is asked for: if that is not of one colour, all rows before it are whole.
    """
    if not fast:
        part = _jpeg_above(data, header, stop)
        return None if part is None else _decode(part, fast)
    part = _jpeg_above(data, header, stop + header.mcu_rows)
    share = _rows(header, stop + header.mcu_rows) / header.height
    likely = header.data_at + int((header.end_at - header.data_at) * share * 1.2) + 4096
    if part is not None and likely < len(part):
        image = _decode(memoryview(part)[:likely], fast)
        if image is not None and (image[-1] != image[-1, :1]).any():
            return image
    return _decode(data if part is None else part, fast)


@cache
def decoders() -> dict[str, bool]:
    """Try out once whether OpenCV's (and simplejpeg's) pixels of a part of a JPEG are OpenCV's of the whole."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 40, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", cv2.blur(noise, (3, 3)))[1].tobytes()
    header = read_header(data, "self-test")
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    part = _jpeg_above(data, header, 30)
    upper = _decode(part, False)
    partial = upper is not None and np.array_equal(upper[:30], whole[:30])
    same = simplejpeg is not None and np.array_equal(_decode(part, True)[:30], whole[:30])
    return {"partial": partial, "simplejpeg": partial and same}


def _rows(header: ImageHeader, stop: int) -> int:
    """Return ``stop`` rounded up to whole rows of coding units, and one such row more."""
    return (-(-stop // header.mcu_rows) + 1) * header.mcu_rows


def _jpeg_above(data: bytes | bytearray, header: ImageHeader, stop: int) -> bytearray | None:
    """Lower the height in the header and drop the end marker, so that the decoder does not go looking for it.

    One row of coding units more than needed is kept: the up-sampling of the chroma looks at the row below.
    """
    rows = _rows(header, stop)
    if rows >= header.height:
        return None
    cut = bytearray(memoryview(data)[: header.end_at])
    cut[header.height_at : header.height_at + 2] = rows.to_bytes(2, "big")
    return cut


def _jpeg_between(
    data: bytes | memoryview, header: ImageHeader, index: RowIndex, start: int, stop: int, name: str
) -> tuple[int, bytearray]:
    """A JPEG of the blocks that are needed: its first row in the image, and its bytes.

    Where the chroma has fewer rows, its up-sampling looks at the rows above and below: one block more on both sides.
    """
    margin = int(header.mcu_rows > 8)
    first, last = max(0, start // index.rows - margin), min(-(-stop // index.rows) + margin, len(index.starts) - 1)
    begin, end = index.starts[first], index.starts[last]
    part = bytearray(data[: index.starts[0]])
    height = min(last * index.rows, header.height) - first * index.rows
    part[header.height_at : header.height_at + 2] = height.to_bytes(2, "big")
    shift = len(part) - begin
    part += data[begin:end]
    for number in range(max(first, 1), min(last + 1, len(index.starts) - 1)):
        at = index.starts[number] - 2
        if bytes(data[at : at + 2]) != bytes((0xFF, 0xD0 + (number - 1) % 8)):
            raise index.misfit(name, f"there is no restart marker at byte {at}")
        if number > first:
            part[at + shift + 1] = 0xD0 + (number - first - 1) % 8
    if last < len(index.starts) - 1:
        del part[-2:]
    return first * index.rows, part + b"\xff\xd9"


def _png(
    data: bytes | memoryview, header: ImageHeader, index: RowIndex | None, start: int, stop: int, name: str
) -> tuple[int, bytes | None]:
    """Inflate the rows that are needed and wrap them, uncompressed, as a PNG of their own."""
    first, position = 0, header.data_at
    if index is not None:
        first = start // index.rows * index.rows
        position = index.starts[start // index.rows]
        if bytes(data[position + 4 : position + 8]) != b"IDAT":
            raise index.misfit(name, f"there is no chunk of image data at byte {position}")
    elif stop > _PNG_WORTH * header.height:
        return 0, None
    inflater, size, rows = _inflater.decompressobj(-15 if first else 15), (stop - first) * (1 + row_bytes(data)), []
    needed = size
    try:
        chunks = _idat_chunks(data, position, name)
        for chunk in chunks if index else list(chunks):  # damage anywhere is told, but with an index only what is read
            rows.append(inflater.decompress(chunk, needed))
            needed -= len(rows[-1])
            if needed <= 0:
                break
    except (zlib.error, _inflater.error) as error:
        raise DataError(f"{name}: the PNG's data is damaged: {error}.") from None
    if needed > 0:
        raise DataError(f"{name}: the PNG's data ends before row {stop} of {header.height}.")
    raw = b"".join(rows)
    if first and raw[0] > 1:
        raise index.misfit(name, f"row {first} needs the one above it")
    head = bytes(data[: header.data_at])
    about = head[16:20] + struct.pack(">I", stop - first) + head[24:29]
    return first, wrapped_png(about, head[33:], raw)


_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""The passes of an interlaced PNG: first row and column, and the steps to the next."""


def pixel_bits(data: bytes | memoryview) -> int:
    """Bits of a pixel of a PNG, as it is stored."""
    return data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]


def row_bytes(data: bytes | memoryview, step: int = 1, first: int = 0) -> int:
    """Bytes of a row of a PNG, or of every ``step``-th pixel of it, before compression and without the filter."""
    (width,) = struct.unpack_from(">I", data, 16)
    return (-(-(width - first) // step) * pixel_bits(data) + 7) // 8


def inflated(data: bytes, header: ImageHeader, name: str) -> bytes:
    """All rows of a PNG with their filters; DataError if damaged or too few, which Pillow would fill up with black."""
    inflater = _inflater.decompressobj()
    try:
        rows = b"".join(map(inflater.decompress, _idat_chunks(data, header.data_at, name)))
    except (zlib.error, _inflater.error) as error:
        raise DataError(f"{name}: the PNG's data is damaged: {error}.") from None
    passes = _ADAM7 if data[28] else ((0, 0, 1, 1),)
    sizes = [(-(-(header.height - top) // down), row_bytes(data, right, left)) for top, left, down, right in passes]
    expected = sum(count * (1 + size) for count, size in sizes if size)
    if len(rows) < expected:
        raise DataError(f"{name}: the PNG's data ends early: it inflates to {len(rows)} bytes, expected {expected}.")
    return rows


def wrapped_png(about: bytes | memoryview, before: bytes, rows: bytes) -> bytes:
    """A PNG of filtered rows, uncompressed: ``about`` is the content of IHDR, ``before`` are the chunks behind that."""
    parts = [PNG_SIGNATURE, png_chunk(b"IHDR", about), before, png_chunk(b"IDAT", _stored(rows)), png_chunk(b"IEND")]
    return b"".join(parts)


def png_chunk(kind: bytes, content: bytes | memoryview = b"") -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", _inflater.crc32(body))


def _stored(raw: bytes) -> bytes:
    """Wrap bytes as a zlib stream of uncompressed blocks (RFC 1950 and 1951), without the compressor's detour."""
    parts = [b"\x78\x01"]
    for start in range(0, len(raw), 0xFFFF):
        block = raw[start : start + 0xFFFF]
        last = start + 0xFFFF >= len(raw)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", _inflater.adler32(raw))])


def _idat_chunks(data: bytes | memoryview, position: int, name: str) -> Iterator[memoryview]:
    """The contents of the IDAT chunks from a position on, their checksums verified."""
    view = memoryview(data)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind != b"IDAT":
            return
        if position + 12 + length > len(data):
            raise DataError(f"{name}: the PNG's data is damaged: a chunk (byte {position}) ends beyond the file.")
        (crc,) = struct.unpack_from(">I", data, position + 8 + length)
        if _inflater.crc32(view[position + 4 : position + 8 + length]) != crc:
            raise DataError(f"{name}: the PNG's data is damaged: wrong checksum at byte {position}.")
        yield view[position + 8 : position + 8 + length]
        position += 12 + length
