"""What an image file says of itself before it is decoded: size, channels, depth, orientation, whether it is whole.

OpenCV turns grey, 16-bit, CMYK and transparent images silently into 8-bit BGR, turns EXIF-rotated ones upright, and
returns the upper part of a truncated JPEG as if it were the whole image. For paired training each of these is poison,
and each can be told from the file's first bytes (and its last). So can the number of pixels, whose limit lies in the
environment: it holds for the process and those that it starts.
"""

import argparse
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from PIL import Image

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.support.processes import environment
from unirain_plugin.support.resources import free_memory

VARIABLE = "UNIRAIN_MAX_MEGAPIXELS"  # environment variable with the limit in millions of pixels
_BYTES = 16  # of memory for a pixel while it is decoded: four channels of 16 bits, and a copy


def max_pixels() -> int:
    """The limit in pixels: what :data:`VARIABLE` says (else OptionError), or what memory was free at first."""
    told = os.environ.get(VARIABLE)
    return _default() if told is None else int(check_megapixels(VARIABLE, told) * 1e6)


@cache
def _default() -> int:
    return free_memory() // _BYTES


def check_pixels(height: int, width: int, name: str, limit: int | None = None) -> None:
    """Refuse an image of more pixels than ``limit`` (None: :func:`max_pixels`) by a DataError."""
    limit = max_pixels() if limit is None else limit
    if height * width > limit:
        raise DataError(f"{name}: {width} × {height} pixels are too many: at most {limit / 1e6:g} megapixels are read "
                        "(see max-megapixels).")  # fmt: skip


def add_limit_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-megapixels``, for :func:`limited`."""
    text = "refuse images that declare more, before they are decoded (default: what free memory takes)"
    parser.add_argument("--max-megapixels", type=float, metavar="N", help=text)


@contextmanager
def limited(megapixels: float | None) -> Iterator[None]:
    """Have a limit hold for a while, for this process and those that it starts; None leaves it as it is."""
    told = {} if megapixels is None else {VARIABLE: repr(check_megapixels("max-megapixels", megapixels))}
    with environment(told):
        yield


def check_megapixels(where: str, value: object) -> float:
    """A limit in millions of pixels; what is no positive number is an OptionError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise OptionError(f"{where}: got {value!r}; expected a number of megapixels above 0.")
    return number


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header tells."""

    format: str  # ``jpeg`` or ``png``
    height: int  # rows as stored (before any EXIF rotation); ``width`` likewise
    width: int
    channels: int  # 1 grey, 2 grey + alpha, 3 colour, 4 colour + alpha (PNG) or CMYK (JPEG)
    bits: int  # bits a sample
    orientation: int = 1  # EXIF orientation, 1 (upright) to 8
    # whether lower rows can be left out (JPEG: not progressive, no restart markers, one scan; PNG: not interlaced)
    cuttable: bool = False
    several: bool = False  # JPEG: whether a second image follows
    data_at: int = 0  # offset of the scan's header (JPEG) or of the first chunk of data (PNG)
    end_at: int = 0  # JPEG: offset of the end marker, ``height_at`` that of the height
    height_at: int = 0
    mcu_rows: int = 0  # JPEG: rows of pixels in one row of coding units


def read_header(data: bytes, name: str, whole: bool = True) -> ImageHeader | None:
    """Parse the header of a JPEG or PNG; None for other formats, which the decoder has to judge.

    A DataError if it is broken or, unless ``whole`` is off, the bytes end before the image.
    """
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes); expected an image.")
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data, name, whole)
        if data[:8] == PNG_SIGNATURE:
            return _png(data, name, whole)
    except (struct.error, IndexError):
        raise DataError(f"{name}: the image is truncated: its header ends after {len(data)} bytes.") from None
    return None


def _png(data: bytes, name: str, whole: bool) -> ImageHeader:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or colour not in _PNG_CHANNELS or not width or not height:
        raise DataError(f"{name}: broken PNG header.")
    if whole and not data.endswith(_PNG_END) and all(kind != b"IEND" for kind, _ in png_chunks(data)):
        raise DataError(f"{name}: the PNG is truncated: its end (IEND) is missing after {len(data)} bytes.")
    channels, seen, position = _PNG_CHANNELS[colour], set(), 8
    while data[position + 4 : position + 8] != b"IDAT":
        length, kind = struct.unpack_from(">I4s", data, position)
        seen.add(kind)
        if kind == b"tRNS":
            channels = 4 if channels == 3 else 2
        elif kind == b"acTL" and (frames := int.from_bytes(data[position + 8 : position + 12], "big")) > 1:
            raise DataError(f"{name}: holds {frames} images; expected one (for a film, give a video file).")
        elif kind == b"IEND":
            raise DataError(f"{name}: the PNG holds no image data (no IDAT).")
        position += 12 + length
    if colour == 3 and b"PLTE" not in seen:
        raise DataError(f"{name}: broken PNG header: it has a palette's colour type, but no palette (PLTE).")
    exif = next((bytes(content) for kind, content in png_chunks(data) if kind == b"eXIf"), b"")  # perhaps at the end
    orientation, bits = exif_orientation(exif), 8 if colour == 3 else bits
    return ImageHeader("png", height, width, channels, bits, orientation, cuttable=data[28] == 0, data_at=position)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of a PNG's chunks up to its end; whatever is behind that does not matter."""
    view, position, kind = memoryview(data), 8, b""
    while kind != b"IEND" and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, view[position + 8 : position + 8 + length]
        position += 12 + length


def _jpeg(data: bytes, name: str, whole: bool) -> ImageHeader:
    position, orientation, restarts, several, frame = 2, 1, False, False, None
    while True:
        if data[position] != 0xFF:
            raise DataError(f"{name}: broken JPEG: no marker at byte {position}.")
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes, markers without a body
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _SOF_MARKERS:
            frame = (marker, position + 5, *struct.unpack_from(">BHHB", data, position + 4))
            samplings = [data[position + 11 + 3 * i] for i in range(frame[5])]
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[position + 10 : position + 2 + length])
        elif marker == 0xE2 and data[position + 4 : position + 8] == b"MPF\0":
            several = True  # a second image follows the first one's end
        elif marker == 0xDD:
            restarts = struct.unpack_from(">H", data, position + 4)[0] > 0
        elif marker in (0xDA, 0xD9):
            break
        position += 2 + length
    if frame is None or marker == 0xD9:
        raise DataError(f"{name}: broken JPEG: it holds no image.")
    end = data.find(b"\xff\xd9", position) if several else data.rfind(b"\xff\xd9", position)
    if whole and end < 0:
        raise DataError(f"{name}: the JPEG is truncated: its end (EOI) is missing after {len(data)} bytes.")
    kind, height_at, bits, height, width, channels = frame
    cuttable = kind in (0xC0, 0xC1) and not restarts and data[position + 4] == channels
    mcu_rows = 8 * (max(sampling & 15 for sampling in samplings) if channels > 1 else 1)
    places = position, end, height_at, mcu_rows
    return ImageHeader("jpeg", height, width, channels, bits, orientation, cuttable, several, *places)


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block, 1 (upright) to 8; whatever is malformed counts as upright, as in OpenCV."""
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(0x0112, 1)
    except Exception:  # Pillow raises many kinds for broken blocks
        return 1
    return value if value in range(1, 9) else 1
