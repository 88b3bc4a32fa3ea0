"""Restoring at smaller sizes as well, and larger images in overlapping parts, each as an image of its own."""

import importlib

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
from unirain_plugin.inference.jobs import VideoSettings
from unirain_plugin.inference.loading import build_network
from unirain_plugin.inference.restoring import (
    LARGE_RAIN,
    RestoreOptions,
    restore_at_sizes,
    restore_in_context,
    videos_with,
)


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
    image, _ = blob(300, 400, 2)
    blended = restore_at_sizes(removes_small_spots, image, [40])
    assert float((blended - 0.5).abs().max()) < 0.05


def test_detail_and_mean_colour_are_those_of_full_size_and_corrections_are_shrunk():
    image = torch.rand(1, 3, 90, 120)
    torch.testing.assert_close(restore_at_sizes(lambda x: x, image, [64, 80]), image)
    darkened = lambda x: x - 0.1 if x.shape[2] == 45 else x - 0.02  # noqa: E731
    blended = restore_at_sizes(darkened, image, [60])
    torch.testing.assert_close(blended.mean((2, 3)), image.mean((2, 3)) - 0.02)

    def darkens_the_left(x):
        left = torch.arange(x.shape[3]) < x.shape[3] / 2
        return x - 0.1 * left if x.shape[2] == 100 else x

    change = restore_at_sizes(darkens_the_left, torch.full((1, 3, 200, 400), 0.5), [200]) - 0.5
    torch.testing.assert_close(change[..., :180], torch.full((1, 3, 200, 180), -0.0475), atol=2e-4, rtol=0)
    torch.testing.assert_close(change[..., 220:], torch.full((1, 3, 200, 180), 0.0475), atol=2e-4, rtol=0)


@pytest.mark.parametrize("sizes", [(), (91,), (4000, 120)])
def test_images_that_are_not_much_larger_get_the_networks_own_result_and_narrow_ones_keep_a_pixel(sizes):
    image, calls = torch.rand(1, 3, 90, 120), []
    out = restore_at_sizes(lambda x: calls.append(tuple(x.shape)) or x.sqrt(), image, sizes)
    assert torch.equal(out, image.sqrt())
    assert calls == [(1, 3, 90, 120)]
    calls.clear()
    restore_at_sizes(lambda x: calls.append(tuple(x.shape[2:])) or x, torch.rand(1, 3, 1, 900), [64])
    assert calls == [(1, 900), (1, 64)]


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


HOW = {
    "sizes": ((100, 70), LARGE_RAIN, (), r"sizes: got 63; expected longer edges of at least 64 pixels", [64, 63]),
    "context": (96, 384, 0, r"context: got 63; expected 0 .the whole image. or at least 64 pixels", 63),
}
"""What weights files name of restoring: a value of a test, that of the shipped weights, none; and a wrong one."""


