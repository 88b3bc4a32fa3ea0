"""What is a duplicate and what is not."""

import cv2
import numpy as np
import pytest
from rain_pictures import photographs

from unirain_plugin.distill.duplicates import find_duplicates_among
from unirain_plugin.distill.records import Candidate
from unirain_plugin.rain.render import render_rain

PHOTOS = photographs(192)


def candidate(lq, gt):
    item = Candidate("x", None, None, "drs", "")
    item.preload(np.ascontiguousarray(lq), np.ascontiguousarray(gt))
    return item


def pair(name, rain_type="drs", seed=0):
    return render_rain(PHOTOS[name], rain_type, seed)


def jpeg(image, quality=88):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


@pytest.mark.parametrize("rain_type", ["drs", "drd", "nrs", "nrd"])
def test_copies_and_recoded_copies(rain_type):
    pairs = [pair(name, rain_type) for name in PHOTOS]
    items = [candidate(p.lq, p.gt) for p in pairs]
    items += [candidate(p.lq, p.gt) for p in pairs] + [candidate(jpeg(p.lq), jpeg(p.gt)) for p in pairs]
    assert find_duplicates_among(items) == [-1] * 4 + [0, 1, 2, 3] * 2


def test_other_rain_on_the_same_scene_is_no_duplicate():
    items = [candidate(p.lq, p.gt) for name in PHOTOS for p in (pair(name, seed=seed) for seed in range(6))]
    assert find_duplicates_among(items) == [-1] * 24


def shift(image, pixels):
    return np.roll(image, pixels, axis=1)


@pytest.mark.parametrize(
    "worsen",
    [
        lambda lq, gt: (lq, shift(gt, 1)),
        lambda lq, gt: (lq, shift(gt, 4)),
        lambda lq, gt: (lq, cv2.GaussianBlur(gt, (0, 0), 2)),
        lambda lq, gt: (np.clip(lq * 1.2, 0, 255).astype(np.uint8), gt),
        lambda lq, gt: (lq, cv2.addWeighted(gt, 0.4, lq, 0.6, 0)),
        lambda lq, gt: (gt, lq),
        lambda lq, gt: (lq, PHOTOS["chelsea"]),
    ],
    ids=["shift 1", "shift 4", "blur", "exposure", "still rainy", "swapped", "wrong scene"],
)
def test_a_worse_version_does_not_displace_the_good_pair(worsen):
    for name in ("astronaut", "coffee", "rocket"):
        good = pair(name)
        items = [candidate(*worsen(good.lq, good.gt)), candidate(good.lq, good.gt)]
        assert find_duplicates_among(items) == [-1, -1], name


def test_the_first_of_many_is_the_original():
    p, q = pair("rocket"), pair("coffee")
    items = [candidate(p.lq, p.gt), candidate(q.lq, q.gt)] + [candidate(p.lq, p.gt) for _ in range(30)]
    assert find_duplicates_among(items) == [-1, -1] + [0] * 30
