"""Picture files, with all that a restored picture keeps: depth, alpha, orientation, EXIF, colour profile."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from unirain_plugin.data.image_header import PNG_SIGNATURE, other_orientation, read_header
from unirain_plugin.errors import DataError
from unirain_plugin.toolbox import replaced

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
FORMATS = ("keep", "png", "jpg", "webp", "tif")
"""What ``--format`` accepts; ``keep`` writes the format that was read."""

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIXTEEN_BITS = (".png", ".tif", ".tiff")
_EXIF_AND_PROFILE = (".png", ".jpg", ".jpeg", ".webp")
_LIMIT_LOCK = threading.Lock()
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Picture:
    """A decoded picture, turned upright.

    Attributes:
        pixels: ``(H, W, C)`` uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        orientation: EXIF orientation (1 to 8) of the stored file; ``pixels`` are upright whatever it is.
        exif: The EXIF block, orientation included, or None.
        profile: The ICC colour profile, or None.
    """

    pixels: np.ndarray
    orientation: int = 1
    exif: bytes | None = None
    profile: bytes | None = None

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        """The same picture with other (upright) pixels."""
        return replace(self, pixels=pixels.reshape(*pixels.shape[:2], -1))


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture.

    Raises:
        DataError: If it is missing, empty, truncated, broken, or of a kind that cannot be restored (animations,
            floating-point pictures, unknown formats).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    header = read_header(data, str(path))
    exif = profile = None
    is_tiff = data[:4] in _TIFF_SIGNATURES
    # Both decoders turn TIFF files upright by themselves.
    orientation = header.orientation if header else 1 if is_tiff else other_orientation(data)
    try:
        with _LIMIT_LOCK, replaced((Image, "MAX_IMAGE_PIXELS", None)):  # its limit of 179 megapixels is for servers
            image = Image.open(io.BytesIO(data))
        with image:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise DataError(
                    f"{path}: holds {image.n_frames} pictures; expected one (for a film, give a video file)."
                )
            exif, profile = image.info.get("exif"), image.info.get("icc_profile")
            deep = (header.bits > 8) if header else _tiff_bits(image) > 8 if is_tiff else image.format == "PPM"
            if deep and is_tiff:
                profile = _check_deep_tiff(data, path)
            pixels = _decode_deep(data, path) if deep else _decode(image)
            if not deep and image.mode == "CMYK":
                profile = None  # it describes CMYK, and the pixels are RGB now
    except DataError:
        raise
    except UnidentifiedImageError:  # among them deep TIFF files
        profile = _check_deep_tiff(data, path) if is_tiff else None
        pixels = _decode_deep(data, path)
    except Exception as error:  # Pillow raises many kinds for broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decoded as a picture: {reason}.") from None
    return Picture(np.ascontiguousarray(upright(pixels, orientation)), orientation, exif, profile)


def _decode(image: Image.Image) -> np.ndarray:
    """Eight bits a channel, as Pillow decodes it: it tells truncation, where OpenCV returns half a picture."""
    transparent = "transparency" in image.info
    if image.mode in ("1", "L"):
        mode = "LA" if transparent else "L"
    elif image.mode in ("LA", "La"):
        mode = "LA"
    elif image.mode in ("RGBA", "RGBa", "PA") or transparent:
        mode = "RGBA"
    else:
        mode = "RGB"
    pixels = np.asarray(image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _tiff_bits(image: Image.Image) -> int:
    """Bits a channel of a TIFF file that Pillow has opened, at most."""
    return max(image.tag_v2.get(258, (1,)))  # BitsPerSample


def _check_deep_tiff(data: bytes, path: Path) -> bytes | None:
    """Refuse what OpenCV would silently misread; return the ICC colour profile, which it does not tell.

    Raises:
        DataError: If the file is broken, or holds grey with alpha or black as the highest value.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            kind, channels, profile = page.photometric, page.samplesperpixel, page.iccprofile
    except Exception as error:  # tifffile raises many kinds for broken files
        raise DataError(f"{path}: cannot be decoded as a TIFF picture: {error}.") from None
    if kind == tifffile.PHOTOMETRIC.MINISWHITE or channels == 2:
        what = "grey with alpha" if channels == 2 else "white as 0"
        raise DataError(
            f"{path}: holds {what} in more than 8 bits a channel, which cannot be read from TIFF; save it as PNG."
        )
    return profile


def _decode_deep(data: bytes, path: Path) -> np.ndarray:
    """More than eight bits a channel (or a format whose depth is not known), as OpenCV decodes it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded: no picture, or of an unknown format ({len(data)} bytes).")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: holds {pixels.dtype} values; expected 8 or 16 bits a channel.")
    if pixels.ndim == 2:
        return pixels[..., None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[2])
    if order is None:
        raise DataError(f"{path}: holds {pixels.shape[2]} channels; expected grey, RGB, and perhaps alpha.")
    return pixels[..., order]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels ``(H, W, C)`` upright, as EXIF orientation 1 to 8 asks."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The reverse of :func:`upright`."""
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.transpose(1, 0, 2) if orientation >= 5 else pixels


