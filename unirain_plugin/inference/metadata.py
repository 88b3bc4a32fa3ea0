"""What a file says of its image besides the pixels: how it is to look, and how it is found again."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

from PIL import Image

from unirain_plugin.data.image_decode import is_heif, is_tiff, open_heif, opened
from unirain_plugin.data.image_header import PNG_SIGNATURE, png_chunks

if TYPE_CHECKING:
    from unirain_plugin.inference.images import Picture

Density = tuple[float, float]

_COLOUR_CHUNKS = ("cICP", "mDCV", "cLLI", "sRGB", "gAMA", "cHRM")
_TEXT_CHUNKS = ("tEXt", "zTXt", "iTXt")
_XMP_CHUNK = b"XML:com.adobe.xmp\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_SRGB_CODES = ((1, 13), (2, 2), (1, 1), (1, 2), (2, 13))
"""Primaries and transfer curve of CICP that programs take for sRGB, which is what files without a description are."""
_ORIENTATION, _XMP, _PROFILE = 274, 700, 34675
_DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, 33723, *range(40091, 40096)}
"""TIFF tags that describe the image and not how the file stores it: names, maker, software, dates, rating, words."""
PARTS = (34665, 34853)
"""EXIF and GPS, which are folders of tags."""
_PLACES = {33550, 33922, 34264, 34735}  # GeoTIFF


def read_metadata(data: bytes, name: str, cmyk: bool = False) -> dict[str, Any]:
    """Read what a file that can be decoded says of its image, as attributes of a :class:`.Picture`.

    Args:
        data: Its bytes.
        name: Its name for error texts.
        cmyk: Whether its colours are CMYK, and have become RGB, which its profile does not describe.
    """
    found = _tiff(data) if is_tiff(data) else _heif(data, name) if is_heif(data) else _others(data, name)
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
            found["exif"] = b"Exif\0\0" + bytes(body)
        elif kind == b"iTXt" and bytes(body[: len(_XMP_CHUNK)]) == _XMP_CHUNK:
            found["xmp"] = _international_text(bytes(body))
        elif text in _COLOUR_CHUNKS or text in _TEXT_CHUNKS or (kind == b"pHYs" and body[-1] == 0):
            blocks.append((text, bytes(body)))
    return {**found, "blocks": tuple(blocks)}


def _international_text(body: bytes) -> bytes | None:
    """The text of an iTXt chunk."""
    _, _, rest = body.partition(b"\0")
    text = rest[2:].split(b"\0", 2)[-1]
    try:
        return zlib.decompress(text) if rest[:1] == b"\1" else text
    except zlib.error:
        return None


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
    if exif:
        exif = _block(_parsed(exif), upright=True)  # the decoder has turned it
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
        elif tag in PARTS:
            kept[tag] = dict(tags.get_ifd(tag))
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return {"exif": _block(kept), "profile": profile, "xmp": bytes(xmp) if xmp else None, "density": density,
            "lost": lost}  # fmt: skip


def _parsed(block: bytes) -> Image.Exif:
    """An EXIF block, or a TIFF file, as tags; none where it is broken."""
    exif = Image.Exif()
    try:
        exif.load(block)
    except Exception:  # Pillow raises many kinds for broken blocks
        return Image.Exif()
    return exif


def _block(tags: Image.Exif, upright: bool = False) -> bytes | None:
    if upright:
        tags.pop(_ORIENTATION, None)
    try:
        return tags.tobytes() if len(tags) else None
    except Exception:  # as above
        return None


def _density(dpi: object, unit: float = 1.0) -> Density | None:
    try:
        across, down = (float(value) * unit for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if across > 0 and down > 0 else None


def tiff_tags(exif: bytes | None) -> Image.Exif:
    """An EXIF block as the tags of a TIFF file that is stored upright."""
    tags = _parsed(exif) if exif else Image.Exif()
    tags.pop(_ORIENTATION, None)
    return tags


def with_png_chunks(data: bytes, kept: Picture) -> bytes:
    """Insert what is kept behind a PNG's header (Pillow orders colour chunks by itself, OpenCV writes none)."""
    chunks = [(name, body) for name, body in kept.blocks if name in _COLOUR_CHUNKS]
    if kept.profile:
        chunks = [(name, body) for name, body in chunks if name != "sRGB"]
        chunks.append(("iCCP", b"ICC Profile\0\0" + zlib.compress(kept.profile)))
    if kept.density:
        chunks.append(("pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in kept.density), 1)))
    if kept.exif:
        chunks.append(("eXIf", kept.exif.removeprefix(b"Exif\0\0")))
    if kept.xmp:
        chunks.append(("iTXt", _XMP_CHUNK + b"\0\0\0\0" + kept.xmp))
    chunks += [(name, body) for name, body in kept.blocks if name in (*_TEXT_CHUNKS, "pHYs")]
    behind = len(PNG_SIGNATURE) + 25
    return data[:behind] + b"".join(_chunk(name.encode(), body) for name, body in chunks) + data[behind:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


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


def not_held(file_format: str, kept: Picture) -> tuple[str, ...]:
    """What a file of a format cannot take, in words, with what reading has left behind."""
    there = [name for name in ("exif", "profile", "xmp", "density") if getattr(kept, name)]
    there += [name for name, _ in kept.blocks]
    missing = [_NAMES.get(name, name) for name in there if name not in _HOLDS.get(file_format, {"sRGB"})]
    return tuple(dict.fromkeys([*kept.lost, *missing]))
