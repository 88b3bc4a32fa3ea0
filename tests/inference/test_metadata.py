"""What a file says of its image besides the pixels: kept in the result, or told to be missing."""

import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from inference_helpers import random_image
from PIL import Image, ImageOps, PngImagePlugin

from unirain_plugin.inference.command import summary
from unirain_plugin.inference.images import read_image, write_image
from unirain_plugin.inference.jobs import plan_jobs, restore_files

XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rating>5</rating></x:xmpmeta>"


def camera():
    exif = Image.Exif()
    exif[0x010F], exif[0x8298] = "camera", "somebody"
    exif.get_ifd(0x8769)[0x829A] = (1, 250)
    exif.get_ifd(0x8825)[1] = "N"
    read = Image.Exif()
    read.load(exif.tobytes())
    return read


def written(tmp_path, suffix, mode="RGB", **options):
    path = tmp_path / f"a{suffix}"
    channels = len(mode)
    image = Image.fromarray(random_image(20, 31, channels).squeeze(), mode)
    image.save(path, exif=camera(), icc_profile=b"profile", **options)
    return path


def restored(path, suffix=None):
    """The file that comes of it, and what is told to be missing."""
    target = path.with_name(f"b{suffix or path.suffix}")
    return target, write_image(target, read_image(path))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks_of(path):
    data, position, found = path.read_bytes(), 8, []
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        assert data[position : position + 12 + length] == png_chunk(kind, body)
        found.append((kind, body))
        position += 12 + length
    return found


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {"dpi": (300, 240)}),
        (".jpg", {"dpi": (300, 240), "xmp": XMP, "comment": b"a yard"}),
        (".tif", {"dpi": (300, 240)}),
        (".webp", {"xmp": XMP}),
    ],
)
def test_a_file_keeps_what_it_says(tmp_path, suffix, options):
    path = written(tmp_path, suffix, **options)
    target, lost = restored(path)
    assert lost == ()
    with Image.open(path) as before, Image.open(target) as after:
        assert after.getexif()[0x010F] == "camera" and after.getexif()[0x8298] == "somebody"
        assert after.getexif().get_ifd(0x8769)[0x829A] == before.getexif().get_ifd(0x8769)[0x829A]
        assert after.getexif().get_ifd(0x8825)[1] == "N"
        assert after.info["icc_profile"] == b"profile"
        assert after.info.get("xmp") == options.get("xmp")
        assert after.info.get("comment") == options.get("comment")
        assert after.info.get("dpi") == pytest.approx(options["dpi"], abs=0.02) if "dpi" in options else True


def test_a_png_keeps_its_colour_chunks_and_texts_at_8_and_16_bits(tmp_path):
    chunks = [(b"cICP", bytes([9, 16, 0, 1])), (b"gAMA", struct.pack(">I", 100000)), (b"cHRM", bytes(range(32))),
              (b"pHYs", struct.pack(">IIB", 2, 1, 0)), (b"tEXt", b"Author\0me")]  # fmt: skip
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    Image.fromarray(random_image(9, 7)).save(tmp_path / "plain.png", pnginfo=info)
    data = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:])
    image = read_image(tmp_path / "a.png")
    for deep in (False, True):
        pixels = image.pixels.astype(np.uint16) * 257 if deep else image.pixels
        assert write_image(tmp_path / "b.png", image.with_pixels(pixels)) == ()
        found = chunks_of(tmp_path / "b.png")
        assert all(chunk in found for chunk in chunks)
        assert [kind for kind, _ in found].index(b"cHRM") < [kind for kind, _ in found].index(b"IDAT")
        assert Image.open(tmp_path / "b.png").info["xmp"] == XMP
    assert write_image(tmp_path / "b.jpg", image) == (
        "the colour description (cICP)", "the colour description (gAMA)", "the colour description (cHRM)",
        "the shape of pixels", "texts",
    )  # fmt: skip
    info = PngImagePlugin.PngInfo()
    info.add(b"sRGB", b"\0")
    Image.fromarray(random_image(9, 7)).save(tmp_path / "a.png", pnginfo=info)
    target, _ = restored(tmp_path / "a.png")
    assert (b"sRGB", b"\0") in chunks_of(target)
    assert restored(tmp_path / "a.png", ".jpg")[1] == ()


