"""Any map-style data set, its random choices tied to the draw."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from unirain_plugin.data.sample_index import SampleIndex
from unirain_plugin.support.random_streams import seeded_streams


class ReseededDataset(Dataset):
    """Makes a data set that draws from the global random streams independent of workers, ranks and resumes.

    The toolbox's data sets crop and flip by Python's ``random``. In a loader worker that stream starts afresh every
    epoch (so every epoch repeats the same crops) and its position is unknown to a checkpoint. Here the streams are
    seeded from (seed, draw) for the time of one item and put back afterwards.

    Args:
        dataset: The data set. It is called with a plain int.
        seed: Seed of the run.
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
