"""Our PSNR and SSIM are the toolbox's, and Y is MATLAB's."""

import math

import cv2
import numpy as np
import pytest

from unirain_plugin.errors import DataError
from unirain_plugin.metrics import psnr_ssim as metrics
from unirain_plugin.metrics.psnr_ssim import luma, psnr, ssim
from unirain_plugin.toolbox import prepare_import

prepare_import()
from basicsr.metrics import calculate_psnr, calculate_ssim  # noqa: E402


def noisy_pair(shape, seed=0, noise=9):
    rng = np.random.default_rng(seed)
    target = cv2.GaussianBlur(rng.integers(0, 256, shape, dtype=np.uint8), (0, 0), 2)
    return np.clip(target + rng.integers(-noise, noise + 1, shape), 0, 255).astype(np.uint8), target


def halves(shape):
    """Black and white halves, one of them with noise: large values and variances of zero side by side."""
    target = np.zeros(shape, np.uint8)
    target[:, shape[1] // 2 :] = 255
    image = target.copy()
    image[::3, ::2] ^= 1
    return image, target


PAIRS = {
    "larger than a tile": noisy_pair((139, 301, 3)),
    "a tile exactly": noisy_pair((138, 138, 3)),
    "one row more": noisy_pair((139, 138, 3)),
    "the window": noisy_pair((11, 11, 3)),
    "a strip": noisy_pair((12, 200, 3)),
    "extremes": halves((60, 70, 3)),
    "flat": (np.full((20, 20, 3), 255, np.uint8), np.zeros((20, 20, 3), np.uint8)),
    "one value apart": (np.full((20, 20, 3), 101, np.uint8), np.full((20, 20, 3), 100, np.uint8)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_values_are_the_toolboxs(pair):
    image, target = pair
    bgr = image[..., ::-1], target[..., ::-1]
    assert psnr(image, target) == pytest.approx(calculate_psnr(*bgr, crop_border=0), abs=1e-10)
    assert ssim(image, target) == pytest.approx(calculate_ssim(*bgr, crop_border=0), abs=1e-10)
    y = luma(image), luma(target)
    on_y = {"crop_border": 0, "test_y_channel": True}
    assert psnr(*y) == pytest.approx(calculate_psnr(*bgr, **on_y), abs=1e-7)
    assert ssim(*y) == pytest.approx(calculate_ssim(*bgr, **on_y), abs=1e-7)


def test_threads_and_strides_change_nothing(monkeypatch):
    image, target = noisy_pair((150, 160, 3))
    alone = ssim(image, target)
    monkeypatch.setattr(metrics, "_WORTH_THREADS", 0)
    monkeypatch.setattr(metrics, "_THREADS", 3)
    assert ssim(image, target) == alone
    image, target = noisy_pair((40, 50, 3))
    assert psnr(image[:, ::-1], target[:, ::-1]) == psnr(image, target)
    assert ssim(image[..., ::-1], target[..., ::-1]) == pytest.approx(ssim(image, target), abs=1e-12)


def test_psnr_by_hand_ssim_of_small_images_and_means_added_one_by_one():
    target = np.full((4, 5, 3), 100, np.uint8)
    image = target + 5
    assert psnr(image, target) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(target, target) == math.inf
    assert math.isnan(ssim(*noisy_pair((10, 40, 3))))
    assert metrics.finite_mean([1e16, 1.0, math.inf, -1e16]) == 0  # a compensated sum, as of Python 3.12, gives 1/3
    assert metrics.finite_mean([3, math.inf, 5]) == 4 and metrics.finite_mean([math.inf]) == math.inf


@pytest.mark.parametrize(
    ("colour", "y"),
    [((255, 255, 255), 235), ((0, 0, 0), 16), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553), ((0, 0, 255), 40.966)],
)
def test_luma_is_that_of_matlabs_rgb2ycbcr(colour, y):
    image = np.full((2, 3, 3), colour, np.uint8)
    assert luma(image) == pytest.approx(np.full((2, 3, 1), y), abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_sizes_are_refused(metric):
    with pytest.raises(DataError, match="found 20×30 and 20×31"):
        metric(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8))
