"""The validating half of :class:`UniRainModel`: figures per rain type, split over the ranks, tiled when large."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unirain_plugin.errors import OptionError
from unirain_plugin.models.checkpointing import atomic_save, network_content
from unirain_plugin.models.figures import BestFigure, MetricSuite
from unirain_plugin.models.model_options import ModelOptions
from unirain_plugin.models.routing import draw_routing
from unirain_plugin.models.training_log import validation_text, write_routing_picture, write_validation
from unirain_plugin.models.validating import (
    ValidationResult,
    gather_in_order,
    preserved_random_state,
    type_names,
    validate_images,
)
from unirain_plugin.support.files import write_png
from unirain_plugin.support.tiling import restore_in_tiles


class PerTypeValidation(SRModel):
    """Replaces the toolbox's two validation hooks; not registered itself.

    After a validation ``metric_results`` holds its figures: ``psnr`` and, for a labelled set, ``psnr/drs``, …,
    ``psnr/worst``. ``validation_results`` keeps the last :class:`ValidationResult` of each set by its name.
    """

    model_options: ModelOptions

    def init_validation(self) -> None:
        """Prepare; to be called when ``model_options`` is set."""
        silence_warning_of_several_sets()
        self.metrics = MetricSuite(self.model_options.metrics) if self.model_options.metrics else None
        self.best_figure: BestFigure | None = None
        self.validation_results: dict[str, ValidationResult] = {}
        self.worst_type: str | None = None
        self._loss_dataset: str | None = None
        self._drawn: dict[str, int] = {}

    @property
    def validates_loss(self) -> bool:
        """Whether the loss is reweighted by validation losses (``pixel_opt: source: val``)."""
        pixel = self.opt["train"].get("pixel_opt") or {} if self.is_train else {}
        return pixel.get("source") == "val" and hasattr(self.cri_pix, "update_from_validation")

    def evaluated_network(self) -> nn.Module:
        """The network that is validated: the average if there is one. Never wrapped: a wrapper may talk to ranks."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)

    def forget_data(self) -> None:
        """Let go of the current batch and its output."""
        for name in ("lq", "gt", "output"):
            self.__dict__.pop(name, None)

    def test(self, after_forward: Callable[[], None] = lambda: None) -> None:
        """Restore ``lq`` in full precision, large images in tiles.

        Args:
            after_forward: Called after each forward of the network.
        """
        network = self.evaluated_network()

        def restore(image: Tensor) -> Tensor:
            output = network(image)
            after_forward()
            return output

        settings = self.model_options.validation
        tile = settings.tile_for(*self.lq.shape[-2:])
        with _evaluating(network, bool(self.model_options.training.compile)):
            if tile:
                self.output = restore_in_tiles(restore, self.lq, tile, settings.tile_overlap)
            else:
                self.output = restore(self.lq)

    def nondist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate in this process alone."""
        self._validate(dataloader, current_iter, tb_logger, save_img, 0, 1)

    def dist_validation(self, dataloader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate with all ranks, each its share of the images; the figures are those of a single process."""
        self._validate(dataloader, current_iter, tb_logger, save_img, *get_dist_info())

    def _validate(
        self, loader: DataLoader, current_iter: Any, tb_logger: Any, save_img: bool, rank: int, world_size: int
    ) -> None:
        with preserved_random_state():
            images = validate_images(self, loader, current_iter, save_img, rank, world_size)
        images = gather_in_order(images, world_size)
        name = loader.dataset.opt["name"]
        result = ValidationResult(name, images, type_names(loader.dataset), self.model_options.better)
        self.validation_results[name] = result
        if self.metrics:
            self._publish(result, current_iter, tb_logger)
        if self.is_train:
            self._learn_from(result, current_iter)
        if rank == 0:
            self._draw_routing(result, current_iter, tb_logger)

    def _publish(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        """Log the figures and remember the best ones."""
        self.metric_results = result.figures()
        self._initialize_best_metric_results(result.dataset)
        for metric in result.better:
            self._update_best_metric_result(result.dataset, metric, self.metric_results[metric], current_iter)
        get_root_logger().info(validation_text(result, self.best_metric_results[result.dataset]))
        if worst := result.worst(next(iter(result.better))):
            self.worst_type = f"{worst[0]} {worst[1]:.2f}"
        if tb_logger:
            write_validation(tb_logger, result, current_iter)

    def _learn_from(self, result: ValidationResult, current_iter: int) -> None:
        """Keep the best network; hand the losses to a loss that is reweighted by them."""
        best = self.best_figure
        if best and best.improved(result.dataset, self.metric_results, current_iter):
            self._save_best()
            get_root_logger().info(
                f"Best {best.settings.metric} so far: {best.value:.4f} @ {current_iter} iter; saved."
            )
        if self.validates_loss:
            self._loss_dataset = self._loss_dataset or result.dataset  # several sets would count one update twice
            if result.dataset == self._loss_dataset:
                if not result.losses():
                    raise OptionError(f"train: pixel_opt: source: val: the set '{result.dataset}' has no rain types.")
                self.cri_pix.update_from_validation(result.losses())

    def _save_best(self) -> None:
        """Write ``models/net_g_best.pth`` (rank 0), in the form of the toolbox's checkpoints."""
        if self.opt["rank"] != 0:
            return
        atomic_save(network_content(self), Path(self.opt["path"]["models"]) / "net_g_best.pth")

    def _draw_routing(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        """Save a picture of which experts serve which type.

        In training that is done with the first validation after each multiple of ``logger: routing_freq`` iterations.
        """
        if not result.routing():
            return
        if self.is_train:
            period = current_iter // (self.model_options.routing_freq or 1)
            if period == self._drawn.get(result.dataset, 0):
                return
            self._drawn[result.dataset] = period
        path = Path(self.opt["path"]["visualization"]) / "routing" / f"{result.dataset}_{current_iter}.png"
        write_png(path, draw_routing(result.routing())[..., ::-1])
        if tb_logger:
            write_routing_picture(tb_logger, result, current_iter)


def silence_warning_of_several_sets() -> None:
    """The toolbox says at every validation that several sets are for SRModel only, also where the model is one."""
    logging.getLogger("basicsr").addFilter(_is_no_warning_of_several_sets)


def _is_no_warning_of_several_sets(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Multiple validation datasets are *only* supported by SRModel")


@contextmanager
def _evaluating(network: nn.Module, compiled: bool) -> Iterator[None]:
    """Evaluation mode without gradients and without compilation (every image size would compile anew)."""
    was_training = network.training
    network.eval()
    has_stance = compiled and hasattr(torch.compiler, "set_stance")  # torch 2.6 and later
    eager = torch.compiler.set_stance("force_eager") if has_stance else nullcontext()
    try:
        with torch.no_grad(), eager:
            yield
    finally:
        network.train(was_training)
