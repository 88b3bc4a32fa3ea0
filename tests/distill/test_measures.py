"""The quick figures of the default voters against slow ones written from their definitions."""

import numpy as np
import pytest

from unirain_plugin.distill.records import remembered, thumbnail
from unirain_plugin.distill.voters.frame import block_means, quantile
from unirain_plugin.distill.voters.rain_layer import _evenness
from unirain_plugin.distill.voters.tones import _mist


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.85, 0.99, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_quantile_is_numpy_s(share, size):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert quantile(values, share) == pytest.approx(float(np.quantile(values.astype(np.float64), share)), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [2, 8, 12])
def test_block_means(dtype, size):
    plane = np.random.default_rng(0).integers(0, 256, (50, 37)).astype(dtype)
    means = block_means(plane, size)
    rows, columns = 50 // size, 37 // size
    wanted = plane[: rows * size, : columns * size].reshape(rows, size, columns, size).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(means, wanted, rtol=1e-6)


def test_thumbnails_average_what_they_shrink():
    image = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    means = image.reshape(8, 8, 8, 12, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(thumbnail(image, 8), means, atol=0.51)
    assert thumbnail(image[:4], 8).shape == (8, 8, 3)  # enlarged where a side is shorter


def test_evenness_against_its_definition():
    rng = np.random.default_rng(2)
    clean, rainy = (rng.integers(0, 256, 801, dtype=np.uint8) for _ in range(2))
    rainy[:300] = np.clip(clean[:300] + 60.0, 0, 255)
    difference, near = rainy.astype(float) - clean, 0
    for tone in range(16):
        here = difference[clean >> 4 == tone]
        usual = np.median(here)
        near += np.count_nonzero(np.abs(here - usual) <= max(2, 0.05 * abs(usual)))
    assert _evenness(rainy, clean) == pytest.approx(near / 801)
    assert _evenness(rainy[:50], clean[:50]) == 0.0  # too few to tell


def test_mist_is_the_straight_line_of_least_squares():
    levels = np.array([20.0, 60.0, 100.0, 140.0, 180.0, 220.0])
    curve = 0.2 * (230 - levels) + np.array([1.0, -1.0, 0.5, 0.5, -1.0, 1.0])
    slope, offset = np.polyfit(levels, curve, 1)
    opacity, explained = _mist(levels, curve)
    assert opacity == pytest.approx(-slope)
    np.testing.assert_allclose(explained, slope * levels + offset)


def test_remembered_asks_once_for_each_image():
    asked = []
    mean = remembered(lambda image: asked.append(image.shape) or float(image.mean()))
    first, second = np.zeros((2, 2)), np.ones((3, 3))
    assert [mean(first), mean(second), mean(first)] == [0.0, 1.0, 0.0]
    assert asked == [(2, 2), (3, 3)]
    del first
    third = np.full((2, 2), 5.0)  # may well lie where the first one lay
    assert mean(third) == 5.0
