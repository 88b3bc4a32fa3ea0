import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unirain_plugin import load, restore
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference.command import main as inference
from unirain_plugin.inference.export import main as export
from unirain_plugin.inference.images import StoredImage, read_image, write_image
from unirain_plugin.inference.restoring import LARGE_RAIN, restore_at_sizes


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
    shift = (blended - image)[outside.expand_as(image)]  # the same everywhere: it keeps the image's mean colour
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), atol=1e-3, rtol=0)
    assert 0 < float(shift.mean()) < 0.3 * float(mask.mean())
    torch.testing.assert_close(blended.mean((2, 3)), removes_small_spots(image).mean((2, 3)))


def test_spots_that_are_gone_when_shrunk_are_taken_away_at_full_size():
    image, _ = blob(300, 400, 2)
    blended = restore_at_sizes(removes_small_spots, image, [40])
    assert float((blended - 0.5).abs().max()) < 0.05


def test_detail_that_the_network_leaves_is_not_touched():
    image = torch.rand(1, 3, 90, 120)
    torch.testing.assert_close(restore_at_sizes(lambda x: x, image, [64, 80]), image)


def test_the_mean_colour_is_that_of_full_size():
    """Rain seen at a smaller size only makes the image neither brighter nor darker."""
    image = torch.rand(1, 3, 90, 120)
    darkened = lambda x: x - 0.1 if x.shape[2] == 45 else x - 0.02  # noqa: E731
    blended = restore_at_sizes(darkened, image, [60])
    torch.testing.assert_close(blended.mean((2, 3)), image.mean((2, 3)) - 0.02)


def test_a_correction_from_smaller_sizes_is_shrunk():
    def darkens_the_left(x):
        left = torch.arange(x.shape[3]) < x.shape[3] / 2
        return x - 0.1 * left if x.shape[2] == 100 else x

    change = restore_at_sizes(darkens_the_left, torch.full((1, 3, 200, 400), 0.5), [200]) - 0.5
    torch.testing.assert_close(change[..., :180], torch.full((1, 3, 200, 180), -0.0475), atol=2e-4, rtol=0)
    torch.testing.assert_close(change[..., 220:], torch.full((1, 3, 200, 180), 0.0475), atol=2e-4, rtol=0)


@pytest.mark.parametrize("sizes", [(), (91,), (4000, 120)])
def test_images_that_are_not_much_larger_get_the_networks_own_result(sizes):
    image = torch.rand(1, 3, 90, 120)
    calls = []
    out = restore_at_sizes(lambda x: calls.append(tuple(x.shape)) or x.sqrt(), image, sizes)
    assert torch.equal(out, image.sqrt())
    assert calls == [(1, 3, 90, 120)]


def test_narrow_images_keep_a_pixel():
    calls = []
    restore_at_sizes(lambda x: calls.append(tuple(x.shape[2:])) or x, torch.rand(1, 3, 1, 900), [64])
    assert calls == [(1, 900), (1, 64)]


def test_restore_and_command_take_sizes(tmp_path):
    rng = np.random.default_rng(0)
    rainy = rng.integers(0, 256, (72, 200, 3), dtype=np.uint8)
    net = load()
    plain, blended = restore(net, rainy, sizes=()), restore(net, rainy, sizes=(100, 70))
    assert blended.shape == plain.shape
    assert (blended != plain).any()
    write_image(tmp_path / "a.png", StoredImage(rainy))
    options = ["-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    assert inference([*options, "--sizes", "100", "70"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, blended)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_sizes_named_by_the_weights_file_are_the_default(tmp_path, suffix):
    net = load()
    assert net.restore_sizes == LARGE_RAIN
    path = tmp_path / f"w{suffix}"
    write_weights(path, net.state_dict(), net.architecture, (100, 70))
    net = load(path)
    assert net.restore_sizes == (100, 70)
    rainy = np.random.default_rng(0).integers(0, 256, (72, 200, 3), dtype=np.uint8)
    named, given, none = (restore(net, rainy, sizes=s) for s in (None, (100, 70), ()))
    np.testing.assert_array_equal(named, given)
    assert (named != none).any()
    write_weights(path, net.state_dict(), net.architecture)
    np.testing.assert_array_equal(restore(load(path), rainy), none)


def test_the_command_leaves_sizes_to_the_weights_or_turns_them_off(tmp_path):
    rainy = np.random.default_rng(0).integers(0, 256, (48, 600, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", StoredImage(rainy))
    options = ["-i", str(tmp_path / "a.png"), "--quiet", "--device", "cpu"]
    assert inference([*options, "-o", str(tmp_path / "named")]) == 0
    assert inference([*options, "-o", str(tmp_path / "none"), "--sizes"]) == 0
    net = load()
    for folder, sizes in (("named", LARGE_RAIN), ("none", ())):
        found = read_image(tmp_path / folder / "a.png").pixels
        np.testing.assert_array_equal(found, restore(net, rainy, sizes=sizes))


def test_export_keeps_or_changes_the_sizes(tmp_path):
    kept, changed = tmp_path / "kept.pth", tmp_path / "changed.safetensors"
    assert export(["-o", str(kept), "--format", "pth"]) == 0
    assert load(kept).restore_sizes == LARGE_RAIN
    assert export(["--weights", str(kept), "-o", str(changed), "--sizes", "320"]) == 0
    assert load(changed).restore_sizes == (320,)
    assert export(["--weights", str(kept), "-o", str(changed), "--overwrite", "--sizes"]) == 0
    assert load(changed).restore_sizes == ()


def test_sizes_that_could_not_be_read_again_are_not_written(tmp_path):
    with pytest.raises(OptionError, match="sizes: got 63; expected longer edges of at least 64 pixels"):
        write_weights(tmp_path / "w.pth", {}, {"type": "UniRain"}, sizes=[64, 63])
    assert not list(tmp_path.iterdir())
    write_weights(tmp_path / "w.pth", {}, {"type": "UniRain"}, sizes=[64])


def test_sizes_in_a_format_that_cannot_name_them_are_refused(tmp_path):
    with pytest.raises(OptionError, match="--sizes: a file of format pt2 cannot name them; safetensors, pth, onnx can"):
        export(["-o", str(tmp_path / "w.pt2"), "--format", "pt2", "--sizes", "320"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["640", "[640, 0]", "[63]", "[true]", '["a"]', "[640"])
def test_stored_sizes_that_are_none_name_the_file(tmp_path, text):
    net = load()
    torch.save({"params": net.state_dict(), "sizes": text}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"w\.pth: the stored sizes cannot be read.*expected such as \[640, 427\]"
    ):
        load(tmp_path / "w.pth")


def test_sizes_that_no_network_was_made_for_are_refused():
    with pytest.raises(OptionError, match="sizes: got 8; expected longer edges of at least 64"):
        restore(load(), np.zeros((99, 99, 3), np.uint8), sizes=[8])


def test_a_network_that_changes_the_size_is_refused():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with pytest.raises(OptionError, match="keeps the size"):
        restore(Twice(), np.zeros((99, 99, 3), np.uint8), sizes=[64])
