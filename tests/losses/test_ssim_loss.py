"""SSIM loss: against the toolbox's and scikit-image's metric, by hand, gradient, options."""

import numpy as np
import pytest
import torch
from basicsr.metrics.psnr_ssim import calculate_ssim

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.losses.pixel_losses import SSIMLoss, ssim_map


@pytest.fixture()
def pair():
    generator = torch.Generator().manual_seed(0)
    target = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator), (24, 30), mode="bicubic")
    target = (target.clamp(0, 1) * 255).round() / 255
    pred = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    return (pred * 255).round() / 255, target


def as_uint8(image):
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def test_no_convolution_may_round_the_sums(monkeypatch):
    pred, target = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    with torch.profiler.profile() as trace:
        SSIMLoss()(pred, target).backward()
    assert not [event.key for event in trace.key_averages() if "conv" in event.key or "mm" in event.key]


def test_is_the_toolbox_metric(pair):
    pred, target = pair
    expected = [calculate_ssim(as_uint8(p), as_uint8(t), crop_border=0) for p, t in zip(pred, target, strict=True)]
    found = SSIMLoss(reduction="none")(pred, target).flatten(1).mean(1)
    np.testing.assert_allclose(found, 1 - np.array(expected), atol=2e-5)


def test_is_scikit_image_metric(pair):
    metrics = pytest.importorskip("skimage.metrics")
    pred, target = pair
    expected = metrics.structural_similarity(
        *(x[0].permute(1, 2, 0).numpy() for x in pair),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert SSIMLoss()(pred[:1], target[:1]).item() == pytest.approx(1 - expected, abs=2e-5)


def test_constant_images_by_hand():
    """No variance: SSIM = (2ab + C1)/(a² + b² + C1) with C1 = 1e-4."""
    a, b = torch.full((1, 1, 11, 11), 0.5), torch.full((1, 1, 11, 11), 0.25)
    expected = (2 * 0.125 + 1e-4) / (0.3125 + 1e-4)
    assert ssim_map(a, b).shape == (1, 1, 1, 1)
    assert ssim_map(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert SSIMLoss(loss_weight=2)(a, b).item() == pytest.approx(2 * (1 - expected), abs=2e-4)


def test_equal_images_lose_nothing(pair):
    assert SSIMLoss()(pair[1], pair[1]).item() == pytest.approx(0, abs=1e-6)


def test_weights_pick_window_centres(pair):
    pred, target = pair
    weight = torch.zeros(2, 1, 24, 30)
    weight[:, :, 12, 15] = 1
    found = SSIMLoss()(pred, target, weight)
    torch.testing.assert_close(found, 1 - ssim_map(pred, target)[:, :, 7, 10].mean())


def test_gradcheck():
    torch.manual_seed(0)
    pred = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 1, 5, 6, dtype=torch.float64)
    loss = SSIMLoss(window_size=3, sigma=0.8)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred)


def test_half_precision_is_computed_in_float32(pair):
    pred, target = pair
    found = SSIMLoss()(pred.bfloat16(), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, SSIMLoss()(pred.bfloat16().float(), target))


def test_error_texts():
    with pytest.raises(DataError, match="the images are 8×30; expected 11×11 or more"):
        SSIMLoss()(torch.rand(1, 3, 8, 30), torch.rand(1, 3, 8, 30))
    with pytest.raises(OptionError, match="window_size: found 4; expected an odd integer, 3 or more"):
        SSIMLoss(window_size=4)
    with pytest.raises(OptionError, match="sigma: found 0; expected a number above 0"):
        SSIMLoss(sigma=0)
    with pytest.raises(OptionError, match=r"reduction: found 'men'.*Did you mean 'mean'\?"):
        SSIMLoss(reduction="men")
