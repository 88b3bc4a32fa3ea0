"""The renderer: determinism, alignment, what tells the types apart, snow and haze, error texts."""

import subprocess
import sys
from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest
from data_images import direction

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain.drops import drop_field
from unirain_plugin.rain.light import LUMA, kelvin_to_rgb, to_codes, to_linear
from unirain_plugin.rain.night import make_night
from unirain_plugin.rain.params import REAL_RAIN, HazeParams, SnowParams
from unirain_plugin.rain.render import DropParams, NightParams, RainParams, StreakParams, render_rain
from unirain_plugin.rain.sample_photos import SPLITS, sample_photos
from unirain_plugin.rain.streaks import streak_opacity, veil_opacity
from unirain_plugin.rain_types import KNOWN_TYPES, RAIN_TYPES

SEEDS = range(4)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    path = next(path for path in sample_photos() if path.name == "coffee.png")
    pixels = cv2.imread(str(path))[..., ::-1]
    scale = 160 / min(pixels.shape[:2])
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:160, :160]


@pytest.fixture(scope="module")
def pairs(photo: np.ndarray) -> dict:
    return {t: [render_rain(photo, t, seed) for seed in SEEDS] for t in KNOWN_TYPES}


GOLDEN = {
    "drs": (0.8570, 0.1553, 17.8217, 158.9832),
    "drd": (0.7194, 0.3152, 10.4900, 158.9684),
    "nrs": (0.7486, 0.1449, 22.5175, 60.1610),
    "nrd": (0.4570, 0.1952, 3.6258, 62.7386),
    "snow": (1.0000, 0.1872, 8.5740, 158.9844),
    "haze": (1.0000, 0.5109, 21.5185, 158.9844),
}
"""Share of the pixels with rain, mean opacity, mean change, mean level of the clean image, of renderer 11."""


@pytest.mark.parametrize("rain_type", KNOWN_TYPES)
def test_a_seed_gives_the_rain_of_earlier_releases(rain_type):
    rows, columns = np.mgrid[:96, :128]
    scene = np.stack([60 + columns, 40 + 2 * rows, 200 - columns], 2).astype(np.uint8)
    scene[:30] = scene[:30] // 4 + 170
    found = []
    for seed, params in enumerate([RainParams()] * 3 + list(REAL_RAIN.get(rain_type, ()))):
        lq, gt, mask = render_rain(scene, rain_type, seed, params)
        found.append(((mask > 0).mean(), mask.mean(), np.abs(lq.astype(int) - gt).mean(), gt.mean()))
    assert np.mean(found, axis=0) == pytest.approx(GOLDEN[rain_type], rel=3e-3), "raise RENDERER_VERSION with it"


