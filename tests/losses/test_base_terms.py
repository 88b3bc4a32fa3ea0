"""Base losses by YAML: per-sample values equal the toolbox's loss on that sample alone."""

import pytest
import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from unirain_plugin.errors import OptionError
from unirain_plugin.losses.base_terms import build_base_terms


@LOSS_REGISTRY.register()
class NoReductionProbeLoss(nn.Module):
    """A user's loss without ``reduction`` and ``loss_weight``; worse for large errors in one place."""

    def forward(self, pred, target):
        return (pred - target).abs().amax()


@LOSS_REGISTRY.register()
class TwoPartsProbeLoss(nn.Module):
    """Returns a tuple like PerceptualLoss."""

    def forward(self, x, gt):
        return (x - gt).abs().mean(), None


@LOSS_REGISTRY.register()
class MapProbeLoss(nn.Module):
    """A user's loss with ``reduction`` but no ``loss_weight`` of its own."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, pred, target):
        error = (pred - target).abs()
        return error if self.reduction == "none" else error.mean()


@LOSS_REGISTRY.register()
class FormProbeLoss(nn.Module):
    """Gives what is no loss of these samples."""

    value = None

    def forward(self, pred, target):
        return self.value


@LOSS_REGISTRY.register()
class FormMapProbeLoss(FormProbeLoss):
    def __init__(self, reduction="mean"):
        super().__init__()


@LOSS_REGISTRY.register()
class WeightProbeLoss(nn.Module):
    """A user's loss that takes weights but has no ``reduction``."""

    def forward(self, pred, target, weight=None):
        return ((pred - target) * weight).square().mean().sqrt()


@LOSS_REGISTRY.register()
class OneInputProbeLoss(nn.Module):
    """Judges a prediction without its target."""

    def forward(self, pred):
        return pred.mean()


@pytest.fixture()
def batch():
    torch.manual_seed(0)
    return torch.rand(3, 3, 12, 13), torch.rand(3, 3, 12, 13)


OPTIONS = [
    {"type": "L1Loss"},
    {"type": "L1Loss", "loss_weight": 0.5, "reduction": "mean"},
    {"type": "MSELoss"},
    {"type": "CharbonnierLoss", "eps": 1e-6},
    {"type": "FrequencyL1Loss", "loss_weight": 0.1},
    {"type": "SSIMLoss"},
]


@pytest.mark.parametrize("opt", OPTIONS)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_each_sample_has_the_stock_loss_of_itself(opt, channels, batch):
    pred, target = batch
    weight = None if channels is None else torch.rand(3, channels, 12, 13)
    given = dict(opt)
    (term,) = build_base_terms(opt)
    stock = build_loss(opt)
    expected = [
        stock(pred[b : b + 1], target[b : b + 1], None if weight is None else weight[b : b + 1]) for b in range(3)
    ]
    torch.testing.assert_close(term(pred, target, weight), torch.stack(expected))
    torch.testing.assert_close(term.whole(pred, target, weight), stock(pred, target, weight))
    assert opt == given  # the caller's mapping is left alone


@pytest.mark.parametrize(
    ("opt", "of_a_sample"),
    [
        ({"type": "NoReductionProbeLoss", "loss_weight": 2.0}, lambda x, y: 2 * (x - y).abs().amax()),
        ({"type": "MapProbeLoss", "loss_weight": 2.0}, lambda x, y: 2 * (x - y).abs().mean()),
        ([{"type": "TwoPartsProbeLoss"}], lambda x, y: (x - y).abs().mean()),
        (
            {"type": "WeightedTVLoss", "loss_weight": 0.1},  # a regulariser without target
            lambda x, y: build_loss({"type": "WeightedTVLoss", "loss_weight": 0.1})(x[None]),
        ),
    ],
    ids=["without reduction", "a map but no factor of its own", "several parts", "without target"],
)
def test_losses_of_other_forms_are_applied_to_each_sample(opt, of_a_sample, batch):
    (term,) = build_base_terms(opt)
    expected = torch.stack([of_a_sample(x, y) for x, y in zip(*batch, strict=True)])
    torch.testing.assert_close(term(*batch), expected)
    if term.has_map:
        torch.testing.assert_close(term.whole(*batch), expected.mean())


@pytest.mark.parametrize("kind", ["FormProbeLoss", "FormMapProbeLoss"])
@pytest.mark.parametrize("value", [None, (None, None), 0.5, torch.ones(()), torch.ones(12, 13)])
def test_a_loss_that_gives_no_values_of_the_samples_is_told(kind, value, batch):
    (term,) = build_base_terms({"type": kind})
    term.loss.value = value
    if kind == "FormProbeLoss" and isinstance(value, torch.Tensor):
        assert term(*batch).tolist() == [1, 1, 1]
        return
    whole = "FormMapProbeLoss gives no loss per element" if kind == "FormMapProbeLoss" else "expected a tensor"
    for form in (term, term.whole):
        with pytest.raises(OptionError, match=whole):
            form(*batch)


def test_weights_of_zero_and_of_losses_without_a_map_and_those_that_take_none(batch):
    pred, target = batch
    weight = torch.ones(3, 1, 12, 13)
    weight[1] = 0
    losses = build_base_terms({"type": "L1Loss"})[0](pred, target, weight)
    assert losses[1] == 0 and torch.isfinite(losses).all()
    weight = torch.rand(3, 1, 12, 13)
    expected = ((pred - target) * weight).square().flatten(1).mean(1).sqrt()  # each sample has its own
    torch.testing.assert_close(build_base_terms({"type": "WeightProbeLoss"})[0](pred, target, weight), expected)
    with pytest.raises(OptionError, match="NoReductionProbeLoss takes no per-pixel weight"):
        build_base_terms({"type": "NoReductionProbeLoss"})[0](pred, target, weight)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"type": "L1Los"}, r"base.type: no loss is registered as 'L1Los'\. Did you mean 'L1Loss'\?"),
        ({}, r"base: found \{\}; expected a mapping with a type"),
        ("L1Loss", r"base: found 'L1Loss'; expected \{type: L1Loss\} or a list"),
        ([], r"base: found \[\]"),
        ([{"type": "L1Loss"}, "MSELoss"], r"base\[1\]: found 'MSELoss'"),
        ({"type": "L1Loss", "reduction": "sum"}, r"base.reduction: expected mean"),
        ({"type": "L1Loss", "loss_weight": "1e-1"}, r"weight: found the text '1e-1'; expected a number. Write 1.0e-1"),
        ({"type": "L1Loss", "eps": 1}, r"base: L1Loss refuses its options: .*eps"),
        ({"type": "GANLoss", "gan_type": "vanilla"}, r"base.type: GANLoss compares no prediction with a target"),
        ({"type": "OneInputProbeLoss"}, r"base.type: OneInputProbeLoss compares no prediction with a target"),
        ({"type": "MultiObjectiveReweightedLoss"}, r"cannot be its own base loss"),
    ],
)
def test_error_texts(base, message):
    import unirain_plugin.losses.reweighted_loss  # noqa: F401

    with pytest.raises(OptionError, match=message):
        build_base_terms(base)
