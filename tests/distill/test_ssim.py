"""Our SSIM has the toolbox's values."""

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_ssim
from rain_pictures import photographs

from unirain_plugin.distill.cascade import ssim_of_pairs, ssim_one_to_many, ssim_terms


def sample_images():
    rng = np.random.default_rng(0)
    photos = list(photographs(64).values())
    extremes = [np.full_like(photos[0], value) for value in (0, 3, 255)]
    noise = rng.integers(0, 256, photos[0].shape, dtype=np.uint8)
    return [*photos, *extremes, noise, 255 - photos[0], cv2.GaussianBlur(photos[1], (0, 0), 2)]


def test_equals_the_toolbox_and_knows_identity():
    planes = [image[..., 0] for image in sample_images()]
    terms = [ssim_terms(plane) for plane in planes]
    many = ssim_one_to_many(terms[0], terms)
    assert many[0] == pytest.approx(1.0, abs=1e-6)
    for plane, term in zip(planes, terms, strict=True):
        wanted = [calculate_ssim(plane[..., None], other[..., None], 0) for other in planes]
        np.testing.assert_allclose(ssim_one_to_many(term, terms), wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(many, [ssim_one_to_many(terms[0], [term])[0] for term in terms])


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one size"):
        ssim_one_to_many(ssim_terms(np.zeros((16, 16), np.uint8)), [ssim_terms(np.zeros((16, 17), np.uint8))])


def test_pairs_share_prepared_references_and_are_symmetric():
    planes = np.stack([image[..., 0] for image in sample_images()])
    rows = [np.array([3, 1, 7]), np.array([], np.int64), np.array([7]), np.array([1, 3])]
    loads = []
    values = ssim_of_pairs(planes[:4], rows, lambda row: loads.append(row) or planes[row])
    assert loads == [1, 3, 7]
    for query, (numbers, found) in enumerate(zip(rows, values, strict=True)):
        wanted = ssim_one_to_many(ssim_terms(planes[query]), [ssim_terms(planes[n]) for n in numbers])
        np.testing.assert_array_equal(found, wanted)
