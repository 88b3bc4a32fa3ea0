"""The default voters on snow and haze: the clean image is looked at under the rainy one's veil."""

import cv2
import numpy as np
import pytest

from unirain_plugin.distill.voters.veil import veiled
from unirain_plugin.rain.light import to_codes, to_linear
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study.benchmarks.distill import Judge
from unirain_plugin.study.planted import Pair, plant


@pytest.fixture(scope="module")
def photos():
    images = [cv2.imread(str(path))[..., ::-1] for path in sample_photos("all")]
    return [np.ascontiguousarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)) for image in images]


def test_the_veil_is_found(photos):
    opacity, airlight = 0.6, np.array([0.5, 0.55, 0.6], np.float32)
    hazy = to_codes((1 - opacity) * to_linear(photos[0]) + opacity * airlight)
    under, found = veiled(hazy, photos[0])
    assert np.abs(under.astype(int) - hazy).mean() < 1.0
    assert found == pytest.approx(opacity, abs=0.06)
    same, none = veiled(photos[0], photos[0])
    assert np.abs(same.astype(int) - photos[0]).mean() < 1.0 and none < 0.03


@pytest.mark.parametrize("rain_type", ["snow", "haze"])
def test_good_pairs_are_kept_and_bad_ones_are_not(photos, rain_type):
    good = [Pair(*render_rain(photo, rain_type, seed)[:2], rain_type) for seed, photo in enumerate(photos)]
    judge, rng = Judge([pair.lq for pair in good]), np.random.default_rng(0)
    kept = [judge(pair)[0] for pair in good]
    assert sum(kept) >= len(good) - 1
    for kind in ("misaligned_4px", "wrong_scene", "swapped", "no_rain", "interlaced_clean"):
        spoilt = [plant(kind, pair, other, rng) for pair, other in zip(good, good[1:] + good[:1], strict=True)]
        assert sum(judge(pair)[0] for pair in spoilt) <= 1, kind
