"""Two gloo processes give the gradients, records and weights of one process with the whole batch."""

import pytest
import torch
from tiny_run import run_on_ranks
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import unirain_plugin.losses.reweighted_loss  # noqa: F401

# Rank 0 has only streaks by day, rank 1 the rest: the types' counts and the presence differ by rank.
LABELS = ([0, 0, 1, 3], [0, 0, 2, 2], [1, 3, 3, 3])
MODES = ("paper", "uncertainty", "released")


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 3, padding=1))


def make_loss(mode):
    from basicsr.losses import build_loss

    opt = {"type": "MultiObjectiveReweightedLoss", "mode": mode, "update_freq": 1, "warmup": 0, "window": 3}
    return build_loss({**opt, "base": [{"type": "L1Loss"}, {"type": "SSIMLoss", "loss_weight": 0.3}]})


def train(mode, rank=0, ranks=1, micro=False):
    """Three iterations on a rank's part of each batch of 4; gradients, values, log and state of every iteration."""
    network, loss, found = make_network(), make_loss(mode), []
    trained = DistributedDataParallel(network) if ranks > 1 else network
    optimiser = torch.optim.SGD([*network.parameters(), *loss.parameters()], lr=0.1)
    for i, labels in enumerate(LABELS):
        torch.manual_seed(10 + i)
        lq, gt = torch.rand(4, 3, 12, 12)[rank::ranks], torch.rand(4, 3, 12, 12)[rank::ranks]
        own = torch.tensor(labels)[rank::ranks]
        optimiser.zero_grad()
        if micro:
            loss.begin_batch(own)
            parts = [loss(trained(lq[j : j + 1]), gt[j : j + 1], own[j : j + 1]) for j in range(len(own))]
            value = sum(parts)
        else:
            value = loss(trained(lq), gt, own)
        value.backward()
        value = value.detach().clone()
        if ranks > 1:
            for tensor in (value, *(p.grad for p in loss.parameters())):
                dist.all_reduce(tensor)
                tensor /= ranks
        gradients = [p.grad.clone() for p in [*network.parameters(), *loss.parameters()]]
        optimiser.step()
        loss.step(i + 1)
        found.append({"value": value, "gradients": gradients, "log": loss.log(), "weights": loss.weights.clone()})
    return {"steps": found, "state": loss.get_extra_state()}


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {mode: train(mode, rank, 2) for mode in MODES}
    found["micro"] = train("paper", rank, 2, micro=True)
    torch.save(found, f"{folder}/rank{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    run_on_ranks(worker, folder)
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("mode", [*MODES, "micro"])
def test_gradients_and_values_are_those_of_one_process(ranks, mode):
    single = train("paper" if mode == "micro" else mode)
    for rank in range(2):
        for one, two in zip(single["steps"], ranks[rank][mode]["steps"], strict=True):
            torch.testing.assert_close(two["value"], one["value"], atol=1e-5, rtol=0)
            torch.testing.assert_close(two["gradients"], one["gradients"], atol=1e-5, rtol=0)
            assert two["log"] == pytest.approx(one["log"], abs=1e-4)


@pytest.mark.parametrize("mode", [*MODES, "micro"])
def test_every_rank_has_the_same_weights_and_state(ranks, mode):
    first, second = (ranks[rank][mode] for rank in range(2))
    assert first["state"] == second["state"]
    for a, b in zip(first["steps"], second["steps"], strict=True):
        assert torch.equal(a["weights"], b["weights"])
        assert a["log"] == b["log"]
    if mode == "paper":
        assert first["steps"][-1]["weights"].std() > 0.01  # so the comparison is not one of equal weights
