"""Larger images in overlapping parts, each restored as an image of its own."""

import numpy as np
import pytest
import torch

from unirain_plugin import load, restore
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference.command import main as inference
from unirain_plugin.inference.export import main as export
from unirain_plugin.inference.images import StoredImage, read_image, write_image
from unirain_plugin.inference.jobs import VideoSettings
from unirain_plugin.inference.restoring import RestoreOptions, restore_in_context, videos_with


@pytest.fixture()
def rainy():
    return np.random.default_rng(0).integers(0, 256, (72, 200, 3), dtype=np.uint8)


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


def test_an_edge_that_hardly_exceeds_a_part_is_not_cut():
    image = torch.rand(1, 3, 85, 160)  # 85 ≤ 64 · 4/3 < 86
    found = restore_in_context(whiter_by_its_mean, image, 64, 16)
    assert torch.allclose(found[..., :48], image[..., :48] + image[..., :64].mean())


@pytest.mark.parametrize("context", [0, 120, 160, 400])
def test_images_up_to_the_context_and_a_third_are_restored_as_a_whole(context):
    image = torch.rand(1, 3, 100, 160)
    assert torch.equal(restore_in_context(whiter_by_its_mean, image, context, 32), image + image.mean())


@pytest.mark.parametrize("width, parts", [(86, [56] * 2), (135, [80] * 2), (137, [64] * 3), (1000, [72] * 18)])
def test_parts_are_even_and_near_to_the_context(width, parts):
    seen = []
    restore_in_context(lambda x: seen.append(x.shape[3]) or x, torch.rand(1, 3, 64, width), 64, 16)
    assert seen == parts


def test_parts_share_at_most_half_of_their_edge():
    image = torch.rand(1, 3, 64, 300)
    wide, half = (restore_in_context(whiter_by_its_mean, image, 64, overlap) for overlap in (60, 32))
    assert torch.equal(wide, half)


def test_restore_and_command_take_a_context(tmp_path, rainy):
    net = load()
    assert net.restore_context == 384
    whole, parts = restore(net, rainy, context=0), restore(net, rainy, context=96)
    assert (whole != parts).any()
    np.testing.assert_array_equal(restore(net, rainy), whole)  # 200 is less than 384
    first = restore(net, rainy[:, :88], context=0)  # three parts of 88 share 32
    np.testing.assert_array_equal(parts[:, :56], first[:, :56])  # the second part begins at 56
    write_image(tmp_path / "a.png", StoredImage(rainy))
    options = ["-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu"]
    assert inference([*options, "--context", "96"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, parts)


def test_the_shipped_weights_restore_larger_images_in_parts():
    net, rainy = load(), np.random.default_rng(0).integers(0, 256, (24, 520, 3), dtype=np.uint8)
    np.testing.assert_array_equal(restore(net, rainy), restore(net, rainy, sizes=(), context=384))
    own = restore(net, rainy, sizes=())
    assert (restore(net, rainy) != own).any()
    np.testing.assert_array_equal(own, restore(net, rainy, context=0))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_context_named_by_the_weights_file_is_the_default(tmp_path, rainy, suffix):
    net, path = load(), tmp_path / f"w{suffix}"
    write_weights(path, net.state_dict(), net.architecture, context=100)
    assert load(path).restore_context == 100
    np.testing.assert_array_equal(restore(load(path), rainy), restore(net, rainy, context=100))
    write_weights(path, net.state_dict(), net.architecture)
    assert load(path).restore_context == 0


def test_export_keeps_or_changes_the_context(tmp_path, capsys):
    kept, changed = tmp_path / "kept.pth", tmp_path / "changed.safetensors"
    assert export(["-o", str(kept), "--format", "pth"]) == 0
    assert load(kept).restore_context == 384
    for value in (160, 0):
        assert export(["--weights", str(kept), "-o", str(changed), "--overwrite", "--context", str(value)]) == 0
        assert load(changed).restore_context == value
    with pytest.raises(OptionError, match="--context: a file of format pt2 cannot name them"):
        export(["-o", str(tmp_path / "w.pt2"), "--format", "pt2", "--context", "96"])


@pytest.mark.parametrize("context", [63, -1, 96.5, True])
def test_a_context_that_could_not_be_read_again_is_refused(tmp_path, rainy, context):
    message = f"context: got {context!r}; expected 0 .the whole image. or at least 64 pixels"
    with pytest.raises(OptionError, match=message):
        write_weights(tmp_path / "w.pth", {}, {"type": "UniRain"}, context=context)
    with pytest.raises(OptionError, match=message):
        restore(load(), rainy, context=context)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stored", ["wide", "[384]", "63", "null"])
def test_a_stored_context_that_makes_no_sense_is_told(tmp_path, stored):
    torch.save({"params": {"w": torch.zeros(1)}, "context": stored}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: the stored context cannot be read.*expected such as 384"):
        load(tmp_path / "w.pth")


def test_a_video_begun_before_there_were_contexts_goes_on_where_it_is_not_cut_in_parts():
    net = load()

    def made_from(context):
        return videos_with(net, RestoreOptions(context=context), VideoSettings()).made_from

    assert made_from(None) == made_from(384) != made_from(0)
    assert "context" not in str(made_from(0)) and len(made_from(0)) == 5 and made_from(384)[5:] == [384]
