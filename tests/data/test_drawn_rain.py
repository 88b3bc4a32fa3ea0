"""Rain as simple programs draw it."""

import cv2
import numpy as np
import pytest

from unirain_plugin.rain.drawn import _lens, draw_drops, draw_lines


def photo(height=128, width=160):
    coarse = np.random.default_rng(0).uniform(40, 200, (5, 6, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("draw", [draw_lines, draw_drops])
@pytest.mark.parametrize("shape", [(96, 96), (96, 300), (300, 100), (128, 160)])
def test_rain_lies_on_a_part_of_the_picture_and_repeats_with_its_seed(draw, shape):
    clean = photo(*shape)
    before = clean.copy()
    covered = []
    for seed in range(12):
        rainy = draw(clean, np.random.default_rng(seed))
        assert rainy.shape == clean.shape and rainy.dtype == np.uint8
        np.testing.assert_array_equal(rainy, draw(clean, np.random.default_rng(seed)))
        covered.append((rainy != clean).any(axis=2).mean())
    np.testing.assert_array_equal(clean, before)
    assert 0.02 < np.median(covered) < 0.7
    assert max(covered) > 3 * min(covered)


def test_lines_are_of_one_grey_and_mostly_upright():
    black = np.zeros((128, 128, 3), np.uint8)
    upright = []
    for seed in range(30):
        rainy = draw_lines(black, np.random.default_rng(seed))
        assert (rainy == rainy[..., :1]).all()
        across, down = (np.abs(np.diff(rainy[..., 0].astype(int), axis=axis)).sum() for axis in (1, 0))
        upright.append(across > down)
    assert np.mean(upright) > 0.8


def test_drops_are_round_and_differ_from_what_they_cover():
    clean = photo()
    filled = []
    for seed in range(24):
        changed = (draw_drops(clean, np.random.default_rng(seed)) != clean).any(axis=2).astype(np.uint8)
        assert changed.any()
        _, _, boxes, _ = cv2.connectedComponentsWithStats(changed)
        single = boxes[1:][boxes[1:, cv2.CC_STAT_AREA] > 60]
        filled += list(single[:, cv2.CC_STAT_AREA] / (single[:, cv2.CC_STAT_WIDTH] * single[:, cv2.CC_STAT_HEIGHT]))
    assert len(filled) > 50
    assert 0.65 < np.median(filled) < 0.85  # of an ellipse π/4, of a rectangle 1


def test_a_lens_shows_what_is_around_it_turned_by_half():
    rows, columns = np.mgrid[:100, :200].astype(np.float32)
    mirrored = cv2.flip(np.dstack([rows, columns, rows]), -1)
    u, v = np.linspace(-1, 1, 5, dtype=np.float32)[None], np.linspace(-1, 1, 3, dtype=np.float32)[:, None]
    shown = _lens(mirrored, u, v, 120, 40, 0.2)
    np.testing.assert_allclose(shown[1, :, 1], [140, 130, 120, 110, 100], atol=0.1)
    np.testing.assert_allclose(shown[:, 2, 0], [50, 40, 30], atol=0.1)