@pytest.mark.parametrize("rain_type", KNOWN_TYPES)
def test_pairs_are_aligned_and_the_same_for_a_seed_whatever_came_before(photo, pairs, rain_type):
    for pair in pairs[rain_type]:
        assert pair.lq.shape == pair.gt.shape == photo.shape
        assert pair.lq.dtype == pair.gt.dtype == np.uint8
        assert pair.mask.shape == photo.shape[:2] and pair.mask.dtype == np.float32
        assert pair.mask.min() >= 0 and 0.1 < pair.mask.max() <= 1
        if rain_type not in ("nrs", "nrd"):
            np.testing.assert_array_equal(pair.gt, photo)
        if rain_type in RAIN_TYPES:
            dry, wet = pair.mask == 0, pair.mask > 0.3
            assert 0.1 < dry.mean() < 0.99
            np.testing.assert_array_equal(pair.lq[dry], pair.gt[dry])
            assert wet.any() and np.abs(pair.lq[wet].astype(int) - pair.gt[wet]).mean() > 4
    np.random.default_rng(5).random(100)
    render_rain(photo, "nrd", 99)
    np.random.seed(1)
    for first, second in zip(pairs[rain_type][2], render_rain(photo, rain_type, 2), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(pairs[rain_type][0].lq, pairs[rain_type][1].lq)


def test_types_have_streams_of_their_own_and_the_photo_is_untouched(photo, pairs):
    before = photo.copy()
    generators = [np.random.default_rng(3) for _ in range(2)]
    one, two = (render_rain(photo, "drd", rng) for rng in generators)
    np.testing.assert_array_equal(one.lq, two.lq)
    np.testing.assert_array_equal(photo, before)
    one.gt[:] = 0  # the pair owns its memory
    np.testing.assert_array_equal(photo, before)
    assert not np.array_equal(pairs["drs"][0].mask, pairs["nrs"][0].mask)


def test_streaks_have_the_direction_of_their_angle_and_drops_have_none():
    def anisotropy(mask):
        return direction(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0))[1]

    streaks = [streak_opacity((160, 160), np.random.default_rng(s), StreakParams()) for s in range(8)]
    drops = [drop_field((160, 160), np.random.default_rng(s), DropParams()).rho < 1 for s in range(8)]
    lines, blobs = ([anisotropy(mask) for mask in masks] for masks in (streaks, drops))
    assert min(lines) > max(blobs) and np.mean(lines) > 0.5 > 0.25 > np.mean(blobs)
    for angle in (-30.0, 25.0):
        params = StreakParams(angle=(angle, angle), angle_jitter=(0.5, 0.5))
        mask = streak_opacity((160, 160), np.random.default_rng(0), params)
        across, _ = direction(cv2.GaussianBlur(mask, (0, 0), 2))
        # across a streak that falls along (sin a, cos a) the gradient points along (cos a, -sin a)
        assert across == pytest.approx(-angle, abs=3)


def test_drops_are_wider_than_streaks_and_night_is_darker_and_has_lamps(pairs):
    """Eroding by three pixels leaves drops and removes streaks."""
    kernel = np.ones((7, 7), np.uint8)

    def remains(mask: np.ndarray) -> float:
        wet = (mask > 0.25).astype(np.uint8)
        return cv2.erode(wet, kernel).sum() / max(wet.sum(), 1)

    share = {t: np.mean([remains(pair.mask) for pair in pairs[t]]) for t in RAIN_TYPES}
    assert min(share["drd"], share["nrd"]) > 5 * max(share["drs"], share["nrs"])
    day = np.mean([pair.gt.mean() for t in ("drs", "drd") for pair in pairs[t]])
    night = [pair.gt for t in ("nrs", "nrd") for pair in pairs[t]]
    assert np.mean([gt.mean() for gt in night]) < 0.7 * day
    assert all((gt.max(axis=2) > 230).any() for gt in night)


def test_streaks_brighten_and_the_dark_the_most():
    gains = []
    for grey in (40, 120, 200):
        photo = np.full((128, 128, 3), grey, np.uint8)
        photo[:16] = 235  # a bright sky
        params = RainParams(streaks=StreakParams(veil_share=0.0))
        pair = render_rain(photo, "drs", 4, params)
        wet = pair.mask > 0.2
        wet[:16] = False
        gains.append(float((pair.lq[wet].astype(float) - grey).mean()))
    assert gains[0] > gains[1] > gains[2] > 0


def test_a_drop_shows_the_scene_upside_down():
    photo = np.zeros((128, 128, 3), np.uint8)
    photo[:64] = 220  # bright sky above a dark ground
    params = DropParams(opacity=(1.0, 1.0), rim=(0.0, 0.0), sky=(0.0, 0.0), highlight=(0.0, 0.0), view=(0.5, 0.5))
    upper, lower = [], []
    for seed in range(6):
        field = drop_field((128, 128), np.random.default_rng([seed, 1]), params)
        pair = render_rain(photo, "drd", np.random.default_rng([seed, 1]), RainParams(drops=params))
        inside = (field.rho < 0.7) & (pair.mask > 0.9) & (np.abs(field.y - 64) < 20)
        upper += pair.lq[inside & (field.v < -0.3)].ravel().tolist()
        lower += pair.lq[inside & (field.v > 0.3)].ravel().tolist()
    assert np.mean(lower) > np.mean(upper) + 60


