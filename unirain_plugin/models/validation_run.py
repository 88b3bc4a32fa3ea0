"""The loop over the images of a validation set: restore, measure, save."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from basicsr.utils import get_root_logger, tensor2img
from torch.utils.data import DataLoader
from tqdm import tqdm

from unirain_plugin.models.routing import RoutingMeter
from unirain_plugin.models.saved_names import names_by_type, saved_path
from unirain_plugin.models.validation import ImageResult, images_of_rank, type_names
from unirain_plugin.support.png import write_png

if TYPE_CHECKING:
    from unirain_plugin.models.unirain_model import UniRainModel


def validate_images(
    model: UniRainModel, dataloader: DataLoader, iteration: Any, save_img: bool, rank: int, world_size: int
) -> list[ImageResult]:
    """Validate this rank's share of a data set.

    Args:
        model: The model; its ``lq``, ``gt`` and ``output`` are gone afterwards.
        dataloader: Yields single images.
        iteration: For the names of saved images.
        save_img: Whether to save the restored images.
        rank: This process's rank.
        world_size: Number of processes that share the work.
    """
    dataset = dataloader.dataset.opt["name"]
    names = type_names(dataloader.dataset)
    meter = RoutingMeter(model.evaluated_network())
    total = len(range(rank, len(dataloader.dataset), world_size))
    show = bool((model.opt.get("val") or {}).get("pbar")) and rank == 0
    saved = names_by_type(dataloader.dataset) if save_img else []
    results = []
    with tqdm(total=total, unit="image", desc=f"Validation {dataset}", disable=not show, leave=False) as bar:
        for index, data in images_of_rank(dataloader, rank, world_size):
            label = int(data["rain_type"][0]) if "rain_type" in data else None
            model.feed_data(data)
            model.test(meter.observe)
            if not torch.isfinite(model.output).all():
                get_root_logger().warning(f"Validation {dataset}: the output for {data['lq_path'][0]} is not finite.")
            loss = _plain_loss(model)  # first: tensor2img clamps the output in place
            image = tensor2img([model.output])
            if save_img:
                name = saved[index] if saved else PurePath(data["lq_path"][0]).stem
                path = saved_path(model.opt, dataset, name, None if label is None else names.get(label), iteration)
                write_png(path, image)
            metrics = _measure(model, image, data["lq_path"][0])
            results.append(ImageResult(index, label, metrics, loss, meter.take()))
            model.forget_data()
            bar.update()
    return results


def _plain_loss(model: UniRainModel) -> float:
    """The base loss of the current image, where the reweighting asks for it; else NaN."""
    if not model.validates_loss or not hasattr(model, "gt"):
        return math.nan
    with torch.no_grad():
        return float(model.cri_pix(model.output, model.gt))


def _measure(model: UniRainModel, image: np.ndarray, path: str) -> dict[str, float]:
    if model.metrics is None:
        return {}
    return model.metrics(image, tensor2img([model.gt]) if hasattr(model, "gt") else None, path)
