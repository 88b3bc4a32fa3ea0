"""Each finding's limit, and figures of the default voters on images made so that the right value is known."""

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from unirain_plugin.distill.records import Candidate, remembered, thumbnail
from unirain_plugin.distill.voters import findings as found
from unirain_plugin.distill.voters.clean_image import lines, sharpness
from unirain_plugin.distill.voters.default import Realism, pair_evidence
from unirain_plugin.distill.voters.frame import block_means, make_frame, quantile
from unirain_plugin.distill.voters.rain_layer import _evenness
from unirain_plugin.distill.voters.registration import registration
from unirain_plugin.distill.voters.tones import _mist, tones

CHECKS = [
    (found.misaligned, {"shift_gain": 0.05, "tile_gain": 0.0, "shift": 2.0}, 1),
    (found.misaligned, {"shift_gain": 0.1, "tile_gain": 0.0, "shift": 2.0}, 2),
    (found.misaligned, {"shift_gain": 0.0, "tile_gain": 0.15, "shift": 0.0}, 3),
    (found.wrong_scene, {"agreement": 0.35}, 1),
    (found.wrong_scene, {"agreement": 1.0}, 0),
    (found.identical, {"cover": 0.0019, "peak": 2.0, "veil": 0.0}, 2),
    (found.identical, {"cover": 0.002, "peak": 2.0, "veil": 0.0}, 0),
    (found.identical, {"cover": 0.0, "peak": 2.0, "veil": 0.03}, 0),
    (found.framed, {"border": 10.0}, 1),
    (found.interlaced, {"line_parity": 0.06, "weave": 0.0}, 1),
    (found.interlaced, {"line_parity": 0.0, "weave": 0.4}, 2),
    (found.leftover, {"leftover": found.LEFT_LIMIT, "likeness_surety": 0.0, "tone_shift": 0.0}, 1),
    (found.leftover, {"leftover": 0.0, "likeness_surety": 2 * found.SURETY_LIMIT, "tone_shift": 0.0}, 2),
    (found.leftover, {"leftover": 0.0, "likeness_surety": 2 * found.SURETY_LIMIT, "tone_shift": found.TONE_LIMIT}, 0),
    (found.blurred, {"lost_detail": 0.6, "balance": 1.0, "brighter": 0.5}, 1),
    (found.blurred, {"lost_detail": 1.2, "balance": 0.02, "brighter": 0.5}, 0.5),
    (found.blurred, {"lost_detail": 1.2, "balance": 1.0, "brighter": 0.98}, 0.5),
    (found.blocky, {"gt_blocks": 0.6}, 1),
    (found.blocks_apart, {"gt_blocks": 0.55, "lq_blocks": 0.1}, 1),
    (found.noisy, {"gt_noise": 4.0, "lq_noise": 2.0}, 1),
    (found.noisy, {"gt_noise": 4.0, "lq_noise": 4.0}, 0.5),
    (found.flat, {"gt_contrast": 4.0}, 1),
    (found.flat_rain, {"hard": 0.56, "even": 0.56}, 1),
    (found.flat_rain, {"hard": 0.24, "even": 1.0}, 0.5),
    (found.noise_apart, {"gt_noise": 4.0, "lq_noise": 2.0, "noise": 0.0}, 1),
    (found.noise_apart, {"gt_noise": 2.0, "lq_noise": 9.0, "noise": 0.75}, 0.5),
    (found.noise_apart, {"gt_noise": 4.0, "lq_noise": 3.0, "noise": 9.0}, 0),
    (found.colour, {"colour_shift": 0.8, "hue_turn": 0.0, "lq_chroma": 9.0, "gt_chroma": 9.0}, 1),
    (found.colour, {"colour_shift": 0.0, "hue_turn": 26.0, "lq_chroma": 9.0, "gt_chroma": 9.0}, 2),
    (found.colour, {"colour_shift": 0.0, "hue_turn": 0.0, "lq_chroma": 20.0, "gt_chroma": 10.0}, 1),
]


