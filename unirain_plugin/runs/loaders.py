"""Loaders of a run in our runner: the toolbox's, with a data order that is exact to resume."""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

import torch
from basicsr.data import build_dataloader, build_dataset
from torch.utils.data import DataLoader

from unirain_plugin.data.draws import ReseededDataset, ResumableSampler
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.runs.remedies import name_batches
from unirain_plugin.support.processes import uninterrupted
from unirain_plugin.toolbox import registered


def build_training_loader(
    opt: Mapping[str, Any], total_iter: int, start_iter: int, start_draw: int | None, logger: logging.Logger
) -> tuple[DataLoader, ResumableSampler]:
    """The loader of ``datasets: train:`` after ``start_iter`` of ``total_iter`` iterations, as ``logger`` is told.

    ``start_draw`` is the first draw that has not been trained on, where it is known (see :class:`ResumableSampler`). A
    DataError if the data set is empty. An OptionError if there is no section ``datasets: train:``.
    """
    if "train" not in opt["datasets"]:
        raise OptionError(f"datasets: found {', '.join(opt['datasets']) or 'nothing'}; expected a section 'train'.")
    section = dict(opt["datasets"]["train"])
    if uses_sample_index(section["type"]):
        section.setdefault("seed", opt["manual_seed"])
    dataset = build_dataset(section)
    if len(dataset) == 0:
        raise DataError(f"datasets: train: the data set {section['name']!r} is empty: there is nothing to train on.")
    devices = 1 if opt["dist"] else max(1, opt["num_gpu"])
    ratio = section.get("dataset_enlarge_ratio", 1)
    sampler = ResumableSampler(
        len(dataset),
        section["batch_size_per_gpu"] * devices,
        total_iter,
        opt["manual_seed"],
        num_replicas=opt["world_size"],
        rank=opt["rank"],
        ratio=ratio,
        start_iter=start_iter,
        start_draw=start_draw,
    )
    if not uses_sample_index(section["type"]):
        dataset = ReseededDataset(dataset, opt["manual_seed"])
    # Workers that live on spare their start in every epoch; without workers torch refuses the option.
    persistent = section["num_worker_per_gpu"] > 0 and section.get("persistent_workers", True)
    section["persistent_workers"] = persistent
    loader = build_dataloader(
        dataset, section, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=sampler, seed=opt["manual_seed"]
    )
    size, batch = sampler.dataset_size, sampler.global_batch
    logger.info(
        "Training statistics:"
        f"\n\tNumber of train images: {size}"
        f"\n\tDataset enlarge ratio: {ratio}"
        f"\n\tBatch size per gpu: {batch // sampler.num_replicas}"
        f"\n\tWorld size (gpu number): {sampler.num_replicas}"
        f"\n\tRequire iter number per epoch: {sampler.iters_per_epoch}"
        f"\n\tTotal epochs: {sampler.last_epoch + 1}; iters: {total_iter}."
    )
    if size < batch:
        text = "each batch holds some images more than once (with crops and flips of their own)"
        logger.warning(f"The data set has {size} images and a batch {batch}: {text}.")
    return _own_stream(loader, opt["manual_seed"]), sampler


def uses_sample_index(dataset_type: str) -> bool:
    """Whether a registered data set seeds itself from (its option ``seed``, ``SampleIndex.draw``)."""
    return getattr(registered("dataset")[dataset_type], "uses_sample_index", False)


def build_validation_loaders(opt: Mapping[str, Any], logger: logging.Logger) -> list[DataLoader]:
    """The loaders of every ``datasets: val…:`` section, in the file's order; another section is an OptionError."""
    loaders = []
    for phase, section in opt["datasets"].items():
        if phase == "train":
            continue
        if phase.split("_")[0] != "val":
            raise OptionError(f"datasets: {phase}: expected 'train', 'val' or 'val_NAME'.")
        dataset = build_dataset(section)
        loader = build_dataloader(dataset, section, num_gpu=opt["num_gpu"], dist=opt["dist"], seed=opt["manual_seed"])
        logger.info(f"Number of val images/folders in {section['name']}: {len(dataset)}")
        loaders.append(_own_stream(loader, opt["manual_seed"]))
    return loaders


def _own_stream(loader: DataLoader, seed: int) -> DataLoader:
    """Every ``iter(loader)`` draws a seed for its workers: from its own stream it leaves the run's untouched."""
    name_batches(loader).generator = torch.Generator().manual_seed(seed)
    if loader.num_workers:
        loader.worker_init_fn = partial(_begin_quietly, loader.worker_init_fn)
        context = copy(multiprocessing.get_context())
        context.Process = _Worker
        loader.multiprocessing_context = context
    return loader


class _Worker(multiprocessing.Process):
    def start(self) -> None:
        with uninterrupted():
            super().start()


def _begin_quietly(begin: Callable[[int], None] | None, worker: int) -> None:
    """In a worker: what its helper threads say when the run goes away is not told. Errors are sent to the run."""
    sys.excepthook = lambda *_: None
    if begin is not None:
        begin(worker)
