"""The weights that the package ships, on photographs of scikit-image's that they were not trained on."""

import numpy as np
import pytest

from unirain_plugin import load, restore
from unirain_plugin.inference.loading import DEFAULT_WEIGHTS
from unirain_plugin.metrics.psnr_ssim import psnr
from unirain_plugin.rain.pair_files import cut, read_photo
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES


@pytest.fixture(scope="module")
def network():
    return load()


@pytest.fixture(scope="module")
def windows():
    rng = np.random.default_rng(0)
    return [cut(read_photo(path), (256, 256), rng) for path in sample_photos("held-out") for _ in range(3)]


def test_they_are_small_and_named_after_their_network(network):
    assert DEFAULT_WEIGHTS.stat().st_size < 5e6
    assert network.architecture["type"] == "UniRain"
    assert DEFAULT_WEIGHTS.with_suffix(".md").is_file()  # recipe and licence


@pytest.mark.parametrize("rain_type", RAIN_TYPES)
def test_they_gain_on_every_rain_type(network, windows, rain_type):
    gains = []
    for number, window in enumerate(windows):
        lq, gt, _ = render_rain(window, rain_type, number)
        gains.append(psnr(restore(network, lq), gt) - psnr(lq, gt))
    assert np.mean(gains) > 1.5


def test_they_leave_clean_images_alone(network, windows):
    assert min(psnr(restore(network, window), window) for window in windows) > 38
