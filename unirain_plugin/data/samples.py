"""Decoding with Pillow, and what comes out of any decoder before something is dropped or converted."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from unirain_plugin.data.image_header import exif_orientation
from unirain_plugin.data.image_limit import check_pixels
from unirain_plugin.errors import DataError

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] * features.check("avif")))
"""What Pillow may take a file for; others run programs (EPS) or have several meanings."""


@dataclass(frozen=True)
class Samples:
    """A decoded image as stored.

    Attributes:
        pixels: ``(H, W, C)`` uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (straight).
        orientation: How they are to be turned, EXIF's 1 (upright already) to 8.
        cmyk: Whether they were CMYK in the file.
    """

    pixels: np.ndarray
    orientation: int = 1
    cmyk: bool = False


class _PixelBound:
    """Pillow's own bound of 179 megapixels, lifted as long as any thread decodes: ours is looked at instead."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    Image.MAX_IMAGE_PIXELS = self._before


_BOUND = _PixelBound()


@contextmanager
def opened(data: bytes, name: str, limit: int | None = None) -> Iterator[Image.Image]:
    """An image as Pillow opens it, not decoded yet; whatever goes wrong with it inside becomes a clear error.

    Raises:
        DataError: If it is broken, too large or of an unknown format.
    """
    try:
        with _BOUND.lifted(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_pixels(image.height, image.width, name, limit)
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name}: cannot be decoded: no image, or of an unknown format ({len(data)} bytes).") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: the image cannot be decoded: {reason}.") from None


def decode_with_pillow(data: bytes, name: str, limit: int | None = None) -> Samples:
    """Decode eight bits a channel.

    Raises:
        DataError: As :func:`opened`, and for animations and values that are no 8 bits.
    """
    with opened(data, name, limit) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise DataError(f"{name}: holds {frames} pictures; expected one (for a film, give a video file).")
        if image.mode == "F" or image.mode.startswith("I"):
            raise DataError(f"{name}: holds {image.mode} values; expected 8 or 16 bits a channel.")
        transparent = "transparency" in image.info
        if image.format == "PNG" and image.mode == "L" and transparent:  # Pillow scales the pixels, not this
            image.info["transparency"] *= 255 // (2 ** data[24] - 1)
        if image.mode in ("1", "L"):
            mode = "LA" if transparent else "L"
        elif image.mode in ("LA", "La"):
            mode = "LA"
        elif image.mode in ("RGBA", "RGBa", "PA") or transparent:
            mode = "RGBA"
        else:
            mode = "RGB"
        pixels, orientation = np.asarray(image.convert(mode)), exif_orientation(image.info.get("exif", b""))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return Samples(pixels, orientation, image.mode == "CMYK")
