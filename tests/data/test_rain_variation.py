import cv2
import numpy as np

from unirain_plugin.rain.light import to_linear
from unirain_plugin.rain.variation import add_bars, dull, soft, soften_rain


def test_dull_pictures_have_the_given_share_of_light_and_are_blurred():
    photo = np.random.default_rng(0).integers(60, 200, (64, 64, 3), dtype=np.uint8)
    contrast = photo.std()
    for blur, light in ((0.5, 0.9), (1, 0.6), (2, 0.35)):
        result = dull(photo, blur, light)
        assert abs(to_linear(result).mean() / to_linear(photo).mean() - light) < 0.01
        assert result.std() < 0.8 * contrast
        contrast = result.std()
    np.testing.assert_array_equal(dull(photo, 0, 1), photo)
    np.testing.assert_allclose(to_linear(dull(photo, 0, 0.5)), 0.5 * to_linear(photo), rtol=0.02)


def test_softened_rain_is_blurred_before_an_unchanged_picture_and_keeps_its_light():
    clean = np.random.default_rng(0).integers(0, 120, (64, 64, 3), dtype=np.uint8)
    rainy = clean.copy()
    rainy[:, 30:32] = 200
    kept = []
    for seed in range(20):
        np.testing.assert_array_equal(soften_rain(clean, clean, np.random.default_rng(seed)), clean)
        result = soften_rain(rainy, clean, np.random.default_rng(seed))
        np.testing.assert_array_equal(result[:, :15], clean[:, :15])
        in_light, in_codes = (
            [convert(picture) - convert(clean) for picture in (result, rainy)] for convert in (to_linear, np.float32)
        )
        kept.append([added.sum() / before.sum() for added, before in (in_light, in_codes)])
        assert in_codes[0].max() < 0.8 * in_codes[1].max()
    kept = np.abs(np.array(kept) - 1) < 0.02  # of the light or of the codes: each in some
    assert kept.any(axis=1).all() and kept.any(axis=0).all() and not kept.all(axis=1).any()


def test_soft_photographs_keep_their_light_and_most_often_a_sharp_part():
    photo = np.random.default_rng(0).integers(60, 200, (96, 96, 3), dtype=np.uint8)
    sharp_parts = []
    for seed in range(20):
        result = soft(photo, np.random.default_rng(seed))
        assert abs(to_linear(result).mean() / to_linear(photo).mean() - 1) < 0.02
        assert result.std() < 0.97 * photo.std()
        sharp_parts.append((result == photo).all(axis=2).mean() > 0.02)
    assert sum(sharp_parts) > 10


def test_bars_are_few_long_and_opaque_and_more_of_them_upright():
    photo = np.full((96, 96, 3), 188, np.uint8)  # half of full light
    across, down, counts, longest = 0, 0, [], []
    for seed in range(40):
        result = add_bars(photo, np.random.default_rng(seed))
        changed = (result != photo).any(axis=2).astype(np.uint8)
        assert changed.mean() < 0.75
        number, _, boxes, _ = cv2.connectedComponentsWithStats(changed)
        counts.append(number - 1)
        longest.append(max(boxes[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].ravel(), default=0))
        across += np.abs(np.diff(result.astype(int), axis=1)).sum()
        down += np.abs(np.diff(result.astype(int), axis=0)).sum()
    assert max(counts) <= 4 and np.mean(counts) > 1
    assert np.median(longest) > 48
    assert across > 1.3 * down
    # within sharp, wide bars nothing of the photograph is left: whatever its light, the codes are the same
    photos = [np.full((256, 256, 3), value, np.uint8) for value in (20, 240)]
    pairs = [[add_bars(photo, np.random.default_rng(seed)) for photo in photos] for seed in range(10)]
    assert max((dark == light).all(axis=2).mean() for dark, light in pairs) > 0.02
