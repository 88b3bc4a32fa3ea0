"""Pixel losses: values by hand and by other libraries, gradients, options."""

import math

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss
from basicsr.metrics.psnr_ssim import calculate_ssim

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.losses.base_terms import build_base_terms
from unirain_plugin.losses.pixel_losses import FrequencyL1Loss, LogMSELoss, SSIMLoss, frequency_l1_map, ssim_map

LOSSES = [FrequencyL1Loss, LogMSELoss, SSIMLoss]


@pytest.mark.parametrize(("loss", "shape"), zip(LOSSES, [(2, 3, 12, 16), (2, 1), (2, 3, 2, 6)], strict=True))
def test_shapes_and_reductions(loss, shape):
    pred, target = torch.rand(2, 3, 12, 16), torch.rand(2, 3, 12, 16)
    values = loss(reduction="none")(pred, target)
    assert values.shape == shape
    torch.testing.assert_close(loss(2.0)(pred, target), 2 * values.mean())
    torch.testing.assert_close(loss(reduction="sum")(pred, target), values.sum())
    assert loss()(pred, pred).item() == pytest.approx(0, abs=1e-6)
    assert isinstance(build_loss({"type": loss.__name__}), loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    pred, target = torch.rand(1, 3, 13, 13).to(dtype), torch.rand(1, 3, 13, 13)
    found = loss()(pred, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss()(pred.float(), target))


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (FrequencyL1Loss, {"norm": "orto"}, r"norm: found the text 'orto'; expected one of ortho, .*mean 'ortho'\?"),
        (
            FrequencyL1Loss,
            {"reduction": "average"},
            "reduction: found the text .average.; expected one of mean, none",
        ),
        (LogMSELoss, {"reduction": "meen"}, r"LogMSELoss: reduction: found the text 'meen'; .*Did you mean 'mean'\?"),
        (LogMSELoss, {"eps": 0}, "LogMSELoss: eps: found 0; expected a number > 0"),
        (SSIMLoss, {"reduction": "men"}, r"SSIMLoss: reduction: found the text 'men'.*Did you mean 'mean'\?"),
        (SSIMLoss, {"window_size": 4}, "window_size: found 4; expected an odd integer, 3 or more"),
        (SSIMLoss, {"sigma": 0}, "sigma: found 0; expected a number > 0"),
    ],
)
def test_wrong_options_are_named(loss, options, message):
    with pytest.raises(OptionError, match=message):
        loss(**options)


def test_an_impulse_has_a_flat_spectrum_and_a_shifted_one_phases():
    """D = 0.5 at (0, 0): Re = 0.5, Im = 0 at all 16 frequencies; (0.5 + 0)/2, over √16 for ortho."""
    target = torch.rand(1, 1, 4, 4)
    pred = target.clone()
    pred[..., 0, 0] += 0.5
    for norm, scale in (("backward", 1.0), ("ortho", 4.0), ("forward", 16.0)):
        assert FrequencyL1Loss(norm=norm)(pred, target).item() == pytest.approx(0.25 / scale, rel=1e-5)
    assert FrequencyL1Loss()(pred, target).item() == pytest.approx(0.25 / 4, rel=1e-5)
    pred = torch.zeros(1, 1, 4, 4)
    pred[..., 1, 0] = 1
    found = frequency_l1_map(pred, torch.zeros_like(pred), norm="backward")
    torch.testing.assert_close(found, torch.full_like(found, 0.5))
    pred = torch.zeros(1, 1, 8, 1)  # an eighth of a turn: cos 45° + sin 45°
    pred[..., 1, 0] = 1
    found = frequency_l1_map(pred, torch.zeros_like(pred), norm="backward")
    assert found[0, 0, 1, 0].item() == pytest.approx(math.sqrt(2) / 2)


def test_weights_multiply_the_difference_before_the_transform():
    pred, target, weight = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 6, 6), torch.rand(2, 1, 6, 6)
    found = frequency_l1_map(pred, target, weight)
    torch.testing.assert_close(found, frequency_l1_map((pred - target) * weight, torch.zeros_like(pred)))
    constant = torch.full((2, 1, 6, 6), 0.3)
    torch.testing.assert_close(FrequencyL1Loss()(pred, target, constant), FrequencyL1Loss()(pred, target))