@pytest.fixture(scope="module")
def rainy():
    return np.random.default_rng(0).integers(0, 256, (72, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("key", HOW)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_the_weights_name_is_the_default_and_the_command_takes_another(tmp_path, rainy, key, suffix):
    net, path = load(), tmp_path / f"w{suffix}"
    value, shipped, none, *_ = HOW[key]
    assert getattr(net, f"restore_{key}") == shipped
    write_weights(path, net.state_dict(), net.architecture, **{key: value})
    named = load(path)
    assert getattr(named, f"restore_{key}") == value
    found, alone = (restore(named, rainy, **{key: chosen}) for chosen in (value, none))
    np.testing.assert_array_equal(restore(named, rainy), found)
    assert found.shape == alone.shape and (found != alone).any()
    write_weights(path, net.state_dict(), net.architecture)
    assert getattr(load(path), f"restore_{key}") == none
    np.testing.assert_array_equal(restore(load(path), rainy), alone)
    write_image(tmp_path / "a.png", StoredImage(rainy))
    options = ["-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    numbers = map(str, np.atleast_1d(value))
    assert inference([*options, "--weights", str(path), f"--{key}", *numbers]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, found)


@pytest.mark.parametrize("key", HOW)
def test_export_keeps_or_changes_what_the_weights_name(tmp_path, key):
    kept, changed = tmp_path / "kept.pth", tmp_path / "changed.safetensors"
    _, shipped, none, *_ = HOW[key]
    assert export(["-o", str(kept), "--format", "pth"]) == 0
    assert getattr(load(kept), f"restore_{key}") == shipped
    absent = [] if key == "sizes" else ["0"]
    for numbers, value in ((["320"], (320,) if key == "sizes" else 320), (absent, none)):
        assert export(["--weights", str(kept), "-o", str(changed), "--overwrite", f"--{key}", *numbers]) == 0
        assert getattr(load(changed), f"restore_{key}") == value
    with pytest.raises(OptionError, match=f"--{key}: a file of format pt2 cannot name them; safetensors, pth, onnx"):
        export(["-o", str(tmp_path / "w.pt2"), "--format", "pt2", f"--{key}", "96"])
    assert not (tmp_path / "w.pt2").exists()


@pytest.mark.parametrize(
    ("key", "wrong"), [("sizes", [64, 63]), *(("context", value) for value in (63, -1, 96.5, True))]
)
def test_what_could_not_be_read_again_is_refused(tmp_path, rainy, key, wrong):
    message = HOW[key][3].replace("63", str(63 if key == "sizes" else wrong))
    with pytest.raises(OptionError, match=message):
        write_weights(tmp_path / "w.pth", {}, {"type": "UniRain"}, **{key: wrong})
    with pytest.raises(OptionError, match=message):
        restore(load(), rainy, **{key: wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        *(("sizes", text) for text in ("640", "[640, 0]", "[63]", "[true]", '["a"]', "[640")),
        *(("context", text) for text in ("wide", "[384]", "63", "null")),
    ],
)
def test_what_is_stored_wrongly_names_the_file(tmp_path, key, stored):
    torch.save({"params": {"w": torch.zeros(1)}, key: stored}, tmp_path / "w.pth")
    such = {"sizes": r"\[640, 427\]", "context": "384"}[key]
    with pytest.raises(CheckpointError, match=rf"w\.pth: the stored {key} cannot be read.*expected such as {such}"):
        load(tmp_path / "w.pth")


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


def test_images_up_to_the_context_and_a_third_are_restored_whole_and_parts_are_even_and_near_to_the_context():
    image = torch.rand(1, 3, 100, 160)
    for context in (0, 120, 160, 400):
        assert torch.equal(restore_in_context(whiter_by_its_mean, image, context, 32), image + image.mean())
    for width, parts in ((86, [56] * 2), (135, [80] * 2), (137, [64] * 3), (1000, [72] * 18)):
        seen = []
        restore_in_context(lambda x, to=seen: to.append(x.shape[3]) or x, torch.rand(1, 3, 64, width), 64, 16)
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


def test_what_a_videos_parts_depend_on():
    def made_from(net, context=None):
        return videos_with(net, RestoreOptions(context=context), VideoSettings()).made_from

    net = load()
    assert made_from(net) == made_from(net, 384) != made_from(net, 0)
    counting = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 1}
    nets = []
    for options in ({}, {"img_range": 1.0}):  # which no weight tells
        torch.manual_seed(0)
        nets.append(build_network({**counting, **options}, "test"))
    assert made_from(nets[0]) != made_from(nets[1])
    nets = [torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)]  # with a number of no dimension
    assert made_from(nets[0]) == made_from(nets[1])
    nets[1].num_batches_tracked += 1
    assert made_from(nets[0]) != made_from(nets[1])


def test_a_videos_parts_depend_on_code_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_of_a_video.py").write_text("import torch\n\n\nclass Net(torch.nn.Identity):\n    pass\n")
    net = importlib.import_module("net_of_a_video").Net()
    before = videos_with(net, RestoreOptions(), VideoSettings()).made_from
    assert videos_with(net, RestoreOptions(), VideoSettings()).made_from == before
    (tmp_path / "net_of_a_video.py").write_text("changed = True\n")
    assert videos_with(net, RestoreOptions(), VideoSettings()).made_from != before
