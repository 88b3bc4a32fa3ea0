"""From bytes to uint8 BGR pixels: checked, only as many rows as the crop needs, pixels as OpenCV gives them.

Of damage that a decoder papers over (a JPEG whose middle is destroyed still "decodes", with grey patches) libjpeg tells
on the process's standard error only, so that is what :func:`decode_strictly` watches.
"""

import os
import re
import sys
import tempfile
from collections.abc import Collection

import cv2
import numpy as np

from unirain_plugin.data.image_decode import decode_samples
from unirain_plugin.data.image_header import ImageHeader, check_pixels, read_header
from unirain_plugin.data.partial_decode import RowIndex, decode_part
from unirain_plugin.errors import DataError

CONVERSIONS = ("grey", "alpha", "depth16", "cmyk", "exif")
"""What may be converted to 8-bit BGR on request, as OpenCV does it; without a request each is an error."""

_REMEDY = {
    "grey": "is grey, expected 3 colour channels",
    "alpha": "has an alpha channel, expected 3 colour channels",
    "depth16": "has more than 8 bits a channel, expected 8",
    "cmyk": "is CMYK, expected RGB",
    "exif": "is marked as rotated by its EXIF orientation, expected upright pixels",
}


def image_shape(data: bytes | memoryview, name: str) -> tuple[int, int, int]:
    """(height, width, channels) as decoded, of a JPEG or PNG from what its headers say; else DataError."""
    try:
        header = read_header(bytes(data), name, whole=False)
    except DataError:
        header = None
    if header is None:
        image = EncodedImage(bytes(data), name, CONVERSIONS)
        return image.height, image.width, 3
    size = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
    return *size, header.channels


class EncodedImage:
    """An image file's bytes, its header checked, nothing decoded yet (formats other than JPEG and PNG: decoded)."""

    def __init__(
        self,
        data: bytes | memoryview,
        name: str,
        convert: Collection[str] = (),
        max_pixels: int | None = None,
        index: RowIndex | None = None,
    ) -> None:
        """Check the bytes; a DataError if they are broken, too large, of a kind not accepted, or not the index's.

        ``convert``: what of :data:`CONVERSIONS` to accept; ``max_pixels``: None for the process's limit; ``index``:
        where rows can be entered: with it only the parts of ``data`` that are needed are looked at.
        """
        self.data, self.name, self.convert, self.index = data, name, convert, index
        self.header: ImageHeader | None = index.header(data, name) if index else read_header(data, name)
        self._pixels: np.ndarray | None = None
        if self.header is None:
            self._pixels = self._decode_other(max_pixels)
            self.height, self.width = self._pixels.shape[:2]
            return
        check_pixels(self.header.height, self.header.width, name, max_pixels)
        channels, orientation = self.header.channels, self.header.orientation
        is_cmyk = self.header.format == "jpeg" and channels == 4
        self._accept(channels, is_cmyk, self.header.bits > 8, orientation)
        size = self.header.height, self.header.width
        self.height, self.width = size if orientation < 5 else size[::-1]

    def decode(self) -> np.ndarray:
        """Decode the whole image to uint8 BGR (H, W, 3)."""
        if self._pixels is None:
            try:
                self._pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), cv2.IMREAD_COLOR)
            except cv2.error as error:
                raise DataError(f"{self.name}: the image cannot be decoded: {error.err or error}.") from None
            if self._pixels is None:
                found = f"{len(self.data)} bytes, unknown or broken"
                raise DataError(f"{self.name}: the image cannot be decoded ({found}).")
            if self._pixels.shape[:2] != (self.height, self.width):
                found = "×".join(map(str, self._pixels.shape[:2]))
                raise DataError(f"{self.name}: broken image: its header says {self.height}×{self.width}, but it "
                                f"decodes to {found} (height × width).")  # fmt: skip
        return self._pixels

    def decode_rows(self, stop: int, start: int = 0) -> np.ndarray:
        """Decode the rows from ``start`` up to ``stop``, or the lower end, perhaps more: those of :meth:`decode`."""
        stop = min(stop, self.height)
        if self._pixels is None and self.header is not None:
            image = decode_part(self.data, self.header, self.index, start, stop, self.name)
            if image is not None and image.shape[0] >= stop - start and image.shape[1] == self.width:
                return image
        return self.decode()[start:]  # which tells what is wrong, if something is

    def _accept(self, channels: int, is_cmyk: bool, is_deep: bool, orientation: int) -> None:
        alpha = channels in (2, 4) and not is_cmyk
        kinds = {"cmyk": is_cmyk, "grey": channels < 3, "alpha": alpha, "depth16": is_deep, "exif": orientation != 1}
        for kind, found in kinds.items():
            if found and kind not in self.convert:
                raise DataError(f"{self.name}: the image {_REMEDY[kind]}. Convert the file, or accept OpenCV's "
                                f"conversion with the option convert: [{kind}].")  # fmt: skip

    def _decode_other(self, max_pixels: int | None) -> np.ndarray:
        """Decode a format whose header is not parsed here; its kind is judged from what comes out."""
        samples = decode_samples(self.data, self.name, max_pixels)
        pixels, channels = samples.pixels, samples.pixels.shape[2]
        self._accept(channels, samples.cmyk, pixels.dtype != np.uint8, samples.orientation)
        if pixels.dtype != np.uint8:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        bgr = pixels[..., [0, 0, 0]] if channels < 3 else pixels[..., [2, 1, 0]]
        return np.ascontiguousarray(upright(bgr, samples.orientation))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels ``(H, W, C)`` upright, as EXIF orientation 1 to 8 asks."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


# A few bytes too many before the end marker are an old habit of some cameras; many are the rest of a lost image.
_HARMLESS = r"[^\n]* \d extraneous bytes before marker 0xd9"
_DAMAGE = re.compile(rf"^(?!{_HARMLESS}).*(Corrupt JPEG data|Premature end|Invalid SOS).*$", re.M)


def decode_strictly(data: bytes, name: str, convert: Collection[str] = ()) -> EncodedImage:
    """Decode a whole image; bad in any way that the header or the decoder's warnings tell, it is a DataError."""
    image = EncodedImage(data, name, convert)
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)  # where C libraries write
        try:
            image.decode()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    damage = _DAMAGE.search(text)
    if damage:
        raise DataError(f"{name}: the image is damaged: {damage[0].strip()}.")
    return image
