"""What the kinds of real rain add to the renderer: each range does what its name says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from data_images import direction

from unirain_plugin.rain.drops import _defocus
from unirain_plugin.rain.light import to_codes, to_linear
from unirain_plugin.rain.params import REAL_RAIN, CameraParams, finer
from unirain_plugin.rain.render import DropParams, RainParams, StreakParams, render_rain
from unirain_plugin.rain.streaks import streak_opacity, veil_opacity
from unirain_plugin.rain_types import RAIN_TYPES

PHOTO = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 120, 3), dtype=np.uint8), (0, 0), 1.5)
GREY = np.full((128, 128, 3), 60, np.uint8)
CLEAR = StreakParams(veil_share=0, density=(20, 20))


@pytest.mark.parametrize("rain_type", RAIN_TYPES)
def test_each_kind_of_real_rain_is_repeatable_visible_and_leaves_the_rest_alone(rain_type):
    for params in REAL_RAIN[rain_type]:
        changed = []
        for seed in range(3):
            pair, again = (render_rain(PHOTO, rain_type, seed, params) for _ in range(2))
            for one, other in zip(pair, again, strict=True):
                np.testing.assert_array_equal(one, other)
            dry = pair.mask == 0
            np.testing.assert_array_equal(pair.lq[dry], pair.gt[dry])
            changed.append(np.abs(pair.lq.astype(int) - pair.gt).mean())
        assert max(changed) > 1


def test_drops_out_of_focus_are_wide_and_half_transparent():
    sharp, soft = (
        render_rain(GREY, "drd", 3, RainParams(drops=DropParams(radius=(4, 4), count=(8, 8), merge=0, defocus=(c, c))))
        for c in (0.1, 3.0)
    )
    assert sharp.mask.max() > 0.6 and soft.mask.max() < 0.35
    assert (soft.mask > 0).sum() > 3 * (sharp.mask > 0).sum()


def test_the_circle_of_confusion_has_the_shape_of_the_aperture():
    point = np.zeros((61, 61), np.float32)
    point[30, 30] = 1
    disc, hexagon = (_defocus(point, 20, blades) for blades in (0, 6))
    assert disc.sum() == pytest.approx(1, abs=1e-4) and hexagon.sum() == pytest.approx(1, abs=1e-4)
    wide = [
        [np.ptp(np.nonzero((kernel > 1e-5).any(axis=axis))[0]) + 1 for axis in (0, 1)] for kernel in (disc, hexagon)
    ]
    assert wide[0] == [41, 41]
    assert wide[1] == pytest.approx([41, 2 * 20 / np.cos(np.pi / 6)], abs=2)  # between flats, between corners


def test_a_film_of_water_blurs_parts_of_the_scene():
    drops = DropParams(count=(3, 3), radius=(2, 2), film_share=1, film=(3, 3))
    noise = np.random.default_rng(0).integers(0, 255, (96, 120, 3), dtype=np.uint8)
    pair = render_rain(noise, "drd", 0, RainParams(drops=drops))
    film = (pair.mask > 0.9) & (np.abs(pair.lq.astype(int) - pair.gt).max(axis=2) > 0)
    assert 0.05 < film.mean() < 0.8
    sharpness = [np.abs(cv2.Laplacian(image.astype(np.float32), -1))[film].mean() for image in (pair.lq, pair.gt)]
    assert sharpness[0] < 0.5 * sharpness[1]


def test_a_milky_pane_lightens_the_dark_smoothly_and_leaves_detail():
    few = dict(count=(3, 3), radius=(1, 1), merge=0, highlight=(0, 0))
    ground = np.full((128, 160, 3), 20, np.uint8)
    ground[:64] = 200  # what the tiny drops see as well
    ground[64:, ::2] += 4
    clear, milky = (
        render_rain(ground, "drd", 5, RainParams(drops=DropParams(**few, mist_share=share, mist=(0.5, 0.5)))).lq
        for share in (0, 1)
    )
    lift = milky[70:].astype(int) - clear[70:]
    assert 40 < np.percentile(lift, 90) < 140 and np.percentile(lift, 5) >= 0
    assert np.abs(np.diff(cv2.GaussianBlur(lift.astype(np.float32), (0, 0), 2), axis=0)).max() < 6
    detail = [np.abs(np.diff(image[70:, ::, 1].astype(int), axis=1)).mean() for image in (clear, milky)]
    assert detail[1] > 0.2 * detail[0] > 0


def unevenness(field, parts):
    """How much the means of so many parts a side differ, relative to the mean of all."""
    return cv2.resize(field, (parts, parts), interpolation=cv2.INTER_AREA).std() / field.mean()


def test_crowded_drops_and_clumped_streaks_keep_to_some_parts():
    drops, streaks = [], []
    for crowding in (1, 5):
        params = DropParams(count=(60, 60), radius=(3, 4), trail_share=0, crowding=(crowding, crowding))
        masks = [render_rain(GREY, "drd", seed, RainParams(drops=params)).mask for seed in range(4)]
        drops.append(np.mean([unevenness(mask, 8) for mask in masks]))
    for clumping in (0, 1):
        params = replace(CLEAR, clumping=(clumping, clumping), length=(10, 10), density=(300, 300))
        fields = [streak_opacity((128, 128), np.random.default_rng(s), params) for s in range(4)]
        streaks.append(np.mean([unevenness(field, 6) for field in fields]))
    assert drops[1] > 1.5 * drops[0] and streaks[1] > 1.7 * streaks[0]


@pytest.mark.parametrize("rain_type", ["drs", "drd"])
def test_finer_rain_has_smaller_and_more_parts(rain_type):
    params = RainParams(
        streaks=replace(CLEAR, density=(30, 30), width=(3, 3), depths=(1, 1)),
        drops=DropParams(count=(30, 30), radius=(8, 8)),
    )
    cover, edges = [], []
    for one in (params, finer(params, 0.5)):
        masks = [render_rain(GREY, rain_type, seed, one).mask for seed in range(6)]
        cover.append(np.mean(masks))
        edges.append(np.mean([np.abs(np.diff(mask, axis=1)).mean() for mask in masks]))
    assert 0.7 * cover[0] < cover[1] < 2.5 * cover[0]  # long streaks also lie half outside
    assert edges[1] > 1.4 * edges[0]


def test_a_fan_turns_the_direction_from_left_to_right():
    params = replace(CLEAR, angle=(0, 0), angle_jitter=(0.2, 0.2), fan=(40, 40), density=(60, 60))
    mask = cv2.GaussianBlur(streak_opacity((160, 480), np.random.default_rng(0), params), (0, 0), 1.5)
    left, right = (-direction(part)[0] for part in (mask[:, :120], mask[:, 360:]))
    assert left == pytest.approx(-15, abs=5) and right == pytest.approx(15, abs=5)


def test_streaks_without_taper_end_square_and_broad_ones_are_fewer_so_that_they_do_not_fill_the_image():
    ends = []
    for taper in (0.0, 1.0):
        params = replace(CLEAR, taper=(taper, taper), length=(90, 90), angle=(0, 0), angle_jitter=(0, 0), depths=(1, 1))
        mask = streak_opacity((128, 128), np.random.default_rng(1), params)
        ends.append(float(np.abs(np.diff(mask, axis=0)).max() / mask.max()))
    assert ends[0] > 2 * ends[1]
    params = replace(CLEAR, width=(4, 4), length=(100, 100), density=(5000, 5000), depths=(1, 1), opacity=(0.5, 0.5))
    assert streak_opacity((128, 128), np.random.default_rng(0), params).mean() < 0.7


DRAWN = {"drawn_share": 1, "grey": (0.8, 0.8)}


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("photo", "rain_type", "params", "curve", "rain"),
    [
        (GREY, "drs", {"brightness": (1, 1), "code_share": 0.0}, 1, 0.6),
        (GREY, "drs", {"brightness": (1, 1), "code_share": 1.0}, 2.2, 0.6 ** (1 / 2.2)),
        (PHOTO, "drs", DRAWN, 2.2, 0.8),  # one grey, whatever the light of the scene
        (PHOTO, "nrs", DRAWN, 2.2, 0.8),
    ],
    ids=["in light", "in codes", "drawn by day", "drawn by night"],
)
def test_streaks_are_mixed_in_light_or_in_codes_or_drawn_and_hide_or_only_add(
    photo, rain_type, params, curve, rain, added
):
    streaks = replace(CLEAR, **params, added_share=float(added))
    pair = render_rain(photo, rain_type, 5, RainParams(streaks=streaks, daylight=(0.6, 0.6)))
    wet, mask = pair.mask > 0.05, pair.mask[..., None]
    expected = to_codes((to_linear(pair.gt) ** (1 / curve) * (1 - mask * (not added)) + rain * mask) ** curve)
    assert wet.sum() > 50
    assert np.abs(pair.lq.astype(int) - expected)[wet].max() <= 1


def test_rain_is_drawn_in_a_share_of_the_scenes():
    streaks = replace(CLEAR, drawn_share=0.5, grey=(1, 1), brightness=(0, 0))
    brighter = [
        (pair.lq.astype(int) - pair.gt).mean() > 0
        for pair in (render_rain(PHOTO, "drs", seed, RainParams(streaks=streaks)) for seed in range(24))
    ]
    assert 4 < sum(brighter) < 20


SHEET = replace(CLEAR, density=(1e-3, 1e-3), sheets=(1, 1), sheet=(0.4, 0.4), cover=(0.5, 0.5), full=(0.2, 0.2))


def _steepness(field: np.ndarray, degrees: float) -> float:
    x, y = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    gy, gx = np.gradient(field)
    return float(np.abs(x * gx + y * gy).mean())


def test_a_sheet_covers_its_share_of_the_image_is_smeared_along_the_fall_and_finer_with_a_smaller_grain():
    for field in (streak_opacity((160, 160), np.random.default_rng(s), SHEET) for s in range(4)):
        assert (field > 0).mean() == pytest.approx(0.5, abs=0.02)
        assert (field > 0.399).mean() == pytest.approx(0.1, abs=0.02)  # a part of this fully
        assert field.max() == pytest.approx(0.4, abs=0.01)
    slow = replace(SHEET, angle=(30, 30), angle_jitter=(0, 0), length=(60, 60))
    steep = {}
    for grain in (1, 4):
        params = replace(slow, grain=(grain, grain))
        fields = [streak_opacity((160, 160), np.random.default_rng(s), params) for s in range(4)]
        steep[grain] = [np.mean([_steepness(field, degrees) for field in fields]) for degrees in (30, -30, -60)]
    for along, aslant, across in steep.values():
        assert along < 0.6 * across and along < 0.7 * aslant
    assert steep[1][2] > 1.5 * steep[4][2]


def test_layers_that_cross_fall_in_directions_of_their_own():
    def ratio(**crossing: object) -> float:  # steepness along the fall relative to that across
        fields = [streak_opacity((160, 160), np.random.default_rng(s), replace(CLEAR, **crossing)) for s in range(6)]
        steep = [sorted(_steepness(field, degrees) for degrees in range(-90, 90, 15)) for field in fields]
        return float(np.mean([directions[0] / directions[-1] for directions in steep]))

    for kind in ({"depths": (3, 3)}, {"depths": (0, 0), "sheets": (3, 3), "cover": (0.3, 0.3)}):
        one, several = (ratio(angle=(-60, 60), angle_jitter=(0, 0), crossing=share, **kind) for share in (0.0, 1.0))
        assert several > 1.3 * one


def test_even_drops_show_the_same_mean_before_dark_and_light():
    halves, spread = np.full((128, 128, 3), 20, np.uint8), []
    halves[:, 64:] = 200
    for even in (0, 1):
        drops = DropParams(count=(40, 40), radius=(8, 8), rim=(0, 0), sky=(0, 0), highlight=(0, 0), opacity=(1, 1),
                           even=(even, even), view=(0.22, 0.22), merge=0)  # fmt: skip
        pair = render_rain(halves, "drd", 0, RainParams(drops=drops))
        spread.append(pair.lq[pair.mask > 0.999].astype(float).std())
    assert spread[1] < 1 < 10 < spread[0]


def test_mist_by_depth_lies_before_what_is_bright():
    scene = np.full((120, 160, 3), 0.05, np.float32)
    scene[:, 80:] = 0.8
    halves = []
    for depth in (0.0, 1.0):
        params = StreakParams(veil_share=1, veil=(0.5, 0.5), veil_depth=(depth, depth))
        veil = np.mean([veil_opacity(scene, np.random.default_rng(s), params) for s in range(16)], axis=0)
        halves.append((veil[:, :70].mean(), veil[:, 90:].mean()))
    assert halves[0][1] == pytest.approx(halves[0][0], abs=0.04)
    assert halves[1][1] > halves[1][0] + 0.1


def test_a_scene_of_more_contrast_is_darker_in_the_dark_and_lighter_in_the_light():
    camera = CameraParams(dark_share=1, gain=(1, 1), gamma=(1, 1), contrast=(0.6, 0.6))
    ramp = np.repeat(np.tile(np.arange(32, 225, dtype=np.uint8), (40, 1))[..., None], 3, axis=2)
    pair = render_rain(ramp, "drs", 0, RainParams(streaks=replace(CLEAR, brightness=(0, 0)), camera=camera))
    dry = pair.mask < 0.005
    codes = to_linear(ramp) ** (1 / 2.2)
    expected = to_codes((codes - 0.6 / (2 * np.pi) * np.sin(2 * np.pi * codes)) ** 2.2)
    assert np.abs(pair.lq.astype(int) - expected)[dry].max() <= 1
    assert (expected[ramp < 110] < ramp[ramp < 110]).all() and (expected[ramp > 150] > ramp[ramp > 150]).all()
    np.testing.assert_array_equal(pair.gt, ramp)


def test_before_a_darkened_scene_the_target_keeps_its_light():
    camera = CameraParams(dark_share=1, gain=(0.5, 0.5), gamma=(1, 1))
    pair = render_rain(PHOTO, "drs", 0, RainParams(streaks=CLEAR, camera=camera))
    np.testing.assert_array_equal(pair.gt, PHOTO)
    assert pair.mask.min() > 0
    between = pair.mask < 0.005
    bright = between[..., None] & (PHOTO > 100)
    np.testing.assert_allclose(to_linear(pair.lq)[bright], 0.5 * to_linear(PHOTO)[bright], rtol=0.06)


def test_compression_comes_after_the_rain_and_is_alike_in_both_images():
    plain, compressed = (
        render_rain(PHOTO, "drd", 0, RainParams(camera=CameraParams(jpeg_share=share, jpeg=(40, 40))))
        for share in (0, 1)
    )
    for before, after in ((plain.lq, compressed.lq), (plain.gt, compressed.gt)):
        data = cv2.imencode(".jpg", before[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        np.testing.assert_array_equal(after, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    np.testing.assert_array_equal(compressed.mask > 0, (compressed.lq != compressed.gt).any(axis=2))
