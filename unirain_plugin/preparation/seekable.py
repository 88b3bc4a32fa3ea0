"""JPEG and PNG files written anew, without loss, so that rows in the middle are decoded without those above them.

A JPEG gets a restart marker behind every row of coding units: ``jpegtran``, of libjpeg-turbo, moves the coefficients
over (of Python's libraries none writes restart markers without coding the pixels anew). A PNG is compressed in blocks
of rows: each is a chunk of its own, ends with zlib's full flush, and begins with a row that needs none above it. Both
stay ordinary files for every reader.
"""

import re
import struct
import subprocess
import zlib
from array import array
from typing import NamedTuple

import cv2
import numpy as np

from unirain_plugin.data.image_header import PNG_SIGNATURE, ImageHeader, png_chunks, read_header
from unirain_plugin.data.partial_decode import RowIndex, inflated, pixel_bits, png_chunk, row_bytes, wrapped_png
from unirain_plugin.errors import OptionError

_JPEGTRAN = ("jpegtran", "-copy", "all", "-optimize", "-restart", "1")


class Seekable(NamedTuple):
    """What became of an image: its bytes, the index of their rows (None: they are the source's), and what was done."""

    data: bytes
    index: RowIndex | None
    how: str


def make_seekable(data: bytes, name: str, block: int = 24_000) -> Seekable:
    """Write an image anew, or leave it as it is, where that gains nothing or cannot be done without loss.

    Of a PNG's block at least ``block`` bytes are compressed together: fewer make the file larger and crops faster. A
    DataError if the file is broken; an OptionError if jpegtran is missing.
    """
    header = read_header(data, name)
    if header is None:
        return Seekable(data, None, "kept: neither JPEG nor PNG")
    if header.orientation != 1:
        return Seekable(data, None, "kept: turned by EXIF")
    made = _jpeg(data, header, name) if header.format == "jpeg" else _png(data, header, name, block)
    if made.index is not None and not np.array_equal(*map(_pixels, (data, made.data))):
        return Seekable(data, None, "kept: the pixels would change")
    return made


def _pixels(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def _jpeg(data: bytes, header: ImageHeader, name: str) -> Seekable:
    if header.several:
        return Seekable(data, None, "kept: JPEG with a second image")
    try:
        done = subprocess.run(_JPEGTRAN, input=data, capture_output=True, check=False)
    except OSError:
        raise OptionError("--seekable needs the program jpegtran for JPEG files: install libjpeg-turbo (Debian and "
                          "Ubuntu: apt install libjpeg-turbo-progs).") from None  # fmt: skip
    if done.returncode:
        return Seekable(data, None, f"kept: jpegtran says '{done.stderr.decode(errors='replace').strip()[:80]}'")
    made = read_header(done.stdout, name)
    scan = made.data_at + 2 + int.from_bytes(done.stdout[made.data_at + 2 : made.data_at + 4], "big")
    markers = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7\xd9]", done.stdout[scan:])]
    starts = array("I", [scan, *(scan + at + 2 for at in markers[:-1]), scan + markers[-1]])
    if len(markers) != -(-made.height // made.mcu_rows):
        return Seekable(data, None, "kept: JPEG with several scans")
    if len(markers) == 1:
        return Seekable(data, None, "kept: one block of rows")
    how = "JPEG" if header.cuttable else "JPEG (was progressive, or had other restart markers or several scans)"
    return Seekable(done.stdout, RowIndex(len(done.stdout), made.mcu_rows, starts), how)


def _png(data: bytes, header: ImageHeader, name: str, least: int) -> Seekable:
    width = row_bytes(data)
    block = next(8 << n for n in range(20) if (8 << n) * (width + 1) >= least)
    if block >= header.height:
        return Seekable(data, None, "kept: one block of rows")
    chunks = list(png_chunks(data))
    if any(kind == b"acTL" for kind, _ in chunks):
        return Seekable(data, None, "kept: animated PNG")
    if data[28] and data[24] < 8:
        return Seekable(data, None, "kept: interlaced PNG of less than 8 bits")
    rows = _independent(data, header.height, inflated(data, header, name), block)
    behind = next(n for n in range(len(chunks), 0, -1) if chunks[n - 1][0] == b"IDAT")
    head = PNG_SIGNATURE + png_chunk(b"IHDR", data[16:28] + b"\0") + data[33 : header.data_at]
    tail = b"".join(png_chunk(*chunk) for chunk in chunks[behind:])
    how = "PNG (was interlaced)" if data[28] else "PNG"
    made = _compressed(head, rows, tail, block, 6, how)
    return made if len(made.data) < 1.05 * len(data) else _compressed(head, rows, tail, block, 9, how)


_PLAIN = {1: (8, 0), 2: (16, 0), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}
"""Bytes of a pixel → bits and kind of colour of a PNG whose samples OpenCV gives as they are stored."""


def _independent(data: bytes, height: int, filtered: bytes, block: int) -> np.ndarray:
    """The rows with their filters, (H, 1 + bytes): those that begin a block refer to none above them.

    What a row holds is known to a decoder only, so one gets the same bytes as an image without palette or packed bits.
    """
    width, pixel = row_bytes(data), max(1, pixel_bits(data) // 8)
    about = struct.pack(">IIBBBBB", width // pixel, height, *_PLAIN[pixel], 0, 0, data[28])
    raw = cv2.imdecode(np.frombuffer(wrapped_png(about, b"", filtered), np.uint8), cv2.IMREAD_UNCHANGED)
    if raw.ndim == 3:
        raw = raw[..., [2, 1, 0, 3][: raw.shape[2]]]
    raw = np.ascontiguousarray(raw, raw.dtype.newbyteorder(">")).view(np.uint8).reshape(height, width)
    left = np.ones((height, 1 + width), np.uint8)  # each byte less the one to its left: filter 1
    left[:, 1:] = raw
    left[:, 1 + pixel :] -= raw[:, :-pixel]
    if data[28]:
        return left
    rows = np.frombuffer(filtered[: left.size], np.uint8).reshape(left.shape).copy()
    rows[::block] = np.where(rows[::block, :1] > 1, left[::block], rows[::block])
    return rows


def _compressed(head: bytes, rows: np.ndarray, tail: bytes, block: int, level: int, how: str) -> Seekable:
    compressor, parts, starts = zlib.compressobj(level), [head], array("I", [len(head)])
    for top in range(0, len(rows), block):
        content = compressor.compress(rows[top : top + block].tobytes())
        content += compressor.flush(zlib.Z_FULL_FLUSH if top + block < len(rows) else zlib.Z_FINISH)
        parts.append(png_chunk(b"IDAT", content))
        starts.append(starts[-1] + len(parts[-1]))
    made = b"".join([*parts, tail])
    return Seekable(made, RowIndex(len(made), block, starts), how)
