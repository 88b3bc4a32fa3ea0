import math

import pytest
import torch
from basicsr.losses import build_loss

from unirain_plugin.errors import OptionError
from unirain_plugin.losses.base_terms import build_base_terms
from unirain_plugin.losses.pixel_losses import LogMSELoss


def pair():
    target = torch.zeros(2, 3, 4, 4)
    return target + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), target


def test_values_by_hand():
    pred, target = pair()  # mean squared errors 1e-2 and 1e-4
    expected = [math.log(101), math.log(2)]
    loss = LogMSELoss(reduction="none")(pred, target)
    assert loss.shape == (2, 1)
    assert loss.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert LogMSELoss(2.0)(pred, target).item() == pytest.approx(sum(expected), rel=1e-5)
    assert LogMSELoss(reduction="sum")(pred, target).item() == pytest.approx(sum(expected), rel=1e-5)
    assert LogMSELoss()(target, target).item() == 0


def test_ten_times_less_error_costs_the_same_on_every_image():
    target = torch.zeros(1, 3, 4, 4)
    loss = LogMSELoss(eps=1e-9)
    steps = [loss(target + 10 * e, target) - loss(target + e, target) for e in (0.01, 0.03)]
    assert [s.item() for s in steps] == pytest.approx([20 * math.log(10) / 10] * 2, rel=1e-3)  # 20 dB


def test_half_precision_predictions_are_compared_in_float32():
    target = torch.full((1, 3, 4, 4), 0.7)
    loss = LogMSELoss()(target.bfloat16(), target)
    assert loss.dtype == torch.float32 and math.isfinite(loss.item())


def test_it_is_a_base_loss_per_sample_and_built_by_the_toolbox():
    pred, target = pair()
    (term,) = build_base_terms({"type": "LogMSELoss", "loss_weight": 3})
    assert term.has_map
    assert term(pred, target).tolist() == pytest.approx([3 * math.log(101), 3 * math.log(2)], rel=1e-5)
    assert isinstance(build_loss({"type": "LogMSELoss"}), LogMSELoss)


@pytest.mark.parametrize(("key", "value"), [("reduction", "meen"), ("eps", 0)])
def test_wrong_options_are_named(key, value):
    with pytest.raises(OptionError, match=f"LogMSELoss: {key}: found"):
        LogMSELoss(**{key: value})
