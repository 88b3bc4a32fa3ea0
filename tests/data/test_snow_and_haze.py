"""Snow and haze: Koschmieder's law, flakes that brighten, scale with the image and have no common direction."""

import cv2
import numpy as np
import pytest

from unirain_plugin.rain.light import LUMA, to_linear
from unirain_plugin.rain.params import HazeParams, RainParams, SnowParams, StreakParams
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    path = next(p for p in sample_photos() if p.name == "coffee.png")
    return cv2.resize(cv2.imread(str(path)), (240, 160), interpolation=cv2.INTER_AREA)[..., ::-1].copy()


def test_haze_mixes_the_scene_with_one_airlight(photo):
    pair = render_rain(photo, "haze", 3)
    opacity = pair.mask[..., None]
    airlight = ((to_linear(pair.lq) - (1 - opacity) * to_linear(pair.gt)) / opacity)[pair.mask > 0.3]
    assert len(airlight) > 1000
    assert (airlight.std(axis=0) < 0.02).all() and airlight.mean() > 0.3


def test_haze_thickens_with_the_distance(photo):
    even = RainParams(haze=HazeParams(far=(0.8, 0.8), near=(0.1, 0.1), relief=(0, 0)))
    rows = render_rain(photo, "haze", 0, even).mask.mean(axis=1)
    assert (np.diff(rows) <= 1e-6).all()
    assert rows[0] == pytest.approx(0.8, abs=0.01)
    assert rows[-1] == pytest.approx(1 - 0.2**0.1, abs=0.01)  # a tenth of the greatest distance


def test_a_wall_of_haze_or_mist_is_finite(photo):
    full = RainParams(haze=HazeParams(far=(1, 1)), streaks=StreakParams(veil_share=1.0, veil=(1, 1)))
    for rain_type in ("haze", "drs"):
        mask = render_rain(photo, rain_type, 0, full).mask
        assert np.isfinite(mask).all() and mask.max() > 0.99


def test_flakes_brighten_what_is_darker_than_they_are(photo):
    clear = RainParams(snow=SnowParams(veil=HazeParams(far=(0, 0)), brightness=(1, 1)))
    for seed in range(4):
        pair = render_rain(photo // 3, "snow", seed, clear)
        luma = [to_linear(image) @ LUMA for image in (pair.lq, pair.gt)]
        snowy = (pair.mask > 0.3) & (luma[1] < np.quantile(luma[1], 0.6))
        assert snowy.any() and np.mean(luma[0][snowy] > luma[1][snowy]) > 0.98
        dry = pair.mask == 0
        assert dry.mean() > 0.2 and np.array_equal(pair.lq[dry], pair.gt[dry])


def test_snow_keeps_its_look_at_another_size(photo):
    large = cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    cover = [np.mean([(render_rain(p, "snow", s).mask > 0.3).mean() for s in range(6)]) for p in (photo, large)]
    assert cover[0] == pytest.approx(cover[1], rel=0.4) and cover[0] > 0.005
