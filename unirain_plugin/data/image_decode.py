"""Any image file to the samples that are stored in it: the decoder that reads each kind right, or a refusal."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError, features

from unirain_plugin.data.image_header import ImageHeader, check_pixels, exif_orientation, read_header
from unirain_plugin.data.partial_decode import inflated
from unirain_plugin.errors import DataError

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(["AVIF"] * features.check("avif")))
"""What Pillow may take a file for; others run programs (EPS) or have several meanings."""


@dataclass(frozen=True)
class Samples:
    """A decoded image as stored: ``(H, W, C)`` uint8 or uint16, C 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    Alpha is straight. To be turned by EXIF's ``orientation``, 1 (upright) to 8; ``cmyk``: whether it was CMYK.
    """

    pixels: np.ndarray
    orientation: int = 1
    cmyk: bool = False


_lock, _bounds = threading.Lock(), []


@contextmanager
def _bound_lifted() -> Iterator[None]:
    """Lift Pillow's own bound of 179 megapixels as long as any thread decodes: ours is looked at instead."""
    with _lock:
        _bounds.append(Image.MAX_IMAGE_PIXELS)  # the first is Pillow's
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            Image.MAX_IMAGE_PIXELS = _bounds.pop()  # the last to end gets the first


@contextmanager
def opened(data: bytes, name: str, limit: int | None = None) -> Iterator[Image.Image]:
    """An image as Pillow opens it, not decoded yet; whatever goes wrong with it inside becomes a DataError."""
    try:
        with _bound_lifted(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
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
    """Decode eight bits a channel; animations and other values are a DataError."""
    with opened(data, name, limit) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise DataError(f"{name}: holds {frames} images; expected one (for a film, give a video file).")
        if image.mode == "F" or image.mode.startswith("I"):
            raise DataError(f"{name}: holds {image.mode} values; expected 8 or 16 bits a channel.")
        transparent = "transparency" in image.info
        if image.format == "PNG" and image.mode == "L" and transparent:  # Pillow scales the pixels, not this
            image.info["transparency"] *= 255 // (2 ** data[24] - 1)
        alpha = transparent or image.mode in ("LA", "La", "RGBA", "RGBa", "PA")
        grey = image.mode in ("1", "L", "LA", "La")
        pixels = np.asarray(image.convert(("L" if grey else "RGB") + "A" * alpha))
        orientation, cmyk = exif_orientation(image.info.get("exif", b"")), image.mode == "CMYK"
    return Samples(pixels.reshape(*pixels.shape[:2], -1), orientation, cmyk)


_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_DEEP_PNM = re.compile(rb"P[2356](?:(?:\s|#[^\n\r]*[\n\r])+(\d+)){3}")  # its group is the highest value


def decode_samples(data: bytes, name: str, limit: int | None = None) -> Samples:
    """Decode a whole file of at most ``limit`` pixels (None: the process's); DataError if it cannot be read right."""
    header = read_header(data, name)
    if header is not None:
        check_pixels(header.height, header.width, name, limit)
        if header.bits > 8:
            return _deep_png(data, name, header)
        if header.format == "png":
            inflated(data, header, name)
        return replace(decode_with_pillow(data, name, limit), orientation=header.orientation)
    if is_tiff(data):
        from unirain_plugin.data.tiff import decode_tiff

        return decode_tiff(data, name, limit)
    top = _DEEP_PNM.match(data)
    if top and int(top[1]) > 255:
        decoded = _by_opencv(data + b"\n", name)  # it wants a character behind the last number
        return Samples(scaled(decoded, int(top[1])))
    if is_heif(data):
        return _heif(data, name, limit)
    samples = decode_with_pillow(data, name, limit)
    at = data.find(b"av1C", 0, 4096) + 6 if data[4:8] == b"ftyp" else 0  # AV1's configuration tells the bits
    depth = {0: 8, 0x40: 10, 0x60: 12}.get(data[at] & 0x60, 8) if at > 6 else 8
    return Samples(scaled(_by_opencv(data, name), 2**depth - 1), samples.orientation) if depth > 8 else samples


def is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_heif(data: bytes) -> bool:
    """Whether a file is HEIF other than AVIF, which has AV1 inside."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF and b"av1C" not in data[:4096]


def scaled(samples: np.ndarray, top: int) -> np.ndarray:
    """Values of 0 to ``top`` as all of uint8 or uint16, whichever they are."""
    full = np.iinfo(samples.dtype).max
    return samples if top == full else (samples * (full / top)).round().clip(0, full).astype(samples.dtype)


def _by_opencv(data: bytes, name: str) -> np.ndarray:
    pixels = deep_by_opencv(data)
    if pixels is None:
        raise DataError(f"{name}: the image cannot be decoded ({len(data)} bytes, broken or of an unknown kind).")
    return pixels


def deep_by_opencv(data: bytes) -> np.ndarray | None:
    """Samples of 16 bits as OpenCV decodes them, (H, W, C) with C in the order of :class:`Samples`; else None."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype != np.uint16:
        return None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]


def _deep_png(data: bytes, name: str, header: ImageHeader) -> Samples:
    """Sixteen bits, of which Pillow keeps eight; OpenCV makes grey with alpha RGB, and drops a transparent grey."""
    pixels = _by_opencv(data, name)
    if header.channels == 2 and pixels.shape[2] == 4:
        pixels = pixels[..., [0, 3]]
    elif header.channels == 2:
        at = data.index(b"tRNS") + 4
        alpha = np.where(pixels == int.from_bytes(data[at : at + 2], "big"), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], 2)
    return Samples(pixels, header.orientation)


def _heif(data: bytes, name: str, limit: int | None) -> Samples:
    heif = open_heif(data, name)
    check_pixels(heif.size[1], heif.size[0], name, limit)
    try:
        pixels = np.asarray(heif)
    except Exception as error:  # libheif's errors
        raise DataError(f"{name}: the image cannot be decoded: {error}.") from None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == np.uint16:  # in the upper bits
        depth = heif.info["bit_depth"]
        pixels = scaled(pixels >> (16 - depth), 2**depth - 1)
    if heif.mode.startswith(("RGBa", "La")):
        from unirain_plugin.data.tiff import straight

        pixels = straight(pixels)
    return Samples(pixels)  # the decoder has turned it upright


def open_heif(data: bytes, name: str) -> object:
    """A HEIF file as pillow-heif opens it, not decoded yet; DataError if broken, or pillow-heif is missing."""
    try:
        import pillow_heif
    except ImportError:
        raise DataError(f"{name}: HEIC images need pillow-heif: pip install 'unirain_plugin[heif]'.") from None
    try:
        return pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    except Exception as error:  # libheif's errors
        raise DataError(f"{name}: the image cannot be decoded: {error}.") from None
