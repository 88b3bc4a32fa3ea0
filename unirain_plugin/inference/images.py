"""Picture files, with all that a restored picture keeps: depth, alpha, and what :mod:`.metadata` reads."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unirain_plugin.data.image_decode import decode_samples
from unirain_plugin.data.images import upright
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError
from unirain_plugin.inference.metadata import PARTS, not_held, read_metadata, tiff_tags, with_png_chunks
from unirain_plugin.support.files import write_whole

FORMATS = ("keep", "png", "jpg", "webp", "tif", "avif")
"""What ``--format`` accepts; ``keep`` writes the format that was read (AVIF and HEIF: as PNG)."""

_FILE_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
    ".ppm": "PPM", ".pgm": "PPM", ".avif": "AVIF",
}  # fmt: skip
"""What can be written."""
_SIXTEEN_BITS = ("PNG", "TIFF", "PPM")
_STORED_TURNED = ("PNG", "JPEG", "WEBP", "AVIF")
_LONGEST = {"WEBP": 16383, "JPEG": 65500, "AVIF": 65536}
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "PNG": {"compress_level": 3},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture, turned upright.

    Attributes:
        pixels: ``(H, W, C)`` uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (straight).
        orientation: EXIF orientation (1 to 8) of the stored file; ``pixels`` are upright whatever it is.
        exif: The EXIF block, orientation included, or None.
        profile: The ICC colour profile, or None.
        xmp: The XMP packet, or None.
        density: Pixels an inch, across and down, or None.
        blocks: Further blocks as they stand in the source, by name (PNG: the chunk's; JPEG: ``IPTC``, ``comment``),
            which only a file of its format can take.
        lost: What reading has left behind, in words.
    """

    pixels: np.ndarray
    orientation: int = 1
    exif: bytes | None = None
    profile: bytes | None = None
    xmp: bytes | None = None
    density: tuple[float, float] | None = None
    blocks: tuple[tuple[str, bytes], ...] = ()
    lost: tuple[str, ...] = ()

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        """The same picture with other (upright) pixels."""
        return replace(self, pixels=pixels.reshape(*pixels.shape[:2], -1))


def read_picture(path: str | os.PathLike[str], max_pixels: int | None = None) -> Picture:
    """Read a picture.

    Args:
        path: The file.
        max_pixels: How many pixels to accept; None for the process's limit (:mod:`unirain_plugin.data.image_header`).

    Raises:
        DataError: If it is missing, empty, truncated, broken, too large, or of a kind that cannot be restored
            (animations, floating-point pictures, unknown formats).
    """
    name = os.fspath(path)
    data = read_file(name)
    samples = decode_samples(data, name, max_pixels)
    pixels = np.ascontiguousarray(upright(samples.pixels, samples.orientation))
    return Picture(pixels, samples.orientation, **read_metadata(data, name, samples.cmyk))


