"""The data order: exact length, any entry point, the same for any number of ranks and workers."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from unirain_plugin.data.draws import ReseededDataset, ResumableSampler, SampleIndex
from unirain_plugin.errors import DataError


def run_through(sampler: ResumableSampler) -> list[tuple[int, int]]:
    """(index, draw) of all epochs, in the toolbox's way of walking them."""
    items = []
    for epoch in range(sampler.first_epoch, sampler.last_epoch + 1):
        sampler.set_epoch(epoch)
        part = [(int(item), item.draw) for item in sampler]
        assert len(part) == len(sampler)
        items += part
    return items


def test_yields_exactly_total_iter_batches_every_pass_in_an_order_of_its_own():
    for size, batch, total, ratio in ((8, 3, 30, 1), (2, 5, 7, 1), (1, 1, 3, 1), (10, 4, 1, 3)):
        items = run_through(ResumableSampler(size, batch, total, seed=1, ratio=ratio))
        assert [draw for _, draw in items] == list(range(total * batch))
    items = [index for index, _ in run_through(ResumableSampler(10, 3, 10, seed=1))]
    passes = [items[0:10], items[10:20], items[20:30]]
    assert all(sorted(part) == list(range(10)) for part in passes)
    assert passes[0] != passes[1] != passes[2]
    assert items != [index for index, _ in run_through(ResumableSampler(10, 3, 10, seed=2))]


def merged(ranks, size, batch, total, **where):
    """The draws of all ranks, put together as the global batches are."""
    samplers = [ResumableSampler(size, batch, total, num_replicas=ranks, rank=r, **where) for r in range(ranks)]
    return [item for group in zip(*map(run_through, samplers), strict=True) for item in group]


@pytest.mark.parametrize(("ranks", "batch"), [(1, 2), (2, 1), (2, 3), (3, 2), (5, 1)])
@pytest.mark.parametrize("ratio", [1, 3])
def test_ranks_share_the_batches_of_a_single_process_and_go_on_with_those_that_are_left(ranks, batch, ratio):
    together = ranks * batch
    whole = run_through(ResumableSampler(7, together, 9, seed=5, ratio=ratio))
    for done in range(10):
        assert merged(ranks, 7, batch, 9, seed=5, ratio=ratio, start_iter=done) == whole[together * done :]
        part = ResumableSampler(7, batch, 9, seed=5, num_replicas=ranks, ratio=ratio, start_iter=done)
        for iteration in (done, 9):
            assert part.position_after(iteration) == {"next_draw": iteration * together, "dataset_size": 7}
        assert part.first_epoch == min(done, 9) * together // (together * -(-7 * ratio // together))


def test_changed_batch_size_goes_on_at_a_whole_batch_and_runs_to_the_end():
    sampler = ResumableSampler(9, 4, total_iter=12, seed=0, start_iter=5, start_draw=15)
    items = run_through(sampler)
    assert items[0][1] == 16 and len(items) == (12 - 5) * 4
    assert sampler.draw_after(12) == items[-1][1] + 1
    anew = run_through(ResumableSampler(9, 4, total_iter=12, seed=0, start_iter=5, start_draw=0))
    assert anew == run_through(ResumableSampler(9, 4, total_iter=7, seed=0))


def test_where_a_run_begins_and_when_nothing_is_left_or_there():
    resumed = ResumableSampler(6, 2, 9, seed=0, start_iter=4)
    assert [item.draw for item in resumed] == [8, 9, 10, 11] and len(resumed) == 4
    sampler = ResumableSampler(6, 2, 3, seed=0)
    assert list(sampler) == list(sampler)
    sampler = ResumableSampler(6, 2, total_iter=4, seed=0, start_iter=9)
    assert run_through(sampler) == [] and sampler.first_epoch == sampler.last_epoch
    with pytest.raises(DataError, match="empty"):
        ResumableSampler(0, 2, 3, seed=0)


class Noisy(Dataset):
    """Draws from the three global streams, as the toolbox's data sets may."""

    opt = {"name": "noisy"}  # noqa: RUF012

    def __len__(self):
        return 5

    def __getitem__(self, index):
        assert type(index) is int
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def test_reseeded_data_set_depends_on_the_draw_alone_and_leaves_the_streams_alone():
    dataset = pickle.loads(pickle.dumps(ReseededDataset(Noisy(), 1)))
    assert dataset.opt["name"] == "noisy" and len(dataset) == 5

    def batches(workers):
        sampler = ResumableSampler(5, 2, 5, seed=1)
        return torch.cat(list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)))

    alone = batches(0)
    assert torch.equal(alone, batches(2))
    assert len(alone[:, 1].unique()) == len(alone)  # the second draw of an image is cropped anew
    drawn = []
    for _ in range(2):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        if drawn:
            dataset[SampleIndex(1, 3)]
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


def test_an_epoch_is_as_long_as_the_toolbox_counts_it():
    for size, batch, ranks, ratio, iterations in (
        (8, 2, 1, 1, 4), (9, 2, 1, 1, 5), (9, 2, 3, 1, 2), (9, 2, 1, 3, 14), (10, 4, 2, 1.5, 2), (1, 8, 2, 1, 1),
    ):  # fmt: skip
        sampler = ResumableSampler(size, batch, 100, seed=0, num_replicas=ranks, ratio=ratio)
        assert sampler.iters_per_epoch == iterations
        assert sampler.draws_per_epoch == iterations * batch * ranks
        assert len(sampler) == iterations * batch
        assert (sampler.first_epoch, sampler.last_epoch) == (0, -(-100 // iterations) - 1)
