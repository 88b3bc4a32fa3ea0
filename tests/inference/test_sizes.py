import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unirain_plugin import load, restore
from unirain_plugin.errors import OptionError
from unirain_plugin.inference.sizes import restore_at_sizes


def blob(height, width, radius):
    """A bright spot on grey, ``(1, 3, H, W)``, and its mask."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = ((y - height // 2) ** 2 + (x - width // 2) ** 2 < radius**2).float()[None, None]
    return 0.5 + 0.3 * mask.expand(1, 3, -1, -1), mask


def removes_small_spots(x):
    """A stand-in for a network: a morphological opening, which takes bright spots narrower than 31 pixels away."""
    surroundings = -F.max_pool2d(-x, 31, 1, 15)
    return torch.minimum(x, F.max_pool2d(surroundings, 31, 1, 15))


def test_spots_too_large_for_the_network_go_at_a_smaller_size():
    image, mask = blob(300, 400, 30)
    assert torch.equal(removes_small_spots(image)[..., 150, 200], image[..., 150, 200])  # too large
    blended = restore_at_sizes(removes_small_spots, image, [100])
    inside = F.max_pool2d(1 - mask, 9, 1, 4) == 0
    assert float((blended - 0.5)[inside.expand_as(image)].abs().mean()) < 0.03
    outside = F.max_pool2d(mask, 25, 1, 12) == 0
    torch.testing.assert_close(blended[outside.expand_as(image)], image[outside.expand_as(image)], atol=1e-3, rtol=0)


def test_spots_that_are_gone_when_shrunk_are_taken_away_at_full_size():
    image, _ = blob(300, 400, 2)
    blended = restore_at_sizes(removes_small_spots, image, [40])
    assert float((blended - 0.5).abs().max()) < 0.05


def test_detail_that_the_network_leaves_is_not_touched():
    image = torch.rand(1, 3, 90, 120)
    torch.testing.assert_close(restore_at_sizes(lambda x: x, image, [64, 80]), image)


@pytest.mark.parametrize("sizes", [(), (120,), (4000, 121)])
def test_pictures_that_are_not_larger_get_the_networks_own_result(sizes):
    image = torch.rand(1, 3, 90, 120)
    calls = []
    out = restore_at_sizes(lambda x: calls.append(tuple(x.shape)) or x.sqrt(), image, sizes)
    assert torch.equal(out, image.sqrt())
    assert calls == [(1, 3, 90, 120)]


def test_narrow_pictures_keep_a_pixel():
    calls = []
    restore_at_sizes(lambda x: calls.append(tuple(x.shape[2:])) or x, torch.rand(1, 3, 1, 900), [64])
    assert calls == [(1, 900), (1, 64)]


def test_restore_and_command_take_sizes(tmp_path):
    rng = np.random.default_rng(0)
    rainy = rng.integers(0, 256, (72, 200, 3), dtype=np.uint8)
    net = load()
    plain, blended = restore(net, rainy), restore(net, rainy, sizes=(100, 70))
    assert blended.shape == plain.shape
    assert (blended != plain).any()
    from unirain_plugin.inference.command import main
    from unirain_plugin.inference.pictures import Picture, read_picture, write_picture

    write_picture(tmp_path / "a.png", Picture(rainy))
    options = ["-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    assert main([*options, "--sizes", "100", "70"]) == 0
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").pixels, blended)


def test_sizes_that_no_network_was_made_for_are_refused():
    with pytest.raises(OptionError, match="sizes: got 8; expected longer edges of at least 64"):
        restore(load(), np.zeros((99, 99, 3), np.uint8), sizes=[8])


def test_a_network_that_changes_the_size_is_refused():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with pytest.raises(OptionError, match="keeps the size"):
        restore(Twice(), np.zeros((99, 99, 3), np.uint8), sizes=[64])