def test_severity_is_the_figure_over_its_limit():
    for check, figures, severity in CHECKS:
        assert check(figures).severity == pytest.approx(severity), (check, figures)


def test_streaks_are_rain_of_the_clean_image_where_they_are_its_alone():
    """Noise, motion and mist darken much of real rain, but the rainy image bears that structure, too."""
    dark = {"brighter": 0.9, "darker_structure": 0.3}
    assert found.rain_in_clean({**dark, "only_in_gt": 0.06}, "drs").severity < 1
    bad = found.rain_in_clean({**dark, "only_in_gt": 0.2}, "drs")
    assert bad.severity > 1 and (bad.kind, "20%" in bad.reason) == ("still_rainy", True)
    swapped = found.rain_in_clean({"brighter": 0.1, "darker_structure": 0.9, "only_in_gt": 0.8}, "drs")
    assert swapped.severity > 1 and swapped.kind == "swapped"
    clean = {"brighter": 1.0, "darker_structure": 0.0, "only_in_gt": 0.0}
    assert found.rain_in_clean(clean, "drs").severity == 0


def test_ranges_are_wider_than_the_references_and_bound_the_rain():
    looks = [{"brightness": float(v), "detail": v / 10, "contrast": v + 50.0} for v in range(101)]
    ranges = found.learn_ranges(looks)
    assert ranges["brightness"] == pytest.approx((1 - 49, 99 + 49))  # 1st and 99th percentile, half their distance more
    assert found.learn_ranges(looks[: found.FEWEST - 1]) == {} and found.outside({}, {}) == []
    severity = {
        finding.kind: finding.severity
        for finding in found.outside(ranges, {"brightness": 148.0, "detail": 5.0, "peak": 99.0})
    }
    assert severity == pytest.approx({"unreal_brightness": 1, "unreal_detail": 0, "unreal_strength": 0.5})
    pale = {name: (0.0, 1.0) for name in ("brightness", "detail", "contrast")}
    assert found.outside(pale, {"brightness": 0.5, "detail": 0.5, "peak": 30.0})[-1].severity == pytest.approx(1)


def pair_of(lq, gt):
    return Candidate("p", Path("l"), Path("g"), "drs", "", _lq=lq, _gt=gt)


def evidence(lq, gt):
    return pair_evidence(pair_of(lq, gt))


