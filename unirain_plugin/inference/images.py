"""Image files with all that a restored image keeps: depth, alpha, how it is to look, and how it is found again."""

import io
import os
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unirain_plugin.data.image_decode import decode_samples, is_heif, is_tiff, open_heif, opened
from unirain_plugin.data.image_header import PNG_SIGNATURE, png_chunks
from unirain_plugin.data.images import upright
from unirain_plugin.data.pairs import read_file
from unirain_plugin.data.partial_decode import png_chunk
from unirain_plugin.errors import DataError
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
_SEGMENT = {"exif": 65533, "xmp": 65504}
"""Bytes that JPEG holds of them."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},  # colours that nobody sees, too
    "TIFF": {"compression": "tiff_lzw"},
    "PNG": {"compress_level": 3},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}


@dataclass(frozen=True)
class StoredImage:
    """A decoded image, turned upright."""

    pixels: np.ndarray  # (H, W, C) uint8 or uint16; C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (straight)
    orientation: int = 1  # EXIF orientation (1 to 8) of the stored file; ``pixels`` are upright whatever it is
    exif: bytes | None = None  # orientation included
    profile: bytes | None = None  # ICC
    xmp: bytes | None = None
    density: tuple[float, float] | None = None  # pixels an inch, across and down
    # further blocks as they stand in the source, by name (PNG: the chunk's; JPEG: ``IPTC``, ``comment``), which only a
    # file of its format can take
    blocks: tuple[tuple[str, bytes], ...] = ()
    lost: tuple[str, ...] = ()  # what reading has left behind, in words

    def with_pixels(self, pixels: np.ndarray) -> "StoredImage":
        return replace(self, pixels=pixels.reshape(*pixels.shape[:2], -1))


def read_image(path: str | os.PathLike[str], max_pixels: int | None = None) -> StoredImage:
    """Read an image of at most ``max_pixels`` (None: the process's limit).

    A DataError if it is missing, broken, too large, or cannot be restored (animations, floats, unknown formats).
    """
    name = os.fspath(path)
    data = read_file(name)
    samples = decode_samples(data, name, max_pixels)
    pixels = np.ascontiguousarray(upright(samples.pixels, samples.orientation))
    return StoredImage(pixels, samples.orientation, **read_metadata(data, name, samples.cmyk))


def as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The reverse of :func:`upright`: all but the quarter turns are their own."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def write_image(path: str | os.PathLike[str], image: StoredImage) -> tuple[str, ...]:
    """Write an image atomically; the suffix chooses the format. Returns what of the source's data is not in it.

    EXIF, XMP, colour profile and resolution are kept where the format can hold them, the source's other blocks in its
    own. A file with an EXIF orientation is stored turned as before (TIFF: upright). JPEG, WebP and AVIF take 8 bits,
    JPEG, BMP and PPM no alpha: what does not fit is a DataError, never dropped.
    """
    path = Path(path)
    reason = why_unsuitable(path.suffix.lower(), image)
    if reason:
        raise DataError(f"{path}: {reason}. Use --format png.")
    kind = _FILE_FORMATS[path.suffix.lower()]
    if kind == "JPEG":
        long = [name for name, most in _SEGMENT.items() if len(getattr(image, name) or b"") > most]
        lost = (*image.lost, *(f"{_NAMES[name]} (too long for JPEG)" for name in long))
        image = replace(image, lost=lost, **dict.fromkeys(long))
    there = [name for name in ("exif", "profile", "xmp", "density") if getattr(image, name)]
    there += [name for name, _ in image.blocks]
    missing = [_NAMES.get(name, name) for name in there if name not in _HOLDS.get(kind, {"sRGB"})]
    lost = tuple(dict.fromkeys([*image.lost, *missing]))
    keeps = kind in _STORED_TURNED and image.exif is not None and image.orientation != 1
    pixels = np.ascontiguousarray(as_stored(image.pixels, image.orientation) if keeps else image.pixels)
    try:
        if pixels.dtype == np.uint16 and kind == "TIFF":
            data, more = _deep_tiff(pixels, image)
            lost += more
        else:
            data = _encoded(kind, pixels, image)
        data = with_png_chunks(data, image) if kind == "PNG" else data
    except (OSError, ValueError, RuntimeError, cv2.error) as error:  # Pillow's are of many kinds
        raise DataError(f"{path}: cannot be written: {error}.") from error
    write_whole(path, data, sync=False)
    return lost


def why_unsuitable(suffix: str, image: StoredImage) -> str | None:
    height, width, channels = image.pixels.shape
    kind = _FILE_FORMATS.get(suffix)
    if kind is None:
        return f"unknown image format '{suffix}'; known: {', '.join(_FILE_FORMATS)}"
    if image.pixels.dtype == np.uint16 and kind not in _SIXTEEN_BITS:
        return f"'{suffix}' holds 8 bits a channel, the image has 16"
    if channels in (2, 4) and kind in ("JPEG", "PPM", "BMP"):
        return f"'{suffix}' holds no alpha, the image has it"
    longest = _LONGEST.get(kind)
    if longest and max(height, width) > longest:
        return f"'{suffix}' holds at most {longest} pixels an edge, the image is {width}×{height}"
    return None


def _encoded(kind: str, pixels: np.ndarray, image: StoredImage) -> bytes:
    if pixels.dtype == np.uint16 and kind == "PPM":
        height, width, channels = pixels.shape
        return b"P%d\n%d %d\n65535\n" % (6 if channels == 3 else 5, width, height) + pixels.astype(">u2").tobytes()
    if pixels.dtype == np.uint16:  # OpenCV knows no grey with alpha
        order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        return cv2.imencode(".png", pixels[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    options = dict(_OPTIONS.get(kind, {}))
    if kind == "TIFF":
        tags = tiff_tags(image.exif)
        if any(tags.get_ifd(part) for part in _PARTS):  # Pillow cannot compress such files
            options["compression"] = "raw"
        if image.xmp:
            tags[700] = image.xmp
        options |= {"exif": tags} if len(tags) else {}
    elif kind in ("JPEG", "WEBP", "AVIF"):
        options |= {name: value for name, value in (("exif", image.exif), ("xmp", image.xmp)) if value}
    if kind in ("TIFF", "JPEG", "WEBP", "AVIF") and image.profile:
        options["icc_profile"] = image.profile
    if kind in ("JPEG", "TIFF") and image.density:
        options["dpi"] = image.density
    if kind == "JPEG":
        options["extra"] = b"".join(body for name, body in image.blocks if body[:1] == b"\xff")
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _deep_tiff(pixels: np.ndarray, image: StoredImage) -> tuple[bytes, tuple[str, ...]]:
    """Sixteen bits a channel as TIFF, and what is lost by it: tifffile writes no folders of EXIF tags."""
    import tifffile

    tags = tiff_tags(image.exif)
    simple = {tag: value for tag, value in tags.items() if isinstance(value, (str, bytes))}
    extra = [(tag, "s" if isinstance(value, str) else "B", 0 if isinstance(value, str) else len(value), value, True)
             for tag, value in simple.items() if tag != 305]  # fmt: skip
    extra += [(700, "B", len(image.xmp), image.xmp, True)] if image.xmp else []
    channels = pixels.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=image.profile,
        resolution=image.density,
        resolutionunit="INCH" if image.density else None,
        software=simple.get(305, False),
        extratags=extra,
        metadata=None,
    )
    return buffer.getvalue(), ("a part of EXIF",) if len(simple) < len(tags) else ()


def side_by_side(before: StoredImage, after: StoredImage) -> StoredImage:
    """Both images beside each other, upright, with a white line of 8 pixels between; for a look, so without EXIF."""
    height, _, channels = before.pixels.shape
    line = np.full((height, 8, channels), np.iinfo(before.pixels.dtype).max, before.pixels.dtype)
    return StoredImage(np.concatenate([before.pixels, line, after.pixels], axis=1), profile=before.profile)


_COLOUR_CHUNKS = ("cICP", "mDCV", "cLLI", "sRGB", "gAMA", "cHRM")
_TEXT_CHUNKS = ("tEXt", "zTXt", "iTXt")
_XMP_CHUNK = b"XML:com.adobe.xmp\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_SRGB_CODES = ((1, 13), (2, 2), (1, 1), (1, 2), (2, 13))
"""Primaries and transfer curve of CICP that programs take for sRGB, which is what files without a description are."""
_EXIF = b"Exif\0\0"
_ORIENTATION, _XMP, _PROFILE = 274, 700, 34675
_DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 33723, *range(40091, 40096)}
"""TIFF tags that describe the image and not how the file stores it: names, maker, software, dates, rating, words."""
_PARTS = (34665, 34853)  # EXIF and GPS, which are folders of tags
_PLACES = {33550, 33922, 34264, 34735}  # GeoTIFF


def read_metadata(data: bytes, name: str, cmyk: bool = False) -> dict[str, Any]:
    """Read what a file that can be decoded says of its image, as attributes of a :class:`StoredImage`.

    ``cmyk``: whether its colours are CMYK, and have become RGB, which its profile does not describe.
    """
    found = _tiff(data) if is_tiff(data) else _heif(data, name) if is_heif(data) else _others(data, name)
    if found["exif"] and not found["exif"].startswith(_EXIF):  # as WebP has it by its standard
        found["exif"] = _EXIF + found["exif"]
    if cmyk:
        found["profile"] = None
        found["lost"] = (*found.get("lost", ()), "CMYK colours (they are RGB now)")
    return found


def _others(data: bytes, name: str) -> dict[str, Any]:
    with opened(data, name) as image:
        info = image.info
        found: dict[str, Any] = {"exif": info.get("exif"), "profile": info.get("icc_profile"), "xmp": info.get("xmp"),
                                 "density": _density(info.get("dpi"))}  # fmt: skip
        if image.format in ("JPEG", "MPO"):
            segments = [(kind, body) for kind, body in image.applist if kind == "APP13" or body.startswith(_XMP_MORE)]
            blocks = [("IPTC" if kind == "APP13" else "XMP (extension)", _segment(kind, body))
                      for kind, body in segments]  # fmt: skip
            comment = info.get("comment")
            found["blocks"] = (*blocks, *([("comment", _segment("COM", comment))] if comment else []))
            further = getattr(image, "n_frames", 1) - 1
            found["lost"] = (f"{further} further image(s) in the file",) if further else ()
        elif image.format == "PNG":
            found |= _png(data)
        elif image.format == "AVIF":
            found["blocks"] = _coding(data)
    return found


def _segment(kind: str, body: bytes) -> bytes:
    marker = {"COM": 0xFE, "APP1": 0xE1, "APP13": 0xED}[kind]
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _png(data: bytes) -> dict[str, Any]:
    blocks, found = [], {}
    for kind, body in png_chunks(data):
        text = kind.decode("latin-1")
        if kind == b"eXIf":
            found["exif"] = bytes(body)
        elif kind == b"iTXt" and bytes(body[: len(_XMP_CHUNK)]) == _XMP_CHUNK:
            _, _, rest = bytes(body).partition(b"\0")
            text = rest[2:].split(b"\0", 2)[-1]
            with suppress(zlib.error):
                found["xmp"] = zlib.decompress(text) if rest[:1] == b"\1" else text
        elif text in _COLOUR_CHUNKS or text in _TEXT_CHUNKS or (kind == b"pHYs" and body[-1] == 0):
            blocks.append((text, bytes(body)))
    return {**found, "blocks": tuple(blocks)}


def _coding(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """The colours that an AVIF or HEIF file declares as numbers, as PNG's chunk, unless they are sRGB's."""
    found = re.search(rb"colrnclx(..)(..)..", data[:65536], re.DOTALL)
    if not found:
        return ()
    primaries, transfer = (int.from_bytes(code, "big") for code in found.groups())
    if (primaries, transfer) in _SRGB_CODES or max(primaries, transfer) > 255:
        return ()
    return (("cICP", bytes([primaries, transfer, 0, 1])),)


def _heif(data: bytes, name: str) -> dict[str, Any]:
    heif = open_heif(data, name)
    exif = heif.info.get("exif")
    exif = exif and _block(tiff_tags(exif))  # the decoder has turned it
    further = len(heif) - 1
    lost = (f"{further} further image(s) in the file",) if further else ()
    return {"exif": exif, "profile": heif.info.get("icc_profile"), "xmp": heif.info.get("xmp"),
            "blocks": _coding(data), "lost": lost}  # fmt: skip


def _tiff(data: bytes) -> dict[str, Any]:
    """The tags of a TIFF file that describe the image, as an EXIF block."""
    tags = _parsed(data)
    unit = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    density = _density((tags.get(282), tags.get(283)), unit) if unit else None
    profile, xmp = tags.get(_PROFILE), tags.get(_XMP)
    lost = ("its place on the map (GeoTIFF)",) if _PLACES & set(tags) else ()
    kept = Image.Exif()
    for tag in tags:
        if tag in _DESCRIPTIVE and not str(tags[tag]).startswith('{"shape":'):  # tifffile's note on the arrangement
            kept[tag] = tags[tag]
        elif tag in _PARTS:
            kept[tag] = dict(tags.get_ifd(tag))
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return {"exif": _block(kept), "profile": profile, "xmp": bytes(xmp) if xmp else None, "density": density,
            "lost": lost}  # fmt: skip


def _parsed(block: bytes | None) -> Image.Exif:
    """An EXIF block, or a TIFF file, as tags; none where it is broken."""
    exif = Image.Exif()
    try:
        exif.load(block or b"")
    except Exception:  # Pillow raises many kinds for broken blocks
        return Image.Exif()
    return exif


def _block(tags: Image.Exif) -> bytes | None:
    try:
        return tags.tobytes() if len(tags) else None
    except Exception:  # as above
        return None


def _density(dpi: object, unit: float = 1.0) -> tuple[float, float] | None:
    try:
        across, down = (float(value) * unit for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if across > 0 and down > 0 else None


def tiff_tags(exif: bytes | None) -> Image.Exif:
    """An EXIF block as the tags of a TIFF file that is stored upright."""
    tags = _parsed(exif)
    tags.pop(_ORIENTATION, None)
    return tags


def with_png_chunks(data: bytes, kept: StoredImage) -> bytes:
    """Insert what is kept behind a PNG's header (Pillow orders colour chunks by itself, OpenCV writes none)."""
    chunks = [(name, body) for name, body in kept.blocks if name in _COLOUR_CHUNKS]
    if kept.profile:
        chunks = [(name, body) for name, body in chunks if name != "sRGB"]
        chunks.append(("iCCP", b"ICC Profile\0\0" + zlib.compress(kept.profile)))
    if kept.density:
        chunks.append(("pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in kept.density), 1)))
    if kept.exif:
        chunks.append(("eXIf", kept.exif.removeprefix(_EXIF)))
    if kept.xmp:
        chunks.append(("iTXt", _XMP_CHUNK + b"\0\0\0\0" + kept.xmp))
    chunks += [(name, body) for name, body in kept.blocks if name in (*_TEXT_CHUNKS, "pHYs")]
    behind = len(PNG_SIGNATURE) + 25
    return data[:behind] + b"".join(png_chunk(name.encode(), body) for name, body in chunks) + data[behind:]


_HOLDS = {
    "PNG": {"exif", "profile", "xmp", "density", *_COLOUR_CHUNKS, *_TEXT_CHUNKS, "pHYs"},
    "JPEG": {"exif", "profile", "xmp", "density", "IPTC", "comment", "XMP (extension)", "sRGB"},
    "WEBP": {"exif", "profile", "xmp", "sRGB"},
    "AVIF": {"exif", "profile", "xmp", "sRGB"},
    "TIFF": {"exif", "profile", "xmp", "density", "sRGB"},
}
_NAMES = {"exif": "EXIF", "profile": "the colour profile", "xmp": "XMP", "density": "the resolution",
          "pHYs": "the shape of pixels", **{name: f"the colour description ({name})" for name in _COLOUR_CHUNKS},
          **dict.fromkeys(_TEXT_CHUNKS, "texts")}  # fmt: skip
