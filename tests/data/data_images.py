"""Small images, their files in every good and bad form, folders and LMDBs of them, and data sets that read them."""

import io

import cv2
import numpy as np
import torch
from PIL import Image

from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset
from unirain_plugin.data.manifest import read_manifest
from unirain_plugin.preparation.command import create_lmdb, index_dataset


def any_image(height=48, width=64, seed=0):
    """A smooth random uint8 BGR image."""
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


def data_set(root=None, phase="val", kind="disk", **kwargs):
    """The mixed data set on a folder of pairs; a key that is None is left out."""
    opt = {"name": "mixed", "type": "DistilledMixedPairedDataset", "phase": phase, "scale": 1}
    opt |= {"dataroot": root and str(root), "io_backend": {"type": kind}} | kwargs
    return DistilledMixedPairedDataset({key: value for key, value in opt.items() if value is not None})


def stock_data_set(lq, gt, phase="val", kind="disk", **kwargs):
    """The toolbox's own data set of pairs."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    opt = {"name": "stock", "phase": phase, "scale": 1, "io_backend": {"type": kind}}
    return PairedImageDataset(opt | {"dataroot_lq": str(lq), "dataroot_gt": str(gt)} | kwargs)


def same(first, second):
    """Whether two items hold the same."""
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) if torch.is_tensor(first[k]) else first[k] == second[k] for k in first
    )


def same_pixels(first, second):
    """Whether two data sets, or lists of items, hold the same images."""
    return len(first) == len(second) and all(
        torch.equal(a["lq"], b["lq"]) and torch.equal(a["gt"], b["gt"]) for a, b in zip(first, second, strict=True)
    )


def make_lmdb(root, output, *arguments):
    assert create_lmdb(["--dataroot", str(root), "--output", str(output), "--workers", "1", *arguments]) == 0
    return output


def plant(root, *paths, size=(8, 12)):
    """Write a different small image to every path."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(c) * (i + 1) for i, c in enumerate(path))
        suffix = "." + path.rpartition(".")[2]
        target.write_bytes(encode(any_image(*size, seed=seed), suffix))


def index(root, layout, *arguments, output=None):
    """The pairs that ``index-dataset`` finds: rainy and clean image, rain type."""
    output = output or root.parent / "m.jsonl"
    base = ["--layout", str(layout), "--root", str(root), "--output", str(output), "--workers", "1", "--overwrite"]
    assert index_dataset([*base, *arguments]) == 0
    prefix = f"{root.name}/"
    return [(r.lq.removeprefix(prefix), r.gt.removeprefix(prefix), r.rain_type) for r in read_manifest(output)]


def photo(height=60, width=80, seed=0):
    """A smooth random uint8 image, of levels that a photograph has."""
    coarse = np.random.default_rng(seed).uniform(20, 230, (5, 6, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def direction(field):
    """Where a field varies most, in degrees from the columns' axis, and how much more than across: 0 to 1 for lines."""
    gy, gx = np.gradient(field)
    xx, yy, xy = (gx * gx).mean(), (gy * gy).mean(), (gx * gy).mean()
    return np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy)), float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, path.suffix))
    return path


def without_chunk(data, kind):
    """A PNG without a chunk."""
    at = data.index(kind) - 4
    return data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :]


def broken_images():
    """Name → (bytes, a part of the error's text)."""
    good = any_image()
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
