import cv2
import numpy as np

from unirain_plugin.rain.light import to_linear
from unirain_plugin.rain.variation import add_bars, add_letters, add_strands, add_stripes, compressed, soft, toned


def test_toned_photographs_have_less_light_and_keep_the_order_of_their_values():
    photo = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    curves = np.stack([toned(photo, np.random.default_rng(seed))[:, 0, 0].astype(int) for seed in range(20)])
    assert (np.diff(curves, axis=1) >= 0).all()
    assert (curves[:, 255] <= 255).all() and curves[:, 255].min() < 170
    middle = curves[:, 128] / curves[:, 255]  # contrast: higher and lower than before
    assert middle.min() < 0.45 and middle.max() > 0.55


def test_compressed_images_differ_the_more_the_lower_the_quality():
    photo = np.random.default_rng(0).integers(60, 200, (64, 64, 1), dtype=np.uint8).repeat(3, axis=2)
    high, low = (compressed(photo, np.random.default_rng(0), (q, q)).astype(int) - photo for q in (98, 30))
    assert 0 < np.abs(high).mean() < 0.5 * np.abs(low).mean()
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(compressed(red, np.random.default_rng(0)).astype(int) - red).max() < 12  # channels stay in order


def test_soft_photographs_keep_their_light_but_for_glints_and_most_often_a_sharp_part():
    photo = np.random.default_rng(0).integers(60, 200, (96, 96, 3), dtype=np.uint8)
    sharp_parts, light = [], []
    for seed in range(20):
        result = soft(photo, np.random.default_rng(seed))
        light.append(to_linear(result).mean() / to_linear(photo).mean())
        assert result.std() < 0.97 * photo.std()
        sharp_parts.append((result == photo).all(axis=2).mean() > 0.02)
    assert sum(sharp_parts) > 10
    assert min(light) > 0.98 and np.median(light) < 1.05 and max(light) > 1.03


def test_strands_are_darker_and_lighter_fine_and_in_the_colour_of_what_they_lie_on():
    photo = np.full((96, 96, 3), (60, 120, 40), np.uint8)
    changes = [to_linear(add_strands(photo, np.random.default_rng(s))) / to_linear(photo) for s in range(12)]
    changes = np.log(changes)
    assert min(np.abs(change).mean() for change in changes) > 0.02
    assert min((changes > 0.05).mean(), (changes < -0.05).mean()) > 0.1
    assert np.abs(changes - changes.mean(axis=3, keepdims=True)).mean() < 0.2 * np.abs(changes).mean()


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


def test_stripes_are_regular_and_of_two_levels_or_of_a_wave():
    photo, strongest = np.full((128, 128, 3), 120, np.uint8), []
    for seed in range(24):
        change = to_linear(add_stripes(photo, np.random.default_rng(seed)))[..., 1] - to_linear(photo)[..., 1]
        power = np.abs(np.fft.rfft2(change - change.mean(), norm="ortho")) ** 2
        strongest.append(np.sort(power.ravel())[-12:].sum() / max(power.sum(), 1e-9))
        assert np.isfinite(change).all()
    assert np.median(strongest) > 0.25  # of noise it would be 0.01


def test_letters_are_of_one_colour_and_cover_a_part_of_the_image():
    shares = []
    for seed in range(12):
        dark, light = (add_letters(np.full((128, 128, 3), v, np.uint8), np.random.default_rng(seed)) for v in (20, 240))
        inside = (dark == light).all(axis=2)  # opaque: nothing of the ground is left
        shares.append(inside.mean())
        if inside.any():
            assert np.ptp(dark[inside], axis=0).max() == 0
    assert 0.01 < np.median(shares) < 0.5 and max(shares) < 0.8