def as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The reverse of :func:`upright`."""
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.transpose(1, 0, 2) if orientation >= 5 else pixels


def write_picture(path: str | os.PathLike[str], picture: Picture) -> tuple[str, ...]:
    """Write a picture atomically; the suffix chooses the format.

    EXIF, XMP, colour profile and resolution are kept where the format can hold them, the source's other blocks in its
    own format. Where a file carries an EXIF orientation, pixels are stored turned as before and the tag is kept (TIFF
    and formats without EXIF: upright). JPEG, WebP and AVIF take 8 bits, JPEG, BMP and PPM no alpha: what does not fit
    is an error, never dropped.

    Returns:
        In words, what of the source's data beside the pixels is not in the file.

    Raises:
        DataError: If the format cannot hold the picture, or the file cannot be written.
    """
    path = Path(path)
    reason = why_unsuitable(path.suffix.lower(), picture)
    if reason:
        raise DataError(f"{path}: {reason}. Use --format png.")
    kind = _FILE_FORMATS[path.suffix.lower()]
    lost = not_held(kind, picture)
    keeps = kind in _STORED_TURNED and picture.exif is not None and picture.orientation != 1
    pixels = np.ascontiguousarray(as_stored(picture.pixels, picture.orientation) if keeps else picture.pixels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels.dtype == np.uint16 and kind == "TIFF":
            data, more = _deep_tiff(pixels, picture)
            lost += more
        else:
            data = _deep(pixels, path.suffix) if pixels.dtype == np.uint16 else _encoded(kind, pixels, picture)
        data = with_png_chunks(data, picture) if kind == "PNG" else data
    except (OSError, ValueError, RuntimeError, cv2.error) as error:  # Pillow's are of many kinds
        raise DataError(f"{path}: cannot be written: {error}.") from error
    write_whole(path, data, sync=False)
    return lost


def why_unsuitable(suffix: str, picture: Picture) -> str | None:
    """Why a format cannot hold a picture, or None where it can."""
    height, width, channels = picture.pixels.shape
    kind = _FILE_FORMATS.get(suffix)
    if kind is None:
        return f"unknown picture format '{suffix}'; known: {', '.join(_FILE_FORMATS)}"
    if picture.pixels.dtype == np.uint16 and kind not in _SIXTEEN_BITS:
        return f"'{suffix}' holds 8 bits a channel, the picture has 16"
    if channels in (2, 4) and kind in ("JPEG", "PPM", "BMP"):
        return f"'{suffix}' holds no alpha, the picture has it"
    longest = _LONGEST.get(kind)
    if longest and max(height, width) > longest:
        return f"'{suffix}' holds at most {longest} pixels an edge, the picture is {width}×{height}"
    return None


def _encoded(kind: str, pixels: np.ndarray, picture: Picture) -> bytes:
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    options = dict(_OPTIONS.get(kind, {}))
    if kind == "TIFF":
        tags = tiff_tags(picture.exif)
        if any(tags.get_ifd(part) for part in PARTS):  # Pillow cannot compress such files
            options["compression"] = "raw"
        if picture.xmp:
            tags[700] = picture.xmp
        options |= {"exif": tags} if len(tags) else {}
    elif kind in ("JPEG", "WEBP", "AVIF"):
        options |= {name: value for name, value in (("exif", picture.exif), ("xmp", picture.xmp)) if value}
    if kind in ("TIFF", "JPEG", "WEBP", "AVIF") and picture.profile:
        options["icc_profile"] = picture.profile
    if kind in ("JPEG", "TIFF") and picture.density:
        options["dpi"] = picture.density
    if kind == "JPEG":
        options["extra"] = b"".join(body for name, body in picture.blocks if body[:1] == b"\xff")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _deep(pixels: np.ndarray, suffix: str) -> bytes:
    """Sixteen bits a channel as PNG or PPM; OpenCV knows no grey with alpha."""
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, data = cv2.imencode(suffix, pixels[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"OpenCV cannot encode {pixels.dtype} as {suffix}")
    return data.tobytes()


def _deep_tiff(pixels: np.ndarray, picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """Sixteen bits a channel as TIFF, and what is lost by it: tifffile writes no folders of EXIF tags."""
    import tifffile

    tags = tiff_tags(picture.exif)
    simple = {tag: value for tag, value in tags.items() if isinstance(value, (str, bytes))}
    extra = [(tag, "s" if isinstance(value, str) else "B", 0 if isinstance(value, str) else len(value), value, True)
             for tag, value in simple.items() if tag != 305]  # fmt: skip
    extra += [(700, "B", len(picture.xmp), picture.xmp, True)] if picture.xmp else []
    alpha = pixels.shape[2] in (2, 4)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if alpha else None,
        compression="zlib",
        iccprofile=picture.profile,
        resolution=picture.density,
        resolutionunit="INCH" if picture.density else None,
        software=simple.get(305, False),
        extratags=extra,
        metadata=None,
    )
    return buffer.getvalue(), ("a part of EXIF",) if len(simple) < len(tags) else ()


def side_by_side(before: Picture, after: Picture) -> Picture:
    """Both pictures beside each other, upright, with a white line of 8 pixels between; for a look, so without EXIF."""
    height, _, channels = before.pixels.shape
    line = np.full((height, 8, channels), np.iinfo(before.pixels.dtype).max, before.pixels.dtype)
    return Picture(np.concatenate([before.pixels, line, after.pixels], axis=1), profile=before.profile)
