"""Image files of every container, depth, kind of colour, alpha and order of samples, with the values they stand for."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 21, 40
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
COLOURS = np.stack([60 + 3 * _X, 80 + 5 * _Y, 120 + _X + _Y], 2).astype(np.uint8)
ALPHA = (100 + 7 * _Y).astype(np.uint8)[..., None]


def deep(values):
    return values.astype(np.uint16) * 257


def png(bits, colour, rows, chunks=(), size=(WIDTH, HEIGHT)):
    """A PNG of packed rows, each with its filter byte in front."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, **options):
    """A TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def _packed(values, bits):
    """Rows of values below 2**bits, (H, W, C), as PNG packs them."""
    if bits >= 8:
        return [row.astype(f">u{bits // 8}").tobytes() for row in values]
    flags = np.unpackbits(values.astype(np.uint8).reshape(HEIGHT, -1, 1), axis=2)[..., 8 - bits :]
    return [row.tobytes() for row in np.packbits(flags.reshape(HEIGHT, -1), axis=1)]


def png_cells():
    grey = COLOURS[..., :1]
    for bits in (1, 2, 4, 8, 16):
        top = 2**bits - 1
        values = grey.astype(int) % (top + 1) if bits < 8 else grey if bits == 8 else deep(grey)
        straight = np.round(values * (255 / top)) if bits < 8 else values
        yield f"png-grey-{bits}", png(bits, 0, _packed(values, bits)), straight
        clear = int(values[3, 5, 0])
        full = 65535 if bits == 16 else 255
        alpha = np.where(values == clear, 0, full)
        data = png(bits, 0, _packed(values, bits), [(b"tRNS", struct.pack(">H", clear))])
        yield f"png-grey-{bits}-transparent", data, np.concatenate([straight, alpha], 2)
        if bits <= 8:
            palette = np.stack([np.arange(top + 1) * 7 % 256, np.arange(top + 1) * 31 % 256, np.arange(top + 1)], 1)
            table = (b"PLTE", palette.astype(np.uint8).tobytes())
            yield f"png-palette-{bits}", png(bits, 3, _packed(values, bits), [table]), palette[values[..., 0]]
            alphas = np.arange(top + 1) * 3 % 256
            data = png(bits, 3, _packed(values, bits), [table, (b"tRNS", alphas.astype(np.uint8).tobytes())])
            rgba = np.concatenate([palette[values[..., 0]], alphas[values]], 2)
            yield f"png-palette-{bits}-transparent", data, rgba
    for bits, scale in ((8, lambda v: v), (16, deep)):
        for colour, base in ((4, [grey, ALPHA]), (2, [COLOURS]), (6, [COLOURS, ALPHA])):
            values = scale(np.concatenate(base, 2))
            yield f"png-colour{colour}-{bits}", png(bits, colour, _packed(values, bits)), values
        values = scale(COLOURS)
        clear = values[2, 3]
        alpha = np.where((values == clear).all(2, keepdims=True), 0, 2**bits - 1)
        data = png(bits, 2, _packed(values, bits), [(b"tRNS", clear.astype(">u2").tobytes())])
        yield f"png-rgb-{bits}-transparent", data, np.concatenate([values, alpha], 2)


def tiff_cells():
    """What tifffile writes; the values are those that are written."""
    kinds = {"rgb": COLOURS, "minisblack": COLOURS[..., :1], "miniswhite": COLOURS[..., :1],
             "separated": np.concatenate([COLOURS, COLOURS[..., :1] // 2], 2)}  # fmt: skip
    extras = {"": None, "-straight": "unassalpha", "-premultiplied": "assocalpha", "-unspecified": "unspecified"}
    for bits, (kind, base), (suffix, extra) in product((8, 16), kinds.items(), extras.items()):
        scale = deep if bits == 16 else lambda values: values
        full, colours, alpha = 2**bits - 1, scale(base), scale(ALPHA)
        stored = np.round(colours * (alpha / full)).astype(colours.dtype) if extra == "assocalpha" else colours
        stored = np.concatenate([stored, alpha], 2) if extra else stored
        straight = full - colours if kind == "miniswhite" else colours
        if kind == "separated":
            straight = np.asarray(Image.fromarray(base, "CMYK").convert("RGB"))
        straight = np.concatenate([straight, alpha], 2) if extra else straight
        refused = extra == "unspecified" or (kind == "separated" and (bits == 16 or extra))
        refused = refused or (kind == "miniswhite" and extra == "assocalpha")
        for planar, tile, code in product((False, True), (None, (16, 16)), (None, "zlib", "lzma")):
            if planar and stored.shape[2] == 1:
                continue
            options = {"photometric": kind, "tile": tile, "compression": code}
            options |= {"planarconfig": "separate" if planar else "contig"} if stored.shape[2] > 1 else {}
            options |= {"extrasamples": [extra]} if extra else {}
            options |= {"rowsperstrip": 5} if tile is None else {}
            options |= {"byteorder": ">"} if code is None else {}
            order = "planar" if planar else "contig"
            name = f"tiff-{kind}-{bits}{suffix}-{order}-{'tiles' if tile else 'strips'}-{code}"
            layers = np.moveaxis(stored, 2, 0) if planar else stored
            data = tiff(layers[..., 0] if layers.shape[-1] == 1 else layers, **options)
            yield name, data, None if refused else straight
    index = COLOURS[..., 0]
    table = np.stack([np.arange(256) * step % 256 * 257 for step in (7, 31, 1)]).astype(np.uint16)
    yield "tiff-palette-8", tiff(index, photometric="palette", colormap=table), (table.T >> 8)[index]


def pillow_cells():
    """What Pillow (with libtiff, libwebp, libjpeg) writes without loss, or with little."""
    images = {"1": Image.fromarray(COLOURS[..., 0] > 120), "L": Image.fromarray(COLOURS[..., 0])}
    images |= {"LA": Image.fromarray(np.concatenate([COLOURS[..., :1], ALPHA], 2), "LA")}
    images |= {"RGB": Image.fromarray(COLOURS), "RGBA": Image.fromarray(np.concatenate([COLOURS, ALPHA], 2), "RGBA")}
    images |= {"P": Image.fromarray(COLOURS).quantize(50), "CMYK": Image.fromarray(COLOURS).convert("CMYK")}
    kinds = {"TIFF": images, "WEBP": ["L", "RGB", "RGBA"], "BMP": ["1", "L", "RGB", "P"]}
    kinds |= {"PPM": ["1", "L", "RGB"], "JPEG": ["L", "RGB", "CMYK"], "AVIF": ["L", "RGB", "RGBA"]}
    coded = {"TIFF": [{"compression": code} for code in ("raw", "tiff_lzw", "tiff_adobe_deflate")]}
    coded |= {"WEBP": [{"lossless": True, "exact": True}], "JPEG": [{"quality": 100, "subsampling": 0}]}
    coded |= {"AVIF": [{"quality": 100, "subsampling": "4:4:4"}]}
    for kind, modes in kinds.items():
        for mode in modes:
            for options in coded.get(kind, [{}]):
                file = io.BytesIO()
                images[mode].save(file, kind, **options)
                known = images[mode] if kind not in ("JPEG", "AVIF") else Image.open(io.BytesIO(file.getvalue()))
                plain = {"1": "L", "P": "RGB", "CMYK": "RGB", "L": "RGB" if kind == "WEBP" else "L"}.get(
                    known.mode, known.mode
                )
                values = np.asarray(known.convert(plain)).reshape(HEIGHT, WIDTH, -1)
                yield f"{kind.lower()}-{mode}-{options.get('compression', '')}", file.getvalue(), values


def pnm_cells():
    for top, (kind, channels) in product((1, 100, 255, 1023, 65535), (("2", 1), ("3", 3), ("5", 1), ("6", 3))):
        values = COLOURS[..., :channels].astype(int) * top // 255
        numbers = " ".join(map(str, values.ravel())).encode()
        body = numbers if kind in "23" else values.astype(">u2" if top > 255 else "u1").tobytes()
        header = f"P{kind}\n# made by hand\n{WIDTH} {HEIGHT}\n{top}\n".encode()
        yield f"pnm-P{kind}-{top}", header + body, np.round(values * ((65535 if top > 255 else 255) / top))


def all_cells():
    """(name, bytes, values (H, W, C) of all of 8 or 16 bits with straight alpha; None: to be refused)."""
    cells = [*png_cells(), *tiff_cells(), *pillow_cells(), *pnm_cells()]
    return {name: (data, values) for name, data, values in cells}
