"""The order of the training data: one endless stream of numbered draws that can be entered anywhere.

Whatever is random of a sample belongs to its draw, so that a run is the same for any number of loader workers and of
ranks, and after a resume.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from unirain_plugin.errors import DataError
from unirain_plugin.support.random_streams import mixed_seed, seeded_streams


class SampleIndex(int):
    """An ``int`` to everybody else, that knows its ``draw``: its number over the run and all ranks, from 0."""

    draw: int

    def __new__(cls, index: int, draw: int) -> "SampleIndex":
        if draw < 0:
            raise ValueError(f"SampleIndex: draw must be 0 or more, found {draw}.")
        self = super().__new__(cls, index)
        self.draw = int(draw)
        return self

    def __reduce__(self) -> tuple[type["SampleIndex"], tuple[int, int]]:  # queues to loader workers pickle it
        return type(self), (int(self), self.draw)


class ResumableSampler(Sampler[SampleIndex]):
    """Replaces the toolbox's ``EnlargedSampler``, which always starts an epoch over and whose epochs end early.

    The draws of a run form one stream, numbered from 0 over all ranks: pass after pass over the data set, each in an
    order that depends on (seed, number of the pass) only. Iteration ``i`` (from 0) trains on the draws ``i·B … (i+1)·B
    − 1`` with B the batch size of all ranks together, and rank r of R takes every R-th of them beginning with the r-th.
    Hence the global batches are the same for any number of ranks and workers, and an epoch (``ceil(len · ratio / B)``
    iterations) is always full: batches run over the end of a pass into the next one.

    ``batch_size`` is that of one rank; ``total_iter`` counts from the run's very beginning, ``start_iter`` are done;
    ``start_draw`` is the first draw that has not been trained on (None: ``start_iter · B``), rounded up to a whole
    batch. An empty data set is a DataError.
    """

    def __init__(
        self,
        dataset_size: int,
        batch_size: int,
        total_iter: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        ratio: float = 1,
        start_iter: int = 0,
        start_draw: int | None = None,
    ) -> None:
        if dataset_size < 1:
            raise DataError("The training data set is empty: there is nothing to draw from.")
        self.dataset_size = dataset_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.global_batch = batch_size * num_replicas
        self.iters_per_epoch = max(1, math.ceil(dataset_size * ratio / self.global_batch))
        self.draws_per_epoch = self.iters_per_epoch * self.global_batch
        self.start_iter = start_iter
        draw = start_iter * self.global_batch if start_draw is None else start_draw
        self.start_draw = math.ceil(draw / self.global_batch) * self.global_batch
        self.end_draw = self.draw_after(total_iter)
        self.epoch = self.first_epoch = self.start_draw // self.draws_per_epoch
        self.last_epoch = max(self.first_epoch, math.ceil(self.end_draw / self.draws_per_epoch) - 1)

    def draw_after(self, iteration: int) -> int:
        """The first draw that has not been trained on when ``iteration`` iterations of the run are done."""
        return self.start_draw + (iteration - self.start_iter) * self.global_batch

    def position_after(self, iteration: int) -> dict[str, int]:
        """What a checkpoint keeps of the data: ``next_draw`` (see :meth:`draw_after`) and ``dataset_size``."""
        return {"next_draw": self.draw_after(iteration), "dataset_size": self.dataset_size}

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _bounds(self) -> tuple[int, int]:
        begin = max(self.epoch * self.draws_per_epoch, self.start_draw)
        return begin, max(begin, min((self.epoch + 1) * self.draws_per_epoch, self.end_draw))

    def __len__(self) -> int:
        begin, end = self._bounds()
        return (end - begin) // self.num_replicas

    def __iter__(self) -> Iterator[SampleIndex]:
        """Yield this rank's part of the current epoch's draws. Changes nothing, so it can be called again."""
        begin, end = self._bounds()
        order, current_pass = [], -1
        for draw in range(begin + self.rank, end, self.num_replicas):
            number, position = divmod(draw, self.dataset_size)
            if number != current_pass:
                generator = torch.Generator().manual_seed(mixed_seed(self.seed, number))
                order, current_pass = torch.randperm(self.dataset_size, generator=generator).tolist(), number
            yield SampleIndex(order[position], draw)


class ReseededDataset(Dataset):
    """Seeds the global random streams from (seed, draw) for the time of one item.

    The toolbox's data sets crop by Python's ``random``, which starts afresh in the loader's workers every epoch.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> Any:
        with seeded_streams(self.seed, index.draw):
            return self.dataset[int(index)]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # asked for while being unpickled in a spawned worker, before it is there
            raise AttributeError(name)
        return getattr(self.dataset, name)
