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


def test_sixteen_bit_png_keeps_exif_and_profile(tmp_path):
    pixels = random_image(10, 14, 3, np.uint16)
    write_image(tmp_path / "a.png", StoredImage(pixels, 6, exif_with(6).tobytes(), b"profile"))
    again = read_image(tmp_path / "a.png")
    assert (again.orientation, again.profile) == (6, b"profile")
    np.testing.assert_array_equal(again.pixels, pixels)
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).shape == (14, 10, 3)  # stored as it was


@pytest.mark.parametrize(("suffix", "channels"), [(".ppm", 3), (".ppm", 1), (".pgm", 3), (".pgm", 1)])
def test_sixteen_bit_pnm_is_kept_whatever_its_suffix_says(tmp_path, suffix, channels):
    pixels = random_image(10, 14, channels, np.uint16)
    write_image(tmp_path / f"a{suffix}", StoredImage(pixels))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").pixels, pixels)
    again = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(again.reshape(10, 14, channels)[..., ::-1], pixels)


def test_webp_keeps_the_colours_of_what_is_transparent(tmp_path):
    pixels = random_image(20, 31, 4)
    pixels[:10, :, 3] = 0
    write_image(tmp_path / "a.webp", StoredImage(pixels))
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp").pixels, pixels)


def test_unusable_files_are_explained(tmp_path):
    cases = {"empty.png": b"", "text.jpg": b"hello", "text.webp": b"hello", "zeros.png": bytes(100)}
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(random_image(64, 64)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        cases[name] = data[: len(data) // 2]
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in ("film.webp", "pages.tif"):
        frames = [Image.new("RGB", (5, 5)), Image.new("RGB", (5, 5), "red")]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((4, 4, 3), np.float32))
    told = {"film.webp": "holds 2 images; expected one", "float.tif": "float32 values; expected 8 or 16 bits"}
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]:
        with pytest.raises(DataError, match=f"{path}.*{told.get(path.name, '')}"):
            read_image(path)


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