def write_picture(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write a picture atomically; the suffix chooses the format.

    PNG, JPEG and WebP keep EXIF and colour profile; where a file carries an EXIF orientation, pixels are stored turned
    as before and the tag is kept. Other formats are written upright. JPEG and WebP take 8 bits, JPEG and BMP no alpha:
    what does not fit is an error, never dropped.

    Raises:
        DataError: If the format cannot hold the picture, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    reason = why_unsuitable(suffix, picture)
    if reason:
        raise DataError(f"{path}: {reason}. Use --format png.")
    keeps = suffix in _EXIF_AND_PROFILE and picture.exif is not None and picture.orientation != 1
    pixels = as_stored(picture.pixels, picture.orientation) if keeps else picture.pixels
    pixels = np.ascontiguousarray(pixels)
    temporary = path.with_name(f".{path.stem}.tmp-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_encode(suffix, pixels, picture))
        os.replace(temporary, path)
    except (OSError, cv2.error) as error:
        raise DataError(f"{path}: cannot be written: {error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def why_unsuitable(suffix: str, picture: Picture) -> str | None:
    """Why a format cannot hold a picture, or None where it can."""
    height, width, channels = picture.pixels.shape
    if suffix not in PICTURE_SUFFIXES:
        return f"unknown picture format '{suffix}'; known: {', '.join(PICTURE_SUFFIXES)}"
    if picture.pixels.dtype == np.uint16 and suffix not in _SIXTEEN_BITS:
        return f"'{suffix}' holds 8 bits a channel, the picture has 16"
    if channels in (2, 4) and suffix in (".jpg", ".jpeg", ".ppm", ".bmp"):
        return f"'{suffix}' holds no alpha, the picture has it"
    longest = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}.get(suffix)
    if longest and max(height, width) > longest:
        return f"'{suffix}' holds at most {longest} pixels an edge, the picture is {width}×{height}"
    return None


def _encode(suffix: str, pixels: np.ndarray, picture: Picture) -> bytes:
    if pixels.dtype == np.uint16:
        return _encode_deep(suffix, pixels, picture)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    options: dict[str, object] = {}
    if suffix in _EXIF_AND_PROFILE:
        options = {"exif": picture.exif} if picture.exif else {}
        options |= {"icc_profile": picture.profile} if picture.profile else {}
    elif picture.profile and suffix in (".tif", ".tiff"):
        options = {"icc_profile": picture.profile}
    if suffix in (".jpg", ".jpeg"):
        options |= {"quality": _JPEG_QUALITY, "subsampling": 0}
    elif suffix == ".webp":
        options |= {"lossless": True}
    elif suffix in (".tif", ".tiff"):
        options |= {"compression": "tiff_lzw"}
    elif suffix == ".png":
        options |= {"compress_level": 3}
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    return buffer.getvalue()


def _encode_deep(suffix: str, pixels: np.ndarray, picture: Picture) -> bytes:
    if suffix != ".png":
        return _encode_deep_tiff(pixels, picture.profile)
    if pixels.shape[2] == 2:  # OpenCV knows no grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, data = cv2.imencode(suffix, pixels[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"OpenCV cannot encode {pixels.dtype} as {suffix}")
    return _with_png_chunks(data.tobytes(), picture)


def _encode_deep_tiff(pixels: np.ndarray, profile: bytes | None) -> bytes:
    import tifffile

    if pixels.shape[2] == 2:  # read_picture() refuses grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        photometric="rgb" if pixels.shape[2] > 1 else "minisblack",
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        compression="zlib",
        iccprofile=profile,
        metadata=None,
    )
    return buffer.getvalue()


def _with_png_chunks(data: bytes, picture: Picture) -> bytes:
    """Insert EXIF and colour profile behind the header (Pillow cannot write 16-bit colour, OpenCV no metadata)."""
    chunks = b""
    if picture.profile:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.profile))
    if picture.exif:
        chunks += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    header_end = len(PNG_SIGNATURE) + 25
    return data[:header_end] + chunks + data[header_end:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def side_by_side(before: Picture, after: Picture) -> Picture:
    """Both pictures beside each other, upright, with a white line of 8 pixels between; for a look, so without EXIF."""
    height, _, channels = before.pixels.shape
    line = np.full((height, 8, channels), np.iinfo(before.pixels.dtype).max, before.pixels.dtype)
    return Picture(np.concatenate([before.pixels, line, after.pixels], axis=1), profile=before.profile)
