"""The eight EXIF orientations: refused without a request, otherwise upright in size, pixels and rows."""

import io

import cv2
import numpy as np
import pytest
from data_images import any_image, encode_pil, without_chunk
from PIL import Image, ImageOps

from unirain_plugin.data.images import EncodedImage, image_shape
from unirain_plugin.errors import DataError

FORMATS = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def exif_at_the_end(png):
    """A PNG with its EXIF behind the image data, where the format allows it too."""
    rest = without_chunk(png, b"eXIf")
    at = png.index(b"eXIf") - 4
    return rest[:-12] + png[at : at + len(png) - len(rest)] + rest[-12:]


@pytest.mark.parametrize("kind", [*FORMATS, "PNG, at the end"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_upright_in_size_pixels_and_rows(kind, orientation):
    kind, _, place = kind.partition(", ")
    data = encode_pil(any_image(48, 64), kind, orientation=orientation, **FORMATS[kind])
    if place and orientation > 1:
        data = exif_at_the_end(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))[..., ::-1]  # Pillow's, as BGR
    size = (48, 64) if orientation in (1, 2, 3, 4) else (64, 48)
    assert upright.shape == (*size, 3)
    image = EncodedImage(data, "x", convert=["exif"])
    assert (image.height, image.width) == size
    assert image_shape(data, "x") == (*size, 3)
    for pixels in (image.decode(), EncodedImage(data, "x", convert=["exif"]).decode_rows(size[0])):
        np.testing.assert_allclose(pixels, upright, atol=2 if kind == "JPEG" else 0)
    assert np.array_equal(image.decode(), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    top = EncodedImage(data, "x", convert=["exif"]).decode_rows(20)
    np.testing.assert_allclose(top[:20], upright[:20], atol=2 if kind == "JPEG" else 0)
    if orientation > 1:
        with pytest.raises(DataError, match=r"^x: the image is marked as rotated by its EXIF orientation"):
            EncodedImage(data, "x")


@pytest.mark.parametrize("value", [0, 9, 600])
def test_an_orientation_that_does_not_exist_counts_as_upright(value):
    data = encode_pil(any_image(48, 64), orientation=value)
    image = EncodedImage(data, "x")
    assert (image.height, image.width) == image.decode().shape[:2] == image_shape(data, "x")[:2] == (48, 64)