def test_a_jpeg_keeps_iptc_and_tells_of_further_images(tmp_path):
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x19\0\x05rainy"
    segment = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    Image.fromarray(random_image(16, 16)).save(tmp_path / "a.jpg", extra=segment)
    target, lost = restored(tmp_path / "a.jpg")
    assert segment in target.read_bytes() and lost == ()
    assert restored(tmp_path / "a.jpg", ".png")[1] == ("IPTC",)
    two = [Image.fromarray(random_image(16, 16, seed=seed)) for seed in (0, 1)]
    two[0].save(tmp_path / "m.jpg", "MPO", save_all=True, append_images=two[1:])
    assert restored(tmp_path / "m.jpg")[1] == ("1 further image(s) in the file",)


def test_exif_without_its_prefix_turns_a_webp_in_every_format(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = random_image(20, 31)
    stored = Image.fromarray(np.rot90(shown).copy())
    stored.save(tmp_path / "a.webp", exif=exif.tobytes().removeprefix(b"Exif\0\0"), lossless=True)
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        target, lost = restored(tmp_path / "a.webp", suffix)
        assert lost == () and np.abs(read_image(target).pixels.astype(int) - shown).max() <= 40 * (suffix == ".jpg")


def test_exif_and_xmp_that_are_too_long_for_jpeg_are_told(tmp_path):
    long = b"<x>" + b"y" * 70000
    for most, lost in ((65533, ()), (65534, ("EXIF (too long for JPEG)",))):
        exif = camera()
        exif[0x0112] = 6
        exif = exif.tobytes().ljust(most, b"\0")
        image = replace(read_image(written(tmp_path, ".png")), exif=exif, orientation=6)
        assert write_image(tmp_path / "b.jpg", image) == lost
        assert read_image(tmp_path / "b.jpg").pixels.shape == image.pixels.shape
    assert write_image(tmp_path / "b.jpg", replace(image, xmp=long)) == (*lost, "XMP (too long for JPEG)")
    assert write_image(tmp_path / "b.png", replace(image, xmp=long)) == ()


def test_deep_tiff_keeps_tags_and_tells_of_folders_of_tags(tmp_path):
    pixels = random_image(12, 10, 3, np.uint16)
    tags = [(271, "s", 0, "camera", True), (700, "B", len(XMP), XMP, True)]
    options = {"resolution": (300, 240), "resolutionunit": "INCH", "software": "darkroom", "iccprofile": b"profile"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags, metadata=None, **options)
    target, lost = restored(tmp_path / "a.tif")
    assert lost == ()
    with tifffile.TiffFile(target) as file:
        page = file.pages.first
        assert page.tags[271].value == "camera" and bytes(page.tags[700].value) == XMP and page.software == "darkroom"
        assert page.iccprofile == b"profile" and page.get_resolution("INCH") == pytest.approx((300, 240))
    png, _ = restored(tmp_path / "a.tif", ".png")
    assert Image.open(png).info["dpi"] == pytest.approx((300, 240), abs=0.02) and Image.open(png).info["xmp"] == XMP
    Image.fromarray(random_image(12, 10)).save(tmp_path / "c.png", exif=camera())
    image = read_image(tmp_path / "c.png").with_pixels(pixels)
    assert write_image(tmp_path / "c.tif", image) == ("a part of EXIF",)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 2])
