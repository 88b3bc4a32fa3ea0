"""Frequency-domain L1: values derived by hand, gradient, options."""

import math

import pytest
import torch

from unirain_plugin.errors import OptionError
from unirain_plugin.losses.pixel_losses import FrequencyL1Loss, frequency_l1_map


def test_smoke_and_shapes():
    pred, target = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    assert FrequencyL1Loss()(pred, target).shape == ()
    assert FrequencyL1Loss(reduction="none")(pred, target).shape == (2, 3, 8, 12)
    assert FrequencyL1Loss()(pred, pred).item() == 0


def test_an_impulse_has_a_flat_spectrum():
    """D = 0.5 at (0, 0): Re = 0.5, Im = 0 at all 16 frequencies; (0.5 + 0)/2, over √16 for ortho."""
    target = torch.rand(1, 1, 4, 4)
    pred = target.clone()
    pred[..., 0, 0] += 0.5
    for norm, scale in (("backward", 1.0), ("ortho", 4.0), ("forward", 16.0)):
        assert FrequencyL1Loss(norm=norm)(pred, target).item() == pytest.approx(0.25 / scale, rel=1e-5)
    assert FrequencyL1Loss(norm="backward", reduction="sum")(pred, target).item() == pytest.approx(4.0, rel=1e-5)
    assert FrequencyL1Loss(norm="backward", loss_weight=3)(pred, target).item() == pytest.approx(0.75, rel=1e-5)


def test_a_shifted_impulse_has_phases():
    """D = 1 at row 1 of 4: the spectrum is 1, −i, −1, i along the rows, so |Re| + |Im| = 1 everywhere."""
    pred = torch.zeros(1, 1, 4, 4)
    pred[..., 1, 0] = 1
    found = frequency_l1_map(pred, torch.zeros_like(pred), norm="backward")
    torch.testing.assert_close(found, torch.full_like(found, 0.5))
    pred = torch.zeros(1, 1, 8, 1)  # an eighth of a turn: cos 45° + sin 45°
    pred[..., 1, 0] = 1
    found = frequency_l1_map(pred, torch.zeros_like(pred), norm="backward")
    assert found[0, 0, 1, 0].item() == pytest.approx(math.sqrt(2) / 2)


def test_weights_multiply_the_difference():
    pred, target, weight = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 6, 6), torch.rand(2, 1, 6, 6)
    found = frequency_l1_map(pred, target, weight)
    torch.testing.assert_close(found, frequency_l1_map((pred - target) * weight, torch.zeros_like(pred)))
    constant = torch.full((2, 1, 6, 6), 0.3)
    torch.testing.assert_close(FrequencyL1Loss()(pred, target, constant), FrequencyL1Loss()(pred, target))


def test_gradcheck():
    torch.manual_seed(0)
    pred = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 2, 4, 5, dtype=torch.float64)
    # Im is exactly 0 at the real frequencies, where |·| has a kink: only the others are compared.
    mask = torch.zeros(4, 5, dtype=torch.float64)
    mask[1, 1:] = mask[3, 1:] = 1
    assert torch.autograd.gradcheck(lambda x: (frequency_l1_map(x, target) * mask).sum(), pred)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    pred, target = torch.rand(1, 3, 7, 7).to(dtype), torch.rand(1, 3, 7, 7)
    found = FrequencyL1Loss()(pred, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, FrequencyL1Loss()(pred.float(), target))


def test_error_texts():
    with pytest.raises(OptionError, match=r"norm: found 'orto'; expected ortho .*Did you mean 'ortho'\?"):
        FrequencyL1Loss(norm="orto")
    with pytest.raises(OptionError, match=r"reduction: found 'average'; expected mean"):
        FrequencyL1Loss(reduction="average")
