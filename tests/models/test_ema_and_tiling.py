"""The moving average of parameters and buffers; restoration in tiles."""

import itertools
from itertools import pairwise

import pytest
import torch
from model_helpers import StubNet, batch_of, model_of, planted, train
from torch import nn

from unirain_plugin.models.training_step import update_average
from unirain_plugin.support.tiling import restore_in_tiles, tile_starts


def test_average_of_parameters_and_buffers():
    average, network = StubNet(), StubNet()
    with torch.no_grad():
        for module, value in ((average, 1.0), (network, 3.0)):
            for parameter in module.parameters():
                parameter.fill_(value)
            module.seen.fill_(value)
            module.steps.fill_(int(value))
    update_average(average, network, decay=0.75)
    for value in (*average.parameters(), average.seen):
        torch.testing.assert_close(value, torch.full_like(value, 1.5))
    assert average.steps.item() == 3  # counters are copied
    assert network.seen.item() == 3


def test_average_follows_training_and_not_a_skipped_step(tmp_path):
    model = model_of(tmp_path, ema_decay=0.5)
    start = model.net_g.conv.weight.clone()
    torch.testing.assert_close(model.net_g_ema.conv.weight, start)
    train(model, [batch_of([0, 1, 2, 3])])
    torch.testing.assert_close(model.net_g_ema.conv.weight, (start + model.net_g.conv.weight) / 2)
    assert model.net_g_ema.seen.item() == 0.5
    before = model.net_g_ema.conv.weight.clone()
    train(model, [planted()], start=2)
    assert torch.equal(model.net_g_ema.conv.weight, before)


def test_tiles_cover_the_length_and_share_the_overlap():
    for length in (7, 8, 9, 20, 33, 64, 100):
        starts = tile_starts(length, 8, 3)
        assert (starts[0], starts[-1]) == (0, max(0, length - 8))
        assert all(0 < b - a <= 5 for a, b in pairwise(starts))


@pytest.mark.parametrize("size", [(40, 57), (16, 16), (17, 100), (33, 5)])
def test_a_network_of_short_reach_gives_the_untiled_result(size):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 5, padding=2)  # reach 2 = overlap / 4
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(restore_in_tiles(conv, image, tile=16, overlap=8), conv(image))


def test_tiles_blend_without_a_seam_and_scale():
    level = itertools.count()

    def restore(part):
        return torch.full((1, 3, part.shape[-2] * 2, part.shape[-1] * 2), float(next(level)))

    result = restore_in_tiles(restore, torch.zeros(1, 3, 8, 28), tile=16, overlap=4)[0, 0, 0]
    assert result.shape == (56,)
    steps = result.diff()
    assert (steps >= 0).all()
    assert steps.max() < 0.35  # from 0 to 1 over the inner half of the overlap, not at once
    assert (result[0], result[-1]) == (0, 1)


def test_large_images_are_tiled_in_validation(tmp_path):
    model, shapes = model_of(tmp_path, val={"tile": 16, "tile_overlap": 8}), set()
    model.net_g.register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape[-2:])))
    lq = torch.rand(1, 3, 16, 40)
    model.feed_data({"lq": lq})
    model.test()
    assert shapes == {(16, 16)}
    assert model.net_g.training
    with torch.no_grad():
        torch.testing.assert_close(model.output, model.net_g(lq))
