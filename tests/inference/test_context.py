"""Larger images in overlapping parts, each restored as an image of its own."""

import numpy as np
import pytest
import torch

from unirain_plugin import load, restore
from unirain_plugin.inference.jobs import VideoSettings
from unirain_plugin.inference.restoring import RestoreOptions, restore_in_context, videos_with


def whiter_by_its_mean(x):
    """A stand-in for a network that decides by a mean over all pixels."""
    return x + x.mean()


def test_a_part_sees_itself_alone_and_parts_are_blended():
    image = torch.rand(1, 3, 100, 160)
    found = restore_in_context(whiter_by_its_mean, image, 64, 16)  # 64 · 4/3 is less than 100
    # parts begin at rows 0 and 36 and at columns 0, 48 and 96
    assert torch.allclose(found[..., :36, :48], image[..., :36, :48] + image[..., :64, :64].mean())
    assert torch.allclose(found[..., 64:, 112:], image[..., 64:, 112:] + image[..., 36:, 96:].mean())
    ends = image[..., :64, :64].mean(), image[..., :64, 48:112].mean()
    between = (found - image)[0, 0, 10, 48:64]
    assert min(ends) - 1e-5 <= between.min() and between.max() <= max(ends) + 1e-5
    steps = between.diff()
    assert (steps * (ends[1] - ends[0]) >= -1e-6).all() and steps.abs().max() < abs(ends[1] - ends[0]) / 4
    image = torch.rand(1, 3, 85, 160)  # 85 ≤ 64 · 4/3 < 86
    found = restore_in_context(whiter_by_its_mean, image, 64, 16)
    assert torch.allclose(found[..., :48], image[..., :48] + image[..., :64].mean())
    image = torch.rand(1, 3, 64, 300)
    wide, half = (restore_in_context(whiter_by_its_mean, image, 64, overlap) for overlap in (60, 32))
    assert torch.equal(wide, half)


@pytest.mark.parametrize("context", [0, 120, 160, 400])
def test_images_up_to_the_context_and_a_third_are_restored_as_a_whole(context):
    image = torch.rand(1, 3, 100, 160)
    assert torch.equal(restore_in_context(whiter_by_its_mean, image, context, 32), image + image.mean())


@pytest.mark.parametrize("width, parts", [(86, [56] * 2), (135, [80] * 2), (137, [64] * 3), (1000, [72] * 18)])
def test_parts_are_even_and_near_to_the_context(width, parts):
    seen = []
    restore_in_context(lambda x: seen.append(x.shape[3]) or x, torch.rand(1, 3, 64, width), 64, 16)
    assert seen == parts


def test_the_shipped_weights_restore_larger_images_in_parts():
    net, rainy = load(), np.random.default_rng(0).integers(0, 256, (24, 520, 3), dtype=np.uint8)
    assert net.restore_context == 384
    np.testing.assert_array_equal(restore(net, rainy[:, :200]), restore(net, rainy[:, :200], context=0))
    parts = restore(net, rainy[:, :200], context=96, sizes=())
    first = restore(net, rainy[:, :88], context=0, sizes=())  # three parts of 88 share 32
    np.testing.assert_array_equal(parts[:, :56], first[:, :56])  # the second part begins at 56
    np.testing.assert_array_equal(restore(net, rainy), restore(net, rainy, sizes=(), context=384))
    own = restore(net, rainy, sizes=())
    assert (restore(net, rainy) != own).any()
    np.testing.assert_array_equal(own, restore(net, rainy, context=0))


def test_a_video_begun_before_there_were_contexts_goes_on_where_it_is_not_cut_in_parts():
    net = load()

    def made_from(context):
        return videos_with(net, RestoreOptions(context=context), VideoSettings()).made_from

    assert made_from(None) == made_from(384) != made_from(0)
    assert "context" not in str(made_from(0)) and len(made_from(0)) == 5 and made_from(384)[5:] == [384]
