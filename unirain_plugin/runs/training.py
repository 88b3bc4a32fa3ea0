"""A training run: the toolbox's ``train_pipeline`` made exact to resume and impossible to stop short."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, set_random_seed
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.options import ordered_yaml

from unirain_plugin.checkpoints.states import newest_checkpoint, read_checkpoint, read_state
from unirain_plugin.models.checkpointing import load_training_state, save_training_state, states_of_ranks
from unirain_plugin.models.training_log import UniRainMessageLogger
from unirain_plugin.models.validating import silence_warning_of_several_sets
from unirain_plugin.runs.distributed import agreed
from unirain_plugin.runs.loaders import build_training_loader, build_validation_loaders
from unirain_plugin.runs.remedies import LazyPrefetcher, name_images
from unirain_plugin.runs.run import Run, RunArguments
from unirain_plugin.support.files import write_whole


class TrainingRun(Run):
    """One run of ``train_pipeline``. See :class:`~unirain_plugin.runs.run.Run`."""

    def __init__(self, arguments: RunArguments) -> None:
        super().__init__(arguments, is_train=True)
        self.resume_state: dict[str, Any] | None = None
        self.sampler: Any = None
        self.val_loaders: list[Any] = []
        self.model: Any = None
        self.tb_logger: Any = None
        self.last_validation: dict[int, int] = {}
        self.rank_states: list[dict[str, Any]] = []
        self.resumed_by_us = False
        self.states: Path | None = None

    def saved(self) -> str:
        """The newest checkpoint, and how to go on from it."""
        if self.states is None:
            return "training had not begun"
        names = [path.stem for path in self.states.glob("*.state")]
        newest = max((int(name) for name in names if name.isdigit()), default=None)
        if newest is None:
            return "nothing was saved yet, the same command begins anew"
        return f"`--auto_resume` goes on from the checkpoint of iteration {newest} in {self.states.parent}"

    def replacements(self, module: Any) -> list[tuple[object, str, object]]:
        """What is replaced in the toolbox during the run: (module, name, value); the last two for any model."""

        def save_state(model: Any, epoch: int, current_iter: int) -> None:
            if current_iter != -1:
                save_training_state(model, epoch, current_iter, self.rank_states)

        def load_state(model: Any, state: dict[str, Any]) -> None:
            load_training_state(model, state)
            self.resumed_by_us = True

        return [
            *super().replacements(module),
            (module, "mkdir_and_rename", self.archive),
            (module, "load_resume_state", self.load_resume_state),
            (module, "copy_opt_file", self.copy_opt_file),
            (module, "init_tb_logger", self.init_tb_logger),
            (module, "create_train_val_dataloader", self.create_train_val_dataloader),
            (module, "CPUPrefetcher", LazyPrefetcher),
            (module, "build_model", partial(self.build_model, module.build_model)),
            (module, "MessageLogger", self.message_logger),
            (BaseModel, "save_training_state", save_state),
            (BaseModel, "resume_training", load_state),
        ]

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """Find and load the state to go on from, on the CPU; None begins a new run.

        ``--auto_resume`` takes the newest complete checkpoint below the root, else ``path: resume_state``. A
        CheckpointError if that is broken, or with ``--auto_resume`` all are.
        """
        self.states = Path(opt["path"]["training_states"])
        path = agreed(self._find_state(opt) if opt["rank"] == 0 else None)
        if path is None:
            return None
        self.resume_state = state = read_state(path)
        opt["path"]["resume_state"] = str(path)
        begun_anew = opt["path"].get("ignore_resume_networks") or ()
        for label in [label for label in _network_labels(opt) if f"network_{label}" not in begun_anew]:
            network = _models_beside(path, opt) / f"net_{label}_{state['iter']}.pth"
            opt["path"] |= {f"pretrain_network_{label}": str(network), f"param_key_{label}": "params"}
        self._take_seed(opt, state)
        for key in ("experiments_root", "models", "training_states", "log", "visualization"):
            Path(opt["path"][key]).mkdir(parents=True, exist_ok=True)  # a state of another experiment may be given
        return state

    def _find_state(self, opt: dict[str, Any]) -> Path | None:
        labels, paths = _network_labels(opt), opt["path"]
        if self.arguments.auto_resume:
            states, models = Path(paths["training_states"]), Path(paths["models"])
            path, problems = newest_checkpoint(states, models, labels)
            self.notes += [f"{problem} Falling back to {path}." for problem in problems]
            if path is not None:
                return path
        if not paths.get("resume_state"):
            return None
        path = Path(paths["resume_state"])
        read_checkpoint(path, _models_beside(path, opt), labels)
        return path

    def _take_seed(self, opt: dict[str, Any], state: dict[str, Any]) -> None:
        """The data order goes on where the seed is the one of the first part of the run."""
        saved = state.get("unirain", {}).get("manual_seed", opt["manual_seed"])
        if self.options.get("manual_seed") is None:
            opt["manual_seed"] = saved
            set_random_seed(saved + opt["rank"])
        elif opt["manual_seed"] != saved:
            text = f"manual_seed is {opt['manual_seed']} but was {saved} before"
            self.notes.append(f"{text}: from here the data come in another order.")

    def copy_opt_file(self, opt_file: str, experiments_root: str) -> None:
        """The toolbox's copy of the option file, from memory: the file may lie in the folder just archived.

        With overrides it is written anew with them: weights are restored later with the network that it names.
        """
        if get_dist_info()[0] == 0:
            text = self.option_text
            if self.arguments.overrides:
                text = yaml.dump(self.options, Dumper=ordered_yaml()[1], sort_keys=False, allow_unicode=True)
            header = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {' '.join(sys.argv)}\n\n"
            write_whole(Path(experiments_root) / Path(opt_file).name, header + text)

    def init_tb_logger(self, log_dir: str) -> Any:
        """TensorBoard on rank 0; what a killed run wrote after its last checkpoint is purged."""
        if get_dist_info()[0] != 0:
            return None
        from torch.utils.tensorboard import SummaryWriter

        step = self.resume_state["iter"] + 1 if self.resume_state else None
        self.tb_logger = SummaryWriter(log_dir=log_dir, purge_step=step)
        return self.tb_logger

    def create_train_val_dataloader(self, opt: dict[str, Any], logger: Any) -> tuple[Any, ...]:
        """The toolbox's five, whose training data are one stream of draws, entered where the checkpoint left it."""
        total_iters = int(opt["train"]["total_iter"])
        state = self.resume_state or {"iter": 0}
        position = state.get("unirain", {}).get("data") or {}
        draw = position.get("next_draw")
        train_loader, self.sampler = build_training_loader(opt, total_iters, state["iter"], draw, logger)
        size = self.sampler.dataset_size
        if position.get("dataset_size", size) != size:
            text = f"The training set has {size} images but had {position['dataset_size']} before"
            logger.warning(f"{text}: from here the data come in another order.")
        state["epoch"] = self.sampler.first_epoch  # where an epoch ended with the checkpoint, the next one
        self.val_loaders = build_validation_loaders(opt, logger)
        return train_loader, self.sampler, self.val_loaders, self.sampler.last_epoch, total_iters

    def build_model(self, build: Callable[[dict[str, Any]], Any], opt: dict[str, Any]) -> Any:
        """The toolbox's model, which knows the position in the data and does not validate the same weights twice."""
        model = self.model = name_images(build(opt))
        save, resume, validation = model.save, model.resume_training, model.validation
        is_own = hasattr(model, "history_state")
        if isinstance(model, SRModel):
            silence_warning_of_several_sets()

        def save_and_flush(epoch: int, current_iter: int) -> None:
            # every rank comes here, but not every model calls save_training_state on all of them
            self.rank_states = [] if is_own else states_of_ranks(model)
            save(epoch, current_iter)
            if self.tb_logger is not None:
                self.tb_logger.flush()

        def validate_once(dataloader: Any, current_iter: int, *args: object, **kwargs: object) -> None:
            if self.last_validation.get(id(dataloader)) != current_iter:
                self.last_validation[id(dataloader)] = current_iter
                validation(dataloader, current_iter, *args, **kwargs)

        def resume_and_tell(state: dict[str, Any]) -> None:
            resume(state)
            if not is_own and not self.resumed_by_us:
                text = f"{type(model).__name__} resumes in its own way: random streams and the state of losses begin"
                text += " anew, so the run is not bit-identical; nor is it told which options have changed."
                get_root_logger().warning(text)

        model.data_position = self.sampler.position_after
        model.save, model.resume_training, model.validation = save_and_flush, resume_and_tell, validate_once
        return model

    def message_logger(self, opt: dict[str, Any], start_iter: int, tb_logger: Any) -> UniRainMessageLogger:
        """The toolbox makes its message logger just before training begins: a resumed run catches up here.

        The toolbox saves first and validates then. A validation that was due is done (again): it may change the loss
        weights and the best metric.
        """
        val, total = opt.get("val"), int(opt["train"]["total_iter"])
        if val is not None and 0 < start_iter < total and start_iter % val["val_freq"] == 0:
            for loader in self.val_loaders:
                self.model.validation(loader, start_iter, tb_logger, val["save_img"])
        return UniRainMessageLogger(opt, start_iter, tb_logger)


def _network_labels(opt: dict[str, Any]) -> list[str]:
    """Labels of the networks that a resume loads: ``g`` of ``network_g``, and so on."""
    ignored = opt["path"].get("ignore_resume_networks") or ()
    return [key.removeprefix("network_") for key in opt if key.startswith("network_") and key not in ignored]


def _models_beside(state_path: Path, opt: dict[str, Any]) -> Path:
    """The folder of a state's networks: beside its own folder, else this experiment's."""
    beside = state_path.parent.parent / "models"
    return beside if beside.is_dir() else Path(opt["path"]["models"])
