"""Image files: what is kept, and what is refused."""

import cv2
import numpy as np
import pytest
import tifffile
from inference_helpers import random_image
from PIL import Image, ImageOps

from unirain_plugin.errors import DataError
from unirain_plugin.inference.images import StoredImage, as_stored, read_image, side_by_side, write_image


def exif_with(orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "camera"
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_orientation_is_turned_upright_and_kept(tmp_path, orientation, suffix):
    path, out = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(random_image(20, 31)).save(path, exif=exif_with(orientation), icc_profile=b"profile", **lossless)
    image = read_image(path)
    with Image.open(path) as file:
        shown = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        np.testing.assert_array_equal(image.pixels, shown)
    write_image(out, image)
    with Image.open(out) as file:
        assert file.getexif()[0x0112] == orientation and file.getexif()[0x010F] == "camera"
        assert file.info["icc_profile"] == b"profile"
        again = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
    assert np.abs(again - shown).max() <= (0 if suffix != ".jpg" else 40) and again.shape == shown.shape


def write_tiff(path, pixels, orientation=1, **options):
    kind = "rgb" if pixels.shape[2] > 2 else "minisblack"
    alpha = {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if pixels.shape[2] in (2, 4) else {}
    pixels = np.ascontiguousarray(as_stored(pixels, orientation))
    options = {"photometric": kind, "extratags": [(274, "H", 1, orientation, True)], **alpha, **options}
    tifffile.imwrite(path, pixels if pixels.shape[2] > 1 else pixels[..., 0], **options)


@pytest.mark.parametrize(("channels", "orientation"), [*((3, n) for n in range(1, 9)), (1, 1), (2, 1), (4, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_is_turned_upright_once_and_keeps_channels_and_profile(tmp_path, channels, orientation, dtype):
    pixels = random_image(20, 31, channels, dtype)
    write_tiff(tmp_path / "a.tif", pixels, orientation, iccprofile=b"profile")
    for name in ("a.tif", "b.tif"):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.profile == b"profile"
        write_image(tmp_path / "b.tif", image)


def test_tiff_with_white_as_zero_is_inverted(tmp_path):
    for dtype in (np.uint8, np.uint16):
        grey = random_image(20, 31, 1, dtype)
        write_tiff(tmp_path / "a.tif", grey, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, np.iinfo(dtype).max - grey)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, channels, suffix):
    pixels = random_image(17, 22, channels, np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    image = read_image(tmp_path / f"a{suffix}")
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    np.testing.assert_array_equal(image.pixels, pixels[..., order])
    write_image(tmp_path / f"b{suffix}", image)
    again = cv2.imread(str(tmp_path / f"b{suffix}"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == np.uint16
    np.testing.assert_array_equal(again.reshape(pixels.shape), pixels)


def test_sixteen_bit_png_keeps_exif_and_profile(tmp_path):
    pixels = random_image(10, 14, 3, np.uint16)
    write_image(tmp_path / "a.png", StoredImage(pixels, 6, exif_with(6).tobytes(), b"profile"))
    again = read_image(tmp_path / "a.png")
    assert (again.orientation, again.profile) == (6, b"profile")
    np.testing.assert_array_equal(again.pixels, pixels)
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).shape == (14, 10, 3)  # stored as it was


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "RGB"])
def test_alpha_and_grey_are_kept(tmp_path, mode):
    channels = len(mode)
    pixels = random_image(12, 15, channels)
    Image.fromarray(pixels.squeeze(), mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, pixels)
    write_image(tmp_path / "b.png", image)
    with Image.open(tmp_path / "b.png") as file:
        assert file.mode == mode
        np.testing.assert_array_equal(np.asarray(file), pixels.squeeze())


def test_palette_with_transparency_becomes_rgba(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").pixels.shape == (4, 4, 4)


def write_frames(path, **kwargs):
    Image.new("RGB", (5, 5)).save(path, save_all=True, append_images=[Image.new("RGB", (5, 5), "red")], **kwargs)


def test_unusable_files_are_explained(tmp_path):
    cases = {"empty.png": b"", "text.jpg": b"hello", "text.webp": b"hello", "zeros.png": bytes(100)}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(random_image(64, 64)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    write_frames(tmp_path / "film.webp")
    write_frames(tmp_path / "pages.tif")
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((4, 4, 3), np.float32))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError) as error:
            read_image(path)
        assert str(path) in str(error.value), path
    with pytest.raises(DataError, match=r"film.webp: holds 2 images; expected one"):
        read_image(tmp_path / "film.webp")
    with pytest.raises(DataError, match="float32 values; expected 8 or 16 bits"):
        read_image(tmp_path / "float.tif")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_image(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("name", "pixels", "text"),
    [
        ("a.jpg", random_image(4, 4, 4), "'.jpg' holds no alpha"),
        ("a.bmp", random_image(4, 4, 4), "'.bmp' holds no alpha"),
        ("a.jpg", random_image(4, 4, 3, np.uint16), "'.jpg' holds 8 bits"),
        ("a.webp", np.zeros((1, 16400, 3), np.uint8), "at most 16383 pixels"),
        ("a.gif", random_image(4, 4), "unknown image format '.gif'"),
    ],
)
def test_what_a_format_cannot_hold_is_never_dropped(tmp_path, name, pixels, text):
    with pytest.raises(DataError, match=text):
        write_image(tmp_path / name, StoredImage(pixels))
    assert list(tmp_path.iterdir()) == []


def test_side_by_side():
    before, after = (StoredImage(random_image(6, 9, seed=seed)) for seed in (0, 1))
    pixels = side_by_side(before, after).pixels
    assert pixels.shape == (6, 26, 3)
    np.testing.assert_array_equal(pixels[:, :9], before.pixels)
    np.testing.assert_array_equal(pixels[:, -9:], after.pixels)
    assert (pixels[:, 9:17] == 255).all()
