import math

import pytest
import torch

from unirain_plugin.archs.mixtures import (
    HardMoE,
    Router,
    RoutingRecord,
    auxiliary_losses,
    choose_top_k,
    load_balance_loss,
    z_loss,
)
from unirain_plugin.archs.options import NetworkOptions


def record(logits, chosen=None):
    logits = torch.tensor(logits)
    return RoutingRecord(logits, logits.softmax(-1), None if chosen is None else torch.tensor(chosen))


def test_weights_of_the_chosen_are_renormalised_and_ties_go_to_the_lower_number():
    logits = torch.tensor([[[math.log(0.5), math.log(0.2), math.log(0.3)]]])
    chosen, weights, probabilities = choose_top_k(logits, 2)
    assert chosen.tolist() == [[[0, 2]]]
    torch.testing.assert_close(weights, torch.tensor([[[0.625, 0.375]]]))  # 0.5 / 0.8 and 0.3 / 0.8
    torch.testing.assert_close(probabilities, torch.tensor([[[0.5, 0.2, 0.3]]]))
    logits = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    _, weights, probabilities = choose_top_k(logits, 1)
    assert weights.item() == 1.0
    weights.sum().backward()
    p = probabilities[0, 0, 0].item()
    assert logits.grad[0, 0].tolist() == pytest.approx([p * (1 - p), -p * (1 - p)], rel=1e-5)
    _, weights, _ = choose_top_k(torch.randn(500, 4, 5), 1)
    assert (weights == 1).all()
    chosen, _, _ = choose_top_k(torch.tensor([[[0.5, 1.0, 1.0, 1.0]]]), 2)
    assert chosen.tolist() == [[[1, 2]]]
    chosen, _, _ = choose_top_k(torch.zeros(3, 5, 64), 4)  # many ties
    assert chosen.flatten(0, 1).tolist() == [[0, 1, 2, 3]] * 15


def test_balance_is_one_when_even_and_more_when_not():
    even = record([[[0.0, 0.0]], [[0.0, 0.0]]], [[[0]], [[1]]])
    assert load_balance_loss(even).item() == pytest.approx(1.0)
    p = [math.log(0.9), math.log(0.1)]
    one_sided = record([[p], [p]], [[[0]], [[0]]])  # f = (1, 0), P = (0.9, 0.1): 2 · 0.9
    assert load_balance_loss(one_sided).item() == pytest.approx(1.8, rel=1e-6)
    soft = record([[p]])  # f = P: 2 · (0.81 + 0.01)
    assert load_balance_loss(soft).item() == pytest.approx(1.64, rel=1e-6)


@pytest.mark.parametrize("chosen", [None, [[[0]], [[1]]]])
def test_balance_of_two_ranks_is_that_of_their_batch(chosen, monkeypatch):
    logits = torch.tensor([[[2.0, 0.1, 0.0]], [[0.2, 1.5, 0.0]]], requires_grad=True)
    picks = None if chosen is None else torch.tensor(chosen)

    def losses(part):
        records = RoutingRecord(logits[part], logits[part].softmax(-1), None if picks is None else picks[part])
        return auxiliary_losses({"a": records, "b": records})["load_balance"]

    def balance_on(part, shares):
        calls = []
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "is_initialized", lambda: True)
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            patch.setattr(torch.distributed, "all_reduce", lambda t: calls.append(t.copy_(shares)))
            value = losses(part)
        assert len(calls) == 1  # for both layers
        return value

    whole = losses(slice(None))
    expected = torch.autograd.grad(whole, logits)[0]
    records = RoutingRecord(logits, logits.softmax(-1), picks)
    shares = records.share_of_use().sum(0).expand(2, -1)  # both ranks' shares of each layer added up
    ranks = torch.stack([balance_on(slice(n, n + 1), shares) for n in range(2)]).mean()
    torch.testing.assert_close(ranks, whole)
    torch.testing.assert_close(torch.autograd.grad(ranks, logits)[0], expected)


def test_balance_of_a_soft_mixture_has_the_gradient_of_its_squares():
    logits = torch.tensor([[[2.0, 0.1, 0.0], [0.3, 0.2, 1.0]]], requires_grad=True)
    balance = load_balance_loss(RoutingRecord(logits, logits.softmax(-1), None))
    expected = 3 * logits.softmax(-1).mean((0, 1)).square().sum()
    torch.testing.assert_close(balance, expected)
    found, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (balance, expected))
    torch.testing.assert_close(found, wanted)
    logits = torch.zeros(2, 1, 2, requires_grad=True)
    load_balance_loss(RoutingRecord(logits, logits.softmax(-1), torch.tensor([[[0]], [[1]]]))).backward()
    assert torch.isfinite(logits.grad).all()


def test_z_loss_and_shares_of_use_by_hand_are_means_over_layers():
    assert z_loss(record([[[0.0, 0.0]]])).item() == pytest.approx(math.log(2) ** 2)
    a, b = record([[[0.0, 0.0]]]), record([[[1.0, 1.0]]])
    both = auxiliary_losses({"a": a, "b": b})
    expected = (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2
    assert both["z_loss"].item() == pytest.approx(expected)
    c = record([[[math.log(0.9), math.log(0.1)]]])
    assert auxiliary_losses({"a": a, "c": c})["load_balance"].item() == pytest.approx((1 + 1.64) / 2, rel=1e-6)
    assert auxiliary_losses({}) == {}
    share = record([[[3.0, 1.0, 2.0]] * 4], [[[0, 2], [0, 1], [0, 2], [0, 2]]]).share_of_use()
    assert share.tolist() == [[0.5, 0.125, 0.375]]


def test_gate_is_computed_in_float32_under_autocast_and_noise_comes_only_in_training(small):
    router, features = Router(8, 3), torch.randn(1, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = router(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, router(features))
    net, x = small(router_noise=5.0), torch.rand(6, 3, 16, 16)

    def choices():
        net(x)
        return torch.stack([s for name, s in sorted(net.routing_statistics().items()) if name.startswith("decoder")])

    net.eval()
    assert torch.equal(choices(), choices())
    net.train()
    assert any(not torch.equal(choices(), choices()) for _ in range(5))


def test_the_record_holds_the_routers_own_logits_and_the_noisy_probabilities():
    """The z-loss keeps the router's outputs small; the noise is none of its affair."""
    mixture = HardMoE(8, 1.0, NetworkOptions(router_noise=5.0, hard_routing="image")).train()
    x = torch.rand(3, 4, 4, 8)
    _, record = mixture(x)
    expected = mixture.router(x.mean((1, 2), keepdim=True)).flatten(1, 2)
    torch.testing.assert_close(record.logits, expected)
    assert (record.probabilities - expected.softmax(-1)).abs().max() > 1e-3
    assert torch.equal(record.chosen[..., 0], record.probabilities.argmax(-1))


def test_statistics_have_a_row_an_image_that_sums_to_one(small):
    net = small(hard_routing="window", window=4, top_k=2)
    net(torch.rand(3, 3, 20, 28))
    statistics = net.routing_statistics()
    assert list(statistics) == ["encoder1.0", "encoder2.0", "decoder2.0", "decoder1.0"]
    for share in statistics.values():
        assert share.shape == (3, 3)
        assert not share.requires_grad
        torch.testing.assert_close(share.sum(1), torch.ones(3))