def test_rain_scales_with_the_image():
    """Twice the size, twice the width of everything: about the same covered area."""
    for rain_type in ("drs", "drd"):
        cover = []
        for side in (128, 256):
            photo = np.full((side, side, 3), 90, np.uint8)
            cover.append(np.mean([(render_rain(photo, rain_type, s).mask > 0.1).mean() for s in range(6)]))
        assert 0.6 < cover[0] / cover[1] < 1.7


def test_veil_is_bounded_and_leaves_the_near_part_free():
    def veils(**params):
        scene, params = np.zeros((120, 100, 3), np.float32), StreakParams(veil=(0.2, 0.2), **params)
        return np.stack([veil_opacity(scene, np.random.default_rng(seed), params) for seed in range(8)])

    found = veils(veil_share=1.0)
    assert found.shape == (8, 120, 100) and found.min() >= 0 and found.max() <= 0.2 + 1e-6
    assert (found[:, :12].mean((1, 2)) > found[:, -12:].mean((1, 2))).all()
    assert ((found[:, -12:] == 0).mean((1, 2)) > 0.5).all()
    assert not veils(veil_share=0.0).any()


def test_night_noise_is_the_same_in_both_images(photo):
    params = NightParams(shot_noise=(0.005, 0.005))
    night = make_night(to_linear(photo), np.random.default_rng(0), params, params.streak_gain)
    noisy = night.photograph(night.scene)
    np.testing.assert_array_equal(noisy, night.photograph(night.scene.copy()))
    quiet = replace(night, noise=np.zeros_like(night.noise)).photograph(night.scene)
    assert cv2.PSNR(noisy, quiet) < 40  # there is noise


def test_transfer_curves_are_inverse_and_as_srgb_says_and_colour_temperatures_as_of_a_black_body():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_codes(to_linear(codes)), codes)
    # IEC 61966-2-1 by hand: 188/255 = 0.73725 → ((0.73725 + 0.055) / 1.055)^2.4 = 0.50289
    assert to_linear(np.uint8(188)) == pytest.approx(0.50289, abs=1e-5)
    assert to_linear(np.uint8(10)) == pytest.approx(10 / 255 / 12.92, rel=1e-5)
    assert to_codes(np.array([-1.0, 2.0])).tolist() == [0, 255]
    for kelvin in (1800, 2700, 4000, 6504, 12000):
        assert float(kelvin_to_rgb(kelvin) @ LUMA) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kelvin_to_rgb(6504), 1, atol=0.06)  # D65 lies near the Planckian locus
    warm, cold = kelvin_to_rgb(2200), kelvin_to_rgb(12000)
    assert warm[0] > 3 * warm[2] and cold[2] > cold[0]


@pytest.mark.parametrize("rain_type", KNOWN_TYPES)
def test_flat_black_and_white_photos_and_those_in_floating_point(photo, pairs, rain_type):
    for value, seed in product((0, 255), SEEDS):
        pair = render_rain(np.full((32, 47, 3), value, np.uint8), rain_type, seed)
        assert pair.lq.shape == (32, 47, 3) and np.isfinite(pair.mask).all()
    np.testing.assert_array_equal(render_rain(photo.astype(np.float32) / 255, "drs", 0).gt, photo)


def test_bad_photos_and_arguments():
    plain = np.zeros((64, 64, 3), np.uint8)
    for photo, message in (
        (plain[..., 0], r"shape \(64, 64\); expected a colour image"),
        (np.zeros((64, 64, 4), np.uint8), r"shape \(64, 64, 4\); expected a colour image"),
        (plain[:31], r"31×64 pixels; expected at least 32×32"),
        (plain.astype(np.uint16), r"type uint16; expected uint8"),
        (plain + 1.5, r"from 1.5 to 1.5; floating point must lie in \[0, 1\]"),
        (plain + np.nan, "from nan to nan"),
        ([[1]], "found list; expected a colour image"),
    ):
        with pytest.raises(DataError, match=message):
            render_rain(photo, "drs", 0)
    unknown = r"'drx' cannot be rendered; known types: drs, drd, nrs, nrd, snow, haze. Did you mean 'dr"
    seeds = [("drs", seed, "expected an integer ≥ 0") for seed in (-1, 1.5, None, True, "7")]
    for rain_type, seed, message in (("drx", 0, unknown), *seeds):
        with pytest.raises(OptionError, match=message):
            render_rain(plain, rain_type, seed)
    with pytest.raises(OptionError, match=r"StreakParams.angle: \(10, -10\) is no range"):
        StreakParams(angle=(10, -10))