def noisy(image, levels, seed, channels=3):
    """An image with normal noise of so many levels, in each channel or in all alike."""
    noise = np.random.default_rng(seed).normal(0, levels, (*image.shape[:2], channels))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def blocks(side, seed=0):
    """A sharp colourful image of random rectangles, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 110, np.uint8)
    for _ in range(side // 2):
        x, y, w, h = rng.integers(0, side, 2).tolist() + rng.integers(5, side // 4, 2).tolist()
        image[y : y + h, x : x + w] = rng.integers(40, 180, 3)
    return image


def test_a_shift_is_told_in_pixels_of_the_file_and_one_quarter_that_lies_elsewhere_is_no_warp():
    image = blocks(1220)
    frame = make_frame(image[8:1208, 8:1208], np.ascontiguousarray(image[8:1208, 16:1216]))
    assert frame.factor == 2
    assert registration(frame)["shift"] == pytest.approx(8, abs=0.3)
    image = blocks(256)
    one = image.copy()
    one[:128, :128] = np.roll(image[:128, :128], 3, axis=1)
    two = one.copy()
    two[128:, :128] = np.roll(image[128:, :128], 3, axis=0)
    assert registration(make_frame(image, one))["tile_gain"] < 0.05
    assert registration(make_frame(image, two))["tile_gain"] > 0.3


def test_structure_that_a_shift_moves_out_of_view_is_not_aligned_by_it():
    """Under haze the same spots are fainter; moved away, they would make no difference at all."""
    clean = np.full((256, 256, 3), 100, np.uint8)
    for place in product((20, 236), range(16, 256, 24)):
        cv2.circle(clean, place, 3, (106,) * 3, -1)
    found = registration(make_frame(100 + (clean - 100) // 3, clean))
    assert (found["shift"], found["shift_gain"], found["tile_gain"]) == (0, 0, 0)


def test_rain_nearly_everywhere_does_not_pass_for_another_exposure():
    gt = np.tile(np.linspace(30, 180, 256).astype(np.uint8)[None, :, None], (256, 1, 3))
    rain = np.random.default_rng(0).random((256, 256, 1)) < 0.7
    lq = (gt + 40 * rain).astype(np.uint8)
    assert tones(make_frame(lq, gt))[0]["tone_shift"] < 0.5
    assert tones(make_frame((gt + 40).astype(np.uint8), gt))[0]["tone_shift"] > 3


def test_noise_of_the_difference_is_measured_in_levels_and_not_counted_as_rain():
    gt = blocks(256)
    # Luma of independent noise in three channels has 0.67 σ; of the blocks' weaker signs a low quantile is taken.
    assert 0.5 < evidence(noisy(gt, 12, 1), gt)["noise"] / (0.67 * 12) < 1
    assert evidence(noisy(gt, 8, 3), noisy(gt, 8, 4))["cover"] < 0.01


def test_detail_is_compared_where_the_images_differ_least():
    gt = noisy(blocks(256), 8, 2, channels=1)
    lq = gt.copy()
    lq[:, :150] = np.clip(lq[:, :150] + 80 * np.random.default_rng(2).random((256, 150, 1)) + 20, 0, 255)
    assert abs(sharpness(make_frame(lq, gt))["lost_detail"]) < 0.05
    soft = cv2.GaussianBlur(gt, (0, 0), 1.5)
    assert sharpness(make_frame(gt, soft))["lost_detail"] > 1


def test_a_straight_edge_of_the_scene_is_no_border_and_lines_of_two_moments_in_both_images_no_weave():
    rows, columns = np.mgrid[:256, :256]
    gt = np.where(rows < 6, 20 + columns // 4, 120 + columns // 4).astype(np.uint8)[..., None].repeat(3, axis=2)
    lq, framed = cv2.blur(gt, (1, 31)), gt.copy()
    framed[:6] = 40
    assert lines(lq, gt)["border"] == 0
    assert lines(lq, framed)["border"] > 10
    gt = blocks(256)
    woven = gt.copy()
    woven[1::2] = np.roll(gt[1::2], 4, axis=1)
    assert lines(woven.copy(), woven)["weave"] == 0
    assert lines(gt, woven)["weave"] > 0.2


def test_realism_looks_at_the_rainy_image():
    gt = blocks(128)
    candidate = pair_of((gt + 50).astype(np.uint8), gt)
    assert Realism().measure(candidate)["brightness"] == pytest.approx(found.look(candidate.lq)["brightness"])
    assert found.look(candidate.lq)["brightness"] == pytest.approx(found.look(gt)["brightness"] + 50, abs=0.5)


def test_the_peak_is_that_of_one_pixel_in_a_hundred():
    gt = blocks(256)
    for share, peak in ((0.02, 60), (0.005, 0)):
        rain = np.random.default_rng(4).random((256, 256, 1)) < share
        assert evidence((gt + 60 * rain).astype(np.uint8), gt)["peak"] == peak


@pytest.mark.parametrize(("tone", "contrast", "in_clean"), [(150, 80, 0.2), (220, 160, 0.4), (30, 40, None)])
@pytest.mark.parametrize("softness", [0.5, 3])
def test_the_rims_of_drops_tell_in_which_image_they_are(tone, contrast, in_clean, softness):
    """Discs hide a scene of fine detail; in the rainy image they are no drops of the clean one, dark ones included."""
    scene = 120 + cv2.GaussianBlur(np.random.default_rng(5).normal(0, contrast, (256, 256, 3)), (0, 0), 1.5)
    drops = np.zeros((256, 256), np.float32)
    for place in ((60, 70), (180, 90), (110, 190)):
        cv2.circle(drops, place, 24, 1, -1)
    drops = cv2.GaussianBlur(drops, (0, 0), softness)[..., None]
    dropped = np.clip(scene * (1 - drops) + tone * drops, 0, 255).astype(np.uint8)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    assert evidence(dropped, scene)["drops_in_gt"] < (0 if in_clean else 0.08)
    if in_clean:
        assert evidence(scene, dropped)["drops_in_gt"] > in_clean


def test_one_tone_alone_is_no_exposure_and_two_are_and_a_hue_is_told_only_where_there_is_colour():
    gt = np.repeat(np.arange(40, 160, 20, dtype=np.uint8), 48)[None, :, None].repeat(288, axis=0).repeat(3, axis=2)
    lq = gt.copy()
    lq[:, 96:144] -= 20
    assert evidence(lq, gt)["tone_shift"] == 0
    lq[:, 192:240] -= 20
    assert evidence(lq, gt)["tone_shift"] == pytest.approx(20 / (4 + 0.05 * 120))  # of the brighter of the two

    grey = blocks(256)[..., :1].repeat(3, axis=2)
    lq, gt = (noisy(grey + np.uint8(tint), 1, 6 + n) for n, tint in enumerate([(1, 0, 0), (0, 1, 0)]))
    assert evidence(lq, gt)["hue_turn"] == 0


def test_rain_that_hides_most_of_a_scene_leaves_the_agreement_of_the_rest():
    gt = blocks(256)
    lq = gt.copy()
    lq[:180] = np.random.default_rng(7).integers(0, 256, (180, 256, 3))
    assert evidence(lq, gt)["agreement"] > 0.9
    assert evidence(blocks(256, 8), gt)["agreement"] < 0.5


def test_quantiles_block_means_and_thumbnails_are_numpy_s():
    for size, share in product((1, 2, 7, 1000), (0.0, 0.1, 0.5, 0.85, 0.99, 1.0)):
        values = np.random.default_rng(size).normal(size=size).astype(np.float32)
        assert quantile(values, share) == pytest.approx(float(np.quantile(values.astype(np.float64), share)), abs=1e-6)
    for dtype, size in product((np.uint8, np.float32), (2, 8, 12)):
        plane = np.random.default_rng(0).integers(0, 256, (50, 37)).astype(dtype)
        rows, columns = 50 // size, 37 // size
        parts = plane[: rows * size, : columns * size].reshape(rows, size, columns, size).astype(float)
        np.testing.assert_allclose(block_means(plane, size), parts.mean(axis=(1, 3)), rtol=1e-6)

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


def test_mist_is_the_straight_line_of_least_squares_has_the_light_of_air_and_is_thin():
    levels = np.array([20.0, 60.0, 100.0, 140.0, 180.0, 220.0])
    curve = 0.2 * (230 - levels) + np.array([1.0, -1.0, 0.5, 0.5, -1.0, 1.0])
    slope, offset = np.polyfit(levels, curve, 1)
    opacity, explained = _mist(levels, curve)
    assert opacity == pytest.approx(-slope)
    np.testing.assert_allclose(explained, slope * levels + offset)
    for slope, offset, opacity in ((-0.2, 40, 0.2), (-0.05, 30, 0), (-0.3, 15, 0), (-0.5, 99, 0)):
        assert _mist(levels, slope * levels + offset)[0] == pytest.approx(opacity)


def test_remembered_asks_once_for_each_image():
    asked = []
    mean = remembered(lambda image: asked.append(image.shape) or float(image.mean()))
    first, second = np.zeros((2, 2)), np.ones((3, 3))
    assert [mean(first), mean(second), mean(first)] == [0.0, 1.0, 0.0]
    assert asked == [(2, 2), (3, 3)]
    del first
    third = np.full((2, 2), 5.0)  # may well lie where the first one lay
    assert mean(third) == 5.0
