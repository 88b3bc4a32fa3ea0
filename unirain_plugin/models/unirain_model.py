"""``UniRainModel``: the toolbox's ``SRModel`` with labels, mixed precision, finite checks, figures per rain type."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unirain_plugin.errors import OptionError, TrainingError
from unirain_plugin.models.best_checkpoint import BestFigure
from unirain_plugin.models.checkpoint_files import atomic_save
from unirain_plugin.models.ema import update_average
from unirain_plugin.models.metrics import MetricSuite, resolve_metrics
from unirain_plugin.models.objective import Objective
from unirain_plugin.models.optimizers import build_optimizer, check_scheduler
from unirain_plugin.models.progress import TrainingBar, wants_bar
from unirain_plugin.models.routing import draw_routing
from unirain_plugin.models.settings import TrainingSettings, ValidationSettings, option_names
from unirain_plugin.models.tiling import restore_in_tiles
from unirain_plugin.models.training_log import validation_text, write_routing_picture, write_validation
from unirain_plugin.models.training_step import Batch, TrainingStep
from unirain_plugin.models.validation import ValidationResult, gather_in_order, preserved_random_state, type_names
from unirain_plugin.models.validation_run import validate_images


@MODEL_REGISTRY.register()
class UniRainModel(SRModel):
    """Trains and tests any image-to-image network of the toolbox; made for ``UniRain`` and our reweighted loss.

    It works with stock networks, losses and data sets as well: labels, auxiliary losses and routing are used where
    they exist. The keys it adds to an option file are those of :class:`TrainingSettings` under ``train:``, of
    :class:`ValidationSettings` under ``val:``, and ``progress`` and ``routing_freq`` under ``logger:``.

    Args:
        opt: The parsed option file; copied, not changed.

    Raises:
        OptionError: If an option of ours has a value that cannot be used.
    """

    TRAIN_OPTIONS = option_names(TrainingSettings)
    VAL_OPTIONS = option_names(ValidationSettings)
    LOGGER_OPTIONS = frozenset({"progress", "routing_freq"})

    def __init__(self, opt: dict[str, Any]) -> None:
        opt = copy.deepcopy(opt)
        val = opt.get("val") or {}
        self.settings = TrainingSettings.from_options(opt["train"]) if opt["is_train"] else TrainingSettings()
        self.val_settings = ValidationSettings.from_options(val)
        metrics = resolve_metrics(val.get("metrics"))
        if metrics is not None:
            val["metrics"] = metrics
        self.metrics = MetricSuite(metrics) if metrics else None
        better = {name: options["better"] for name, options in (metrics or {}).items()}
        best = self.val_settings.best if opt["is_train"] else None
        self.best_figure = BestFigure(best, better) if best else None
        self.validation_results: dict[str, ValidationResult] = {}
        self.rain_type: Tensor | None = None
        self._bar: TrainingBar | None = None
        self._worst: str | None = None
        self._loss_dataset: str | None = None
        super().__init__(opt)

    # ---- building -------------------------------------------------------------------------------------------------

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """See the toolbox; memory order and compilation are set before the wrapping."""
        if self.settings.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if self.settings.compile:
            mode = self.settings.compile if isinstance(self.settings.compile, str) else None
            net.compile(mode=mode)  # in place: the names in the state dict stay as they are
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """See the toolbox; then the training step is put together."""
        super().init_training_settings()
        if self.settings.channels_last and hasattr(self, "net_g_ema"):
            self.net_g_ema.to(memory_format=torch.channels_last)
        batch = self.opt["datasets"]["train"]["batch_size_per_gpu"]
        if self.settings.accumulate > batch:
            raise OptionError(
                f"train: accumulate: {self.settings.accumulate} micro-batches cannot be cut from a batch of {batch} "
                "(datasets: train: batch_size_per_gpu)."
            )
        if self.validates_loss and not self.opt.get("val"):
            raise OptionError("train: pixel_opt: source: val needs a validation set and a section val:.")
        network = self.get_bare_model(self.net_g)
        objective = Objective(network, self.cri_pix, self.cri_perceptual, self.settings.aux_weights)
        self.training_step = TrainingStep(
            self.net_g, objective, self.cri_pix, self.optimizer_g, self.settings, self.device
        )

    def setup_optimizers(self) -> None:
        """See the toolbox; parameters of the loss form a second group without weight decay.

        Without decay is our choice: learned log-variances would otherwise be drawn towards equal weights.
        """
        super().setup_optimizers()
        parameters = [p for p in self.cri_pix.parameters() if p.requires_grad] if self.cri_pix else []
        if parameters:
            self.optimizer_g.add_param_group({"params": parameters, "weight_decay": 0.0})

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Adam and AdamW, and all others of :data:`OPTIMIZERS`."""
        return build_optimizer(optim_type, params, lr, **kwargs)

    def setup_schedulers(self) -> None:
        """See the toolbox; schedules that would fail later are refused now."""
        check_scheduler(self.opt["train"])
        super().setup_schedulers()

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """See the toolbox: linear warm-up, then the schedule.

        A step of ``MultiStepLR`` starts from the current learning rate. It is given the schedule's own one here, as
        else the rate would stay at that of the last warm-up iteration.
        """
        self._set_lr([scheduler.get_last_lr() for scheduler in self.schedulers])
        super().update_learning_rate(current_iter, warmup_iter)

    # ---- training -------------------------------------------------------------------------------------------------

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take up a batch: ``lq``, and where there are any ``gt``, ``rain_type``, ``lq_path``."""
        self.forget_data()
        super().feed_data(data)
        self.rain_type = data.get("rain_type")  # the loss reads labels on the CPU, without waiting for the GPU
        self._paths = list(data.get("lq_path", ()))
        if self.settings.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)
            if hasattr(self, "gt"):
                self.gt = self.gt.contiguous(memory_format=torch.channels_last)

    def forget_data(self) -> None:
        """Let go of the current batch and its output."""
        for name in ("lq", "gt", "output"):
            self.__dict__.pop(name, None)

    def optimize_parameters(self, current_iter: int) -> None:
        """Train on the current batch; see :class:`TrainingStep`.

        Raises:
            TrainingError: If too many iterations in a row were not finite.
        """
        batch = Batch(self.lq, self.gt, self.rain_type, self._paths)
        try:
            self.log_dict, stepped = self.training_step.run(batch, current_iter)
        except TrainingError:
            self._close_bar()
            raise
        self.output = self.training_step.output
        if stepped and self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        self._show(current_iter)

    def model_ema(self, decay: float = 0.999) -> None:
        """See the toolbox; buffers are averaged too."""
        update_average(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, and what the loss tells about rain types (``l_drs``, ``w_drs``, …)."""
        log = getattr(self.cri_pix, "log", dict)()
        losses = {name.removeprefix("l_"): v for name, v in log.items() if name.startswith("l_") and math.isfinite(v)}
        if losses and not self.validation_results:
            self._worst = max(losses, key=losses.__getitem__)
        return {**self.log_dict, **log}

    def _show(self, current_iter: int) -> None:
        """Advance the progress bar."""
        if self._bar is None:
            if not wants_bar(self.opt["logger"].get("progress"), self.opt["rank"]):
                return
            images = len(self.lq) * self.opt["world_size"]
            self._bar = TrainingBar(self.opt["name"], int(self.opt["train"]["total_iter"]), current_iter - 1, images)
        self._bar.update(current_iter, self.log_dict, self._worst)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    # ---- validation -----------------------------------------------------------------------------------------------

    @property
    def validates_loss(self) -> bool:
        """Whether the loss is reweighted by validation losses (``pixel_opt: source: val``)."""
        return self.is_train and getattr(self.cri_pix, "source", None) == "val"

    def evaluated_network(self) -> nn.Module:
        """The network that is validated: the average if there is one. Never wrapped: a wrapper may talk to ranks."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)

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

        tile = self.val_settings.tile_for(*self.lq.shape[-2:])
        with _evaluating(network):
            if tile:
                self.output = restore_in_tiles(restore, self.lq, tile, self.val_settings.tile_overlap)
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
        if self._bar is not None:
            self._bar.clear()
        with preserved_random_state():
            images = validate_images(self, loader, current_iter, save_img, rank, world_size)
        images = gather_in_order(images, world_size)
        name = loader.dataset.opt["name"]
        better = {metric: options["better"] for metric, options in self.metrics.metrics.items()} if self.metrics else {}
        result = ValidationResult(name, images, type_names(loader.dataset), better)
        self.validation_results[name] = result
        if better:
            self._publish(result, current_iter, tb_logger)
        if self.is_train:
            self._learn_from(result, current_iter)
        self._draw_routing(result, current_iter, tb_logger)
        self._after_validation(name, current_iter)

    def _publish(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        """Log the figures and keep them in ``metric_results`` (``psnr``, ``psnr/drs``, ``psnr/worst``)."""
        self.metric_results = result.figures()
        self._initialize_best_metric_results(result.dataset)
        for metric in result.better:
            self._update_best_metric_result(result.dataset, metric, self.metric_results[metric], current_iter)
        get_root_logger().info(validation_text(result, self.best_metric_results[result.dataset]))
        if worst := result.worst(next(iter(result.better))):
            self._worst = f"{worst[0]} {worst[1]:.2f}"
        if tb_logger:
            write_validation(tb_logger, result, current_iter)

    def _learn_from(self, result: ValidationResult, current_iter: Any) -> None:
        """Keep the best network; hand the losses to a loss that is reweighted by them."""
        best = self.best_figure
        if best and result.better and best.improved(result.dataset, self.metric_results, current_iter):
            get_root_logger().info(
                f"Best {best.settings.metric} so far: {best.value:.4f} @ {current_iter} iter, saved."
            )
            self._save_best()
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
        networks = {"params": self.get_bare_model(self.net_g)}
        if hasattr(self, "net_g_ema"):
            networks["params_ema"] = self.net_g_ema
        content = {
            key: {name: tensor.cpu() for name, tensor in network.state_dict().items()}
            for key, network in networks.items()
        }
        atomic_save(content, Path(self.opt["path"]["models"]) / "net_g_best.pth")

    def _draw_routing(self, result: ValidationResult, current_iter: Any, tb_logger: Any) -> None:
        """Save a picture of which experts serve which type, at most every ``logger: routing_freq`` iterations."""
        frequency = (self.opt.get("logger") or {}).get("routing_freq") if self.is_train else None
        if self.opt["rank"] != 0 or not result.routing() or (frequency and current_iter % frequency):
            return
        path = Path(self.opt["path"]["visualization"]) / "routing" / f"{result.dataset}_{current_iter}.png"
        imwrite(draw_routing(result.routing())[..., ::-1], str(path))
        if tb_logger:
            write_routing_picture(tb_logger, result, current_iter)

    def _after_validation(self, dataset: str, current_iter: Any) -> None:
        """Called at the very end of the validation of each set."""

    # ---- history --------------------------------------------------------------------------------------------------

    def history_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond networks, optimisers and schedulers."""
        return {
            "loss": self.cri_pix.state_dict() if self.cri_pix else None,
            "scaler": self.training_step.scaler.state_dict(),
            "nonfinite": self.training_step.guard.state_dict(),
            "best_metric_results": copy.deepcopy(getattr(self, "best_metric_results", {})),
            "best_figure": self.best_figure.state_dict() if self.best_figure else None,
        }

    def load_history_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`history_state` gave."""
        if self.cri_pix and state["loss"] is not None:
            self.cri_pix.load_state_dict(state["loss"])
        self.training_step.scaler.load_state_dict(state["scaler"])
        self.training_step.guard.load_state_dict(state["nonfinite"])
        self.best_metric_results = copy.deepcopy(state["best_metric_results"])
        if self.best_figure and state["best_figure"] is not None:
            self.best_figure.load_state_dict(state["best_figure"])


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and without compilation (every image size would compile anew)."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        network.train(was_training)
