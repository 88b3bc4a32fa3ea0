"""Our SSIM has the toolbox's values."""

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_ssim
from rain_pictures import photographs

from unirain_plugin.distill.retrieval.ssim import TermsCache, ssim, ssim_one_to_many, ssim_terms


def pictures():
    rng = np.random.default_rng(0)
    photos = list(photographs(64).values())
    extremes = [np.full_like(photos[0], value) for value in (0, 3, 255)]
    noise = rng.integers(0, 256, photos[0].shape, dtype=np.uint8)
    return [*photos, *extremes, noise, 255 - photos[0], cv2.GaussianBlur(photos[1], (0, 0), 2)]


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_toolbox(channels):
    images = [image[..., :channels] for image in pictures()]
    for first in images:
        for second in images:
            assert ssim(first, second) == pytest.approx(calculate_ssim(first, second, 0), abs=1e-5)


def test_one_to_many_equals_one_by_one_and_knows_identity():
    planes = [image[..., 0] for image in pictures()]
    terms = [ssim_terms(plane) for plane in planes]
    many = ssim_one_to_many(terms[0], terms)
    assert many[0] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(many, [ssim_one_to_many(terms[0], [term])[0] for term in terms])


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one size"):
        ssim(np.zeros((16, 16), np.uint8), np.zeros((16, 17), np.uint8))


def test_cache_is_bounded_and_right():
    planes = [image[..., 0] for image in pictures()]
    loads = []
    cache = TermsCache(lambda row: loads.append(row) or planes[row], limit=2)
    for row in (0, 1, 0, 2, 0, 1):
        np.testing.assert_array_equal(cache[row].mean, ssim_terms(planes[row]).mean)
    assert loads == [0, 1, 2, 1]  # 0 was used again before 2 came, so 1 had to go
