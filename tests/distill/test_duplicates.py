"""What is a duplicate and what is not."""

import cv2
import numpy as np
import pytest
from distill_helpers import photographs

from unirain_plugin.distill.records import Candidate
from unirain_plugin.distill.stages.duplicates import files_alike, find_duplicates, find_duplicates_among, pair_planes
from unirain_plugin.rain.render import render_rain

PHOTOS = photographs(192)


def candidate(lq, gt):
    item = Candidate("x", None, None, "drs", "")
    item.preload(np.ascontiguousarray(lq), np.ascontiguousarray(gt))
    return item


def found_among(*pairs):
    return find_duplicates_among([candidate(lq, gt) for lq, gt in pairs])


def pair(name, rain_type="drs", seed=0):
    return render_rain(PHOTOS[name], rain_type, seed)[:2]


def jpeg(image, quality=88):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


@pytest.mark.parametrize("rain_type", ["drs", "drd", "nrs", "nrd"])
def test_copies_and_recoded_copies(rain_type):
    pairs = [pair(name, rain_type) for name in PHOTOS]
    recoded = [(jpeg(lq), jpeg(gt)) for lq, gt in pairs]
    assert found_among(*pairs, *pairs, *recoded) == [-1] * 4 + [0, 1, 2, 3] * 2


def test_other_rain_on_the_same_scene_is_no_duplicate_and_the_first_of_many_the_original():
    assert found_among(*(pair(name, seed=seed) for name in PHOTOS for seed in range(6))) == [-1] * 24
    p, q = pair("rocket"), pair("coffee")
    assert found_among(p, q, *[p] * 30) == [-1, -1] + [0] * 30


def test_other_rain_and_other_scenes_are_told_apart_without_reading_files():
    scene, rain = np.random.default_rng(0).integers(-60, 60, (2, 32, 32)).astype(np.int8)
    planes = np.stack([[scene, rain], [scene, rain // 2], [scene + 30, rain]])
    digests, keys = np.arange(6, dtype=np.uint64).reshape(3, 2), np.zeros((3, 10), np.uint32)

    def load(number):
        raise AssertionError(f"file {number} is read")

    assert find_duplicates(keys, digests, planes.__getitem__, load).tolist() == [-1, -1, -1]
    # only pairs with both files alike are copies by their digests, of one sum, as a million pairs may have
    digests = np.array([[1, 0], [3, 1], [1, 1 << 63], [1, 0]], np.uint64)
    keys = np.arange(4 * 10, dtype=np.uint32).reshape(4, 10)
    assert find_duplicates(keys, digests, None, None).tolist() == [-1, -1, -1, 0]


WORSE = {
    "shift 1": lambda lq, gt: (lq, np.roll(gt, 1, axis=1)),
    "shift 4": lambda lq, gt: (lq, np.roll(gt, 4, axis=1)),
    "blur": lambda lq, gt: (lq, cv2.GaussianBlur(gt, (0, 0), 2)),
    "exposure": lambda lq, gt: (np.clip(lq * 1.2, 0, 255).astype(np.uint8), gt),
    "still rainy": lambda lq, gt: (lq, cv2.addWeighted(gt, 0.4, lq, 0.6, 0)),
    "swapped": lambda lq, gt: (gt, lq),
    "wrong scene": lambda lq, gt: (lq, PHOTOS["chelsea"]),
}


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket"])
def test_a_worse_version_does_not_displace_the_good_pair(name):
    good = pair(name)
    for kind, worsen in WORSE.items():
        assert found_among(worsen(*good), good) == [-1, -1], kind


def test_what_repeats_a_repetition_alone_is_an_original():
    """Each is 2 levels brighter than the one before: neighbours are alike, the first and the third are not."""
    p = pair("astronaut")
    items = [candidate(*(cv2.add(image, (2 * i,) * 3) for image in p)) for i in range(3)]
    assert files_alike(items[0], items[1], False) and files_alike(items[1], items[2], False)
    assert not files_alike(items[0], items[2], False)
    assert find_duplicates_among(items) == [-1, 0, -1]


def test_planes_hold_every_difference():
    for lq, gt, planes in ((255, 0, (-128, 127)), (0, 255, (127, -128)), (130, 128, (0, 1))):
        found = pair_planes(candidate(*(np.full((40, 50, 3), level, np.uint8) for level in (lq, gt))))
        assert found.shape == (2, 32, 32) and found.dtype == np.int8
        assert [np.unique(plane).tolist() for plane in found] == [[plane] for plane in planes]
