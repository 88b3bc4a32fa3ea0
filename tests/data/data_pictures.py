"""Small pictures and their files in every good and bad form, for the data tests."""

import io

import cv2
import numpy as np
from PIL import Image


def picture(height=48, width=64, seed=0):
    """A smooth random uint8 BGR picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image, suffix=".png", *parameters):
    ok, data = cv2.imencode(suffix, image, list(parameters))
    assert ok
    return data.tobytes()


def encode_pil(image, kind="JPEG", mode="RGB", orientation=1, **kwargs):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(image[..., ::-1].copy()).convert(mode).save(file, kind, exif=exif, **kwargs)
    return file.getvalue()


def write_pair(root, rain_type, name, lq, gt):
    """Write the bytes of a pair in RainRAG's layout."""
    for folder, data in (("input", lq), ("target", gt)):
        path = root / rain_type / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def without_chunk(data, kind):
    """A PNG without a chunk."""
    at = data.index(kind) - 4
    return data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :]


def broken_images():
    """Name → (bytes, a part of the error's text)."""
    good = picture()
    png, jpeg = encode(good), encode(good, ".jpg")
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    longer = bytearray(png)
    longer[png.index(b"IDAT") - 4] ^= 1  # the chunk's length
    film, palette = io.BytesIO(), Image.fromarray(good).quantize(16)
    Image.fromarray(good).save(film, "PNG", save_all=True, append_images=[Image.fromarray(255 - good)])
    colourless = io.BytesIO()
    palette.save(colourless, "PNG")
    return {
        "film.png": (film.getvalue(), "holds 2 images; expected one"),
        "colourless.png": (without_chunk(colourless.getvalue(), b"PLTE"), "no palette"),
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"this is no image", "cannot be decoded"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "damaged.png": (bytes(damaged), "damaged|cannot be decoded"),
        "longer.png": (bytes(longer), "damaged|cannot be decoded"),
        "header.png": (png[:20], "truncated"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "header.jpg": (jpeg[:30], "truncated"),
        "truncated_progressive.jpg": (encode_pil(good, progressive=True)[:-40], "truncated"),
        "truncated.bmp": (encode(good, ".bmp")[:2000], "cannot be decoded"),
        "truncated.webp": (encode(good, ".webp")[:300], "cannot be decoded"),
        "grey.png": (encode(good[..., 0]), r"grey.*convert: \[grey\]"),
        "grey.jpg": (encode(good[..., 0], ".jpg"), "grey"),
        "grey.bmp": (encode(good[..., 0], ".bmp"), "grey"),
        "grey_alpha.png": (encode_pil(good, "PNG", "LA"), "grey"),
        "alpha.png": (encode(np.dstack([good, good[..., :1]])), r"alpha.*convert: \[alpha\]"),
        "deep.png": (encode(good.astype(np.uint16) * 257), r"more than 8 bits.*convert: \[depth16\]"),
        "deep.tif": (encode(good.astype(np.uint16) * 257, ".tif"), "more than 8 bits"),
        "cmyk.jpg": (encode_pil(good, mode="CMYK"), r"CMYK.*convert: \[cmyk\]"),
        "rotated.jpg": (encode_pil(good, orientation=6), r"EXIF.*convert: \[exif\]"),
        "rotated.png": (encode_pil(good, "PNG", orientation=3), "EXIF"),
        "rotated.webp": (encode_pil(good, "WEBP", orientation=8), "EXIF"),
        "rotated.tif": (encode_pil(good, "TIFF", orientation=6), "EXIF"),
    }
