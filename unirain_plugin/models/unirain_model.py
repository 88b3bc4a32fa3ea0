"""``UniRainModel``: the toolbox's ``SRModel`` with labels, mixed precision, finite checks, figures per rain type."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from unirain_plugin.errors import TrainingError
from unirain_plugin.models import training_step
from unirain_plugin.models.checkpointing import load_training_state, save_checkpoint
from unirain_plugin.models.settings import KEYS, OPTIMIZERS, Settings, build_optimizer
from unirain_plugin.models.training_log import TrainingBar, wants_bar
from unirain_plugin.models.training_step import Batch, Objective, TrainingStep, learned_parameters, loss_state
from unirain_plugin.models.validating import PerTypeValidation
from unirain_plugin.options.check_data import check_labels
from unirain_plugin.options.yaml_loader import Problems


@MODEL_REGISTRY.register()
class UniRainModel(PerTypeValidation):
    """Trains and tests any image-to-image network of the toolbox; made for ``UniRain`` and our reweighted loss.

    Labels, auxiliary losses and routing are used where they exist. The keys it adds to an option file are those of
    :mod:`unirain_plugin.models.settings` (else OptionError); the file's dict is copied, not changed.
    """

    TRAIN_OPTIONS, VAL_OPTIONS, LOGGER_OPTIONS = KEYS["train"], KEYS["val"], KEYS["logger"]
    OPTIMIZERS = OPTIMIZERS  # for the option checker

    def __init__(self, opt: dict[str, Any]) -> None:
        opt = copy.deepcopy(opt)
        self.settings = Settings.of_run(opt, opt["is_train"])
        if self.settings.metrics:
            opt["val"]["metrics"] = self.settings.metrics
        if opt["is_train"]:
            _check_labels(opt)
        self.init_validation()
        self.current_iter = 0
        self.rain_type: Tensor | None = None
        self._bar: TrainingBar | None = None
        super().__init__(opt)

    @classmethod
    def check_options(cls, opt: Mapping[str, Any], is_train: bool) -> None:
        """Check an option file without building anything, with the OptionError of the constructor."""
        Settings.of_run(opt, is_train)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move a network to the device and wrap it; memory order and compilation are set before."""
        if self.settings.train.channels_last:
            _to_channels_last(net)
        if mode := self.settings.train.compile:
            net.compile(mode=mode if isinstance(mode, str) else None)  # in place: the state dict's names stay
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """Build losses, optimisers and schedules as the toolbox does, then the training step."""
        super().init_training_settings()
        train = self.settings.train
        if train.channels_last and hasattr(self, "net_g_ema"):
            _to_channels_last(self.net_g_ema)
        self.best_figure = self.settings.new_best_figure()
        network = self.get_bare_model(self.net_g)
        if isinstance(self.net_g, nn.DataParallel) and hasattr(network, "auxiliary_losses"):
            network = None
            text = "DataParallel's copies take the network's auxiliary losses with them, so they are not trained on"
            advice = "Use torchrun and --launcher pytorch."
            get_root_logger().warning(f"num_gpu > 1 without a launcher: {text}. {advice}")
        objective = Objective(network, self.cri_pix, self.cri_perceptual, train.aux_weights)
        self.training_step = TrainingStep(self.net_g, objective, self.optimizer_g, train, self.device)

    def setup_optimizers(self) -> None:
        """Optimise what the toolbox would, and what the loss has to learn as a second group without weight decay.

        Our choice: learned log-variances would otherwise be drawn towards equal weights.
        """
        super().setup_optimizers()
        parameters = learned_parameters(self.cri_pix)
        if parameters:
            self.optimizer_g.add_param_group({"params": parameters, "weight_decay": 0.0})

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        return build_optimizer(optim_type, params, lr, **kwargs)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Linear warm-up, then the schedule; ``MultiStepLR`` steps from the current rate: its own is set before."""
        self._set_lr([scheduler.get_last_lr() for scheduler in self.schedulers])
        super().update_learning_rate(current_iter, warmup_iter)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take up a batch: ``lq``, and where there are any ``gt``, ``rain_type``, ``lq_path``."""
        self.forget_data()
        super().feed_data(data)
        self.rain_type = data.get("rain_type")  # stays where it is: the loss reads labels on the CPU
        self._paths = list(data.get("lq_path", ()))
        if self.settings.train.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)
            if hasattr(self, "gt"):
                self.gt = self.gt.contiguous(memory_format=torch.channels_last)

    def optimize_parameters(self, current_iter: int) -> None:
        """Train on the current batch; a TrainingError if too many iterations in a row were not finite."""
        self.current_iter = current_iter
        seed = (self.opt["manual_seed"], current_iter, self.opt["rank"])  # a resumed run cuts what it would have cut
        devices = 1 if self.opt["dist"] else max(1, self.opt["num_gpu"])
        batch = Batch(self.lq, self.gt, self.rain_type, self._paths)
        batch = batch.cut(self.settings.train.stage(current_iter), seed, devices)
        try:
            self.log_dict, stepped = self.training_step.run(batch, current_iter)
        except TrainingError:
            if self._bar is not None:
                self._bar.close()
            raise
        self.output = self.training_step.output
        if stepped and self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        self._show_progress(current_iter, len(batch.lq) * self.opt["world_size"])

    def model_ema(self, decay: float = 0.999) -> None:
        """Average the weights, as the toolbox does, and the buffers."""
        training_step.update_average(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, and what the loss tells about rain types (``l_drs``, ``w_drs``, …)."""
        log = getattr(self.cri_pix, "log", dict)()
        losses = {name.removeprefix("l_"): v for name, v in log.items() if name.startswith("l_") and math.isfinite(v)}
        if losses and not self.validation_results:
            self.worst_type = max(losses, key=losses.__getitem__)
        return {**self.log_dict, **log}

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate; the progress bar makes room."""
        if self._bar is not None:
            self._bar.clear()
        super().validation(dataloader, current_iter, tb_logger, save_img)

    save = save_checkpoint
    resume_training = load_training_state

    def history_state(self) -> dict[str, Any]:
        """What a resumed run needs beyond networks, optimisers and schedulers."""
        return {
            "loss": loss_state(self.cri_pix) if self.cri_pix else None,
            "scaler": self.training_step.scaler.state_dict(),
            "nonfinite": self.training_step.guard.state_dict(),
            "best_metric_results": copy.deepcopy(getattr(self, "best_metric_results", {})),
            "best_figure": self.best_figure.state_dict() if self.best_figure else None,
        }

    def load_history_state(self, state: Mapping[str, Any]) -> None:
        if self.cri_pix and state["loss"] is not None:
            self.cri_pix.load_state_dict({**self.cri_pix.state_dict(), **state["loss"]})
        if state["scaler"]:  # empty without fp16
            self.training_step.scaler.load_state_dict(state["scaler"])
        self.training_step.guard.load_state_dict(state["nonfinite"])
        self.best_metric_results = copy.deepcopy(state["best_metric_results"])
        if self.best_figure and state["best_figure"] is not None:
            self.best_figure.load_state_dict(state["best_figure"])

    def _show_progress(self, current_iter: int, images: int) -> None:
        if self._bar is None:
            if not wants_bar(self.settings.logger.progress, self.opt["rank"]):
                return
            self._bar = TrainingBar(self.opt["name"], int(self.opt["train"]["total_iter"]), current_iter - 1)
        self._bar.update(current_iter, images, self.log_dict, self.worst_type)


def _check_labels(opt: Mapping[str, Any]) -> None:
    """Refuse data and loss that label rain types differently; the stock runner has not checked the option file."""
    problems = Problems(opt.get("name", "options"))
    check_labels(opt, problems, is_train=True, check_paths=True)
    if any(path[:2] == ("train", "pixel_opt") for path in problems.wrong):
        problems.raise_if_any()


def _to_channels_last(network: nn.Module) -> None:
    """Reorder the (4-d) kernels in memory; ``Module.to`` fails for networks that have 5-d parameters as well."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