def test_sample_photos_are_divided_by_scene(monkeypatch):
    train, held_out = ({p.name for p in sample_photos(split)} for split in SPLITS)
    assert len(train) == 4 and len(held_out) == 2 and not train & held_out
    scenes = [{name.split("_")[0].split(".")[0] for name in names} for names in (train, held_out)]
    assert not scenes[0] & scenes[1]
    assert {p.name for p in sample_photos()} == train | held_out
    for path in sample_photos():
        pixels = cv2.imread(str(path))
        assert min(pixels.shape[:2]) >= 256 and np.ptp(pixels.astype(int), axis=2).mean() > 10  # large, in colour
    with pytest.raises(OptionError, match="Did you mean 'held-out'"):
        sample_photos("heldout")
    monkeypatch.setitem(SPLITS, "train", ("coffee.png", "gone.png"))
    with pytest.raises(DataError, match=r"data: this scikit-image lacks gone\.png; install"):
        sample_photos("train")


def test_renderer_needs_no_torch():
    modules = ", ".join(f"unirain_plugin.rain.{name}" for name in ("render", "sample_photos", "pair_files", "command"))
    heavy = "[m for m in ('torch', 'basicsr', 'skimage') if m in sys.modules]"
    done = subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit({heavy} or 0)"])
    assert done.returncode == 0


def test_haze_mixes_the_scene_with_one_airlight_and_thickens_with_the_distance(photo):
    pair = render_rain(photo, "haze", 3)
    opacity = pair.mask[..., None]
    airlight = ((to_linear(pair.lq) - (1 - opacity) * to_linear(pair.gt)) / opacity)[pair.mask > 0.3]
    assert len(airlight) > 1000
    assert (airlight.std(axis=0) < 0.02).all() and airlight.mean() > 0.3
    even = RainParams(haze=HazeParams(far=(0.8, 0.8), near=(0.1, 0.1), relief=(0, 0)))
    rows = render_rain(photo, "haze", 0, even).mask.mean(axis=1)
    assert (np.diff(rows) <= 1e-6).all()
    assert rows[0] == pytest.approx(0.8, abs=0.01)
    assert rows[-1] == pytest.approx(1 - 0.2**0.1, abs=0.01)  # a tenth of the greatest distance
    full = RainParams(haze=HazeParams(far=(1, 1)), streaks=StreakParams(veil_share=1.0, veil=(1, 1)))
    for rain_type in ("haze", "drs"):  # a wall of haze or mist is finite
        mask = render_rain(photo, rain_type, 0, full).mask
        assert np.isfinite(mask).all() and mask.max() > 0.99


def test_flakes_brighten_what_is_darker_than_they_are_and_keep_their_look_at_another_size(photo):
    clear = RainParams(snow=SnowParams(veil=HazeParams(far=(0, 0)), brightness=(1, 1)))
    for seed in range(4):
        pair = render_rain(photo // 3, "snow", seed, clear)
        luma = [to_linear(image) @ LUMA for image in (pair.lq, pair.gt)]
        snowy = (pair.mask > 0.3) & (luma[1] < np.quantile(luma[1], 0.6))
        assert snowy.any() and np.mean(luma[0][snowy] > luma[1][snowy]) > 0.98
        dry = pair.mask == 0
        assert dry.mean() > 0.2 and np.array_equal(pair.lq[dry], pair.gt[dry])
    large = cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    cover = [np.mean([(render_rain(p, "snow", s).mask > 0.3).mean() for s in range(6)]) for p in (photo, large)]
    assert cover[0] == pytest.approx(cover[1], rel=0.4) and cover[0] > 0.005