def test_avif_is_turned_upright_and_becomes_png(tmp_path, orientation):
    pixels, exif = np.repeat(np.repeat(random_image(5, 8), 8, 0), 8, 1), camera()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.avif", exif=exif, xmp=XMP, quality=100, subsampling="4:4:4")
    (job,) = plan_jobs(tmp_path / "a.avif", tmp_path / "out").jobs
    assert job.target.name == "a.png"
    assert restore_files([job], lambda x: x, bar=False).failed == []
    with Image.open(tmp_path / "a.avif") as source, Image.open(job.target) as result:
        shown = np.asarray(ImageOps.exif_transpose(source)).astype(int)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(result)), shown)
        assert result.info["xmp"] == XMP and result.getexif()[0x010F] == "camera"
    target, lost = restored(tmp_path / "a.avif", ".avif")
    with Image.open(target) as again:
        assert np.abs(np.asarray(ImageOps.exif_transpose(again)) - shown).max() <= 12 and lost == ()


@pytest.mark.parametrize("bits", [10, 12])
def test_more_than_eight_bits_of_avif_and_its_colours_are_kept(tmp_path, bits):
    levels = np.linspace(0, 2**bits - 1, 1024).astype(np.uint16).reshape(32, 32)
    command = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", f"gbrp{bits}le", "-s", "32x32", "-i", "-", "-c:v"]
    command += ["libaom-av1", "-crf", "0", "-still-picture", "1", "-color_primaries", "bt2020", "-color_trc"]
    command += ["smpte2084", "-colorspace", "rgb", "-color_range", "pc", "-f", "avif", str(tmp_path / "a.avif")]
    try:
        done = subprocess.run(command, input=np.stack([levels] * 3).tobytes(), capture_output=True)
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed")
    if done.returncode:
        pytest.skip("ffmpeg writes no AVIF here")
    image = read_image(tmp_path / "a.avif")
    assert image.pixels.dtype == np.uint16
    assert np.abs(image.pixels - np.round(levels.astype(int) * 65535 / (2**bits - 1))[..., None]).max() <= 65
    assert image.blocks == (("cICP", bytes([9, 16, 0, 1])),)


@pytest.mark.parametrize("bits", [8, 10])
def test_heic_is_read_with_pillow_heif(tmp_path, bits):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.repeat(np.repeat(random_image(4, 5), 16, 0), 16, 1)
    if bits == 8:
        heif = pillow_heif.from_pillow(Image.fromarray(pixels))
    else:
        heif = pillow_heif.from_bytes("RGB;16", (80, 64), (pixels.astype(np.uint16) * 257).tobytes())
    heif.save(tmp_path / "a.heic", quality=-1, chroma=444, exif=camera().tobytes(), matrix_coefficients=0)
    image = read_image(tmp_path / "a.heic")
    assert image.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(image.pixels / (1 if bits == 8 else 257) - pixels).max() <= 1
    assert b"camera" in image.exif
    (job,) = plan_jobs(tmp_path / "a.heic", tmp_path / "out").jobs
    assert job.target.name == "a.png"


def test_without_pillow_heif_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    told = r"a\.heic: HEIC images need pillow-heif: pip install 'unirain_plugin\[heif\]'"
    with pytest.raises(ValueError, match=told):
        read_image(tmp_path / "a.heic")


def test_the_summary_tells_what_is_missing(tmp_path):
    path = written(tmp_path, ".png", dpi=(300, 300))
    outcome = restore_files(plan_jobs(path, tmp_path / "out", "webp").jobs, lambda x: x, bar=False)
    assert "1 without the resolution of the source: a.png" in summary(outcome, tmp_path / "out", [])


def test_pillows_bound_does_not_refuse_large_images_and_the_resolution_of_a_tiff_is_in_pixels_an_inch(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for suffix in (".png", ".tif", ".jpg", ".webp", ".avif"):
        options = {"compression": "tiff_lzw"} if suffix == ".tif" else {}
        Image.fromarray(random_image(30, 40)).save(tmp_path / f"a{suffix}", **options)
        assert read_image(tmp_path / f"a{suffix}").pixels.shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    for unit, density in (("INCH", (300, 200)), ("CENTIMETER", (762, 508)), ("NONE", None)):
        options = {"photometric": "rgb", "resolution": (300, 200), "resolutionunit": unit}
        tifffile.imwrite(tmp_path / "a.tif", random_image(8, 9), **options)
        assert read_image(tmp_path / "a.tif").density == (density and pytest.approx(density))