def test_gradients_are_those_of_small_differences():
    torch.manual_seed(0)
    pred = torch.rand(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 2, 4, 6, dtype=torch.float64)
    # Im is exactly 0 at the real frequencies, where |·| has a kink: only the others are compared.
    mask = torch.zeros(4, 6, dtype=torch.float64)
    mask[1, [1, 2, 4, 5]] = mask[3, [1, 2, 4, 5]] = 1
    assert torch.autograd.gradcheck(lambda x: (frequency_l1_map(x, target) * mask).sum(), pred)
    ssim = SSIMLoss(window_size=3, sigma=0.8)
    assert torch.autograd.gradcheck(lambda x: ssim(x, target), pred)


def test_log_mse_by_hand_and_ten_times_less_error_costs_the_same_on_every_image():
    target = torch.zeros(2, 3, 4, 4)
    pred = target + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)  # mean squared errors 1e-2 and 1e-4
    expected = pytest.approx([3 * math.log(101), 3 * math.log(2)], rel=1e-5)
    assert LogMSELoss(3.0, reduction="none")(pred, target).flatten().tolist() == expected
    (term,) = build_base_terms({"type": "LogMSELoss", "loss_weight": 3})
    assert term.has_map and term(pred, target).tolist() == expected
    loss = LogMSELoss(eps=1e-9)
    steps = [loss(target + 10 * e, target) - loss(target + e, target) for e in (0.01, 0.03)]
    assert [s.item() for s in steps] == pytest.approx([20 * math.log(10) / 10] * 2, rel=1e-3)  # 20 dB


@pytest.fixture()
def pair():
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator), (24, 30), mode="bicubic")
    target = (target.clamp(0, 1) * 255).round() / 255
    pred = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    return (pred * 255).round() / 255, target


def test_ssim_is_the_toolboxs_and_scikit_images(pair):
    metrics = pytest.importorskip("skimage.metrics")
    found = 1 - SSIMLoss(reduction="none")(*pair).flatten(1).mean(1).numpy()
    for n, (x, y) in enumerate(zip(*(images.permute(0, 2, 3, 1).numpy() for images in pair), strict=True)):
        levels = [(image * 255).round().astype(np.uint8) for image in (x, y)]
        assert found[n] == pytest.approx(calculate_ssim(*levels, crop_border=0), abs=2e-5)
        options = {"channel_axis": 2, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
        theirs = metrics.structural_similarity(x, y, **options, use_sample_covariance=False)
        assert found[n] == pytest.approx(theirs, abs=2e-5)


def test_constant_images_by_hand():
    """No variance: SSIM = (2ab + C1)/(a² + b² + C1) with C1 = 1e-4."""
    a, b = torch.full((1, 1, 11, 11), 0.5), torch.full((1, 1, 11, 11), 0.25)
    expected = (2 * 0.125 + 1e-4) / (0.3125 + 1e-4)
    assert ssim_map(a, b).shape == (1, 1, 1, 1)
    assert ssim_map(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert SSIMLoss(loss_weight=2)(a, b).item() == pytest.approx(2 * (1 - expected), abs=2e-4)


def test_ssim_weights_pick_window_centres_and_smaller_images_are_told(pair):
    weight = torch.zeros(2, 1, 24, 30)
    weight[:, :, 12, 15] = 1
    torch.testing.assert_close(SSIMLoss()(*pair, weight), 1 - ssim_map(*pair)[:, :, 7, 10].mean())
    pred, target = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    with torch.profiler.profile() as trace:
        SSIMLoss()(pred, target).backward()
    assert not [event.key for event in trace.key_averages() if "conv" in event.key or "mm" in event.key]
    with pytest.raises(DataError, match="the images are 8×30; expected 11×11 or more"):
        SSIMLoss()(torch.rand(1, 3, 8, 30), torch.rand(1, 3, 8, 30))
