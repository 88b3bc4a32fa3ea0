"""What the toolbox's own keys may hold, which of them a run cannot start without, and what its classes read."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from unirain_plugin.support.spec import KeyPath, Rule, above, at_least, below, between, dotted, example, filled


def _whole(*rules: Rule) -> object:
    """A whole number; 5.0e+3 passes: the toolbox's own files write frequencies so."""
    return Annotated[float, Rule(kind="an integer", holds=float.is_integer), *rules]


_Text = Annotated[str, filled]
_Positive = Annotated[float, above(0)]
_BETAS = Rule(
    kind="a list of 2 numbers ≥ 0 and < 1",
    holds=lambda values: len(values) == 2 and all(type(v) in (int, float) and 0 <= v < 1 for v in values),
    example="[0.9, 0.999]",
)

RULES: dict[str, object] = {
    "name": Annotated[str, filled, example("train_UniRain")],
    "model_type": Annotated[str, filled, example("UniRainModel")],
    "scale": _whole(at_least(1), example("1")),
    "num_gpu": _whole(at_least(0)) | Literal["auto"],
    "manual_seed": _whole(between(0, 2**32 - 1)) | None,
    "find_unused_parameters": bool | None,
    "dist_params": dict | None,
    "imports": list[str] | None,
    "datasets": dict,
    "datasets.*": dict,
    "datasets.*.name": _Text,
    "datasets.*.type": _Text,
    "datasets.*.io_backend": dict,
    "datasets.*.io_backend.type": Literal["disk", "lmdb", "memcached"],
    "datasets.*.gt_size": _whole(at_least(1), example("128")),
    "datasets.*.use_hflip": bool,
    "datasets.*.use_rot": bool,
    "datasets.*.filename_tmpl": _Text,
    "datasets.*.mean": list[float] | None,
    "datasets.*.std": list[float] | None,
    "datasets.*.batch_size_per_gpu": Annotated[int, at_least(1), example("8")],
    "datasets.*.num_worker_per_gpu": Annotated[int, at_least(0), example("4")],
    "datasets.*.dataset_enlarge_ratio": _Positive,
    "datasets.*.prefetch_mode": Literal["cpu", "cuda"] | None,
    "datasets.*.num_prefetch_queue": _whole(at_least(1)),
    "datasets.*.pin_memory": bool | None,
    "datasets.*.persistent_workers": bool | None,
    "network_*": dict,
    "network_*.type": _Text,
    "path": dict,
    "path.pretrain_network_*": _Text | None,
    "path.resume_state": _Text | None,
    "path.strict_load_*": bool | None,
    "path.param_key_*": _Text | None,
    "train": dict,
    "train.total_iter": _whole(at_least(1), example("300000")),
    "train.warmup_iter": _whole(at_least(-1)),
    "train.resume_options": Literal["checkpoint", "file"] | None,
    "train.ema_decay": Annotated[float, at_least(0), below(1), example("0.999")],
    "train.optim_*": Annotated[dict, example("{type: Adam, lr: 2.0e-4}")],
    "train.optim_*.type": Annotated[str, filled, example("Adam")],
    "train.optim_*.lr": Annotated[float, above(0), example("2.0e-4")],
    "train.optim_*.weight_decay": Annotated[float, at_least(0)],
    "train.optim_*.eps": _Positive,
    "train.optim_*.betas": Annotated[list, _BETAS],
    "train.scheduler": Annotated[dict, example("{type: MultiStepLR, milestones: [200000], gamma: 0.5}")],
    "train.scheduler.type": Annotated[str, filled, example("MultiStepLR")],
    "train.scheduler.periods": list[_Positive],
    "train.scheduler.restart_weights": list[float],
    "train.scheduler.restarts": list[float],
    "train.scheduler.milestones": list[float],
    "train.scheduler.gamma": _Positive,
    "train.scheduler.eta_min": Annotated[float, at_least(0)],
    "train.*_opt": dict | None,
    "train.*_opt.type": _Text,
    "train.*_opt.loss_weight": float,
    "train.*_opt.reduction": Literal["mean", "sum"],
    "val": dict | None,
    "val.val_freq": _whole(at_least(1), example("5000")),
    "val.save_img": Annotated[bool, example("false")],
    "val.pbar": bool | None,
    "val.suffix": Any,
    "val.metrics": dict | None,
    "val.metrics.*": Annotated[dict, example("{type: calculate_psnr, crop_border: 0}")],
    "val.metrics.*.type": Annotated[str, filled, example("calculate_psnr")],
    "val.metrics.*.better": Literal["higher", "lower"],
    "val.metrics.*.crop_border": _whole(at_least(0), example("0")),
    "val.metrics.*.test_y_channel": bool | None,
    "logger": dict,
    "logger.print_freq": _whole(at_least(1), example("100")),
    "logger.save_checkpoint_freq": _whole(at_least(1), example("5000")),
    "logger.use_tb_logger": Annotated[bool, example("true")],
    "logger.keep_checkpoints": Annotated[int, at_least(1)] | None,
    "logger.wandb": dict | None,
}
"""Dotted pattern → type for :mod:`unirain_plugin.support.spec`; the first pattern that fits a key path counts."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


REQUIRED: dict[str, tuple[str, ...]] = {
    "always": ("name", "model_type", "num_gpu", "datasets", "path"),
    "train": (
        *("train", "train.total_iter"),
        *("logger", "logger.print_freq", "logger.save_checkpoint_freq", "logger.use_tb_logger"),
        *("datasets.train", "datasets.train.batch_size_per_gpu", "datasets.train.num_worker_per_gpu"),
    ),
    "train with val": ("val.val_freq", "val.save_img"),
    "test": ("val", "val.save_img"),
}
"""Keys that the toolbox's runners read in every run, besides those of model and data set (below)."""

STOCK_KEYS: dict[str, frozenset[str]] = {
    "": _names(
        "name model_type scale num_gpu manual_seed dist_params find_unused_parameters datasets path train val logger"
        " auto_resume is_train dist rank world_size root_path imports"
    ),
    "path": _names("resume_state ignore_resume_networks"),
    "train": _names("total_iter warmup_iter ema_decay resume_options scheduler optim_g pixel_opt perceptual_opt"),
    "val": _names("val_freq save_img suffix pbar metrics"),
    "logger": _names("print_freq save_checkpoint_freq use_tb_logger wandb keep_checkpoints"),
    "logger.wandb": _names("project resume_id"),
    "dist_params": _names("backend port"),
    "datasets.*": _names(
        "name type phase scale io_backend batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio prefetch_mode"
        " num_prefetch_queue pin_memory persistent_workers use_shuffle"
    ),
}
"""The keys that the runners (not a model or data set) read, and those of the toolbox's sample files, by section."""

SET_BY_TOOLBOX = _names(
    "auto_resume is_train dist rank world_size root_path path.experiments_root path.models path.training_states"
    " path.log path.visualization path.results_root"
)
"""Keys that the toolbox overwrites, so that giving them is of no use."""

UNREAD = _names("path.strict_load path.param_key")
"""Keys of old option files, which the toolbox no longer reads."""


@dataclass(frozen=True)
class Reads:
    """The option keys that a class of the toolbox reads, as paths from the dict that its constructor gets."""

    required: frozenset[KeyPath] = frozenset()  # those without which every run stops
    in_training: frozenset[KeyPath] = frozenset()  # those without which a training stops
    optional: frozenset[KeyPath] = frozenset()  # those that may be left out

    def keys(self, section: KeyPath = ()) -> set[str]:
        depth, paths = len(section), self.required | self.in_training | self.optional
        return {str(path[depth]) for path in paths if len(path) > depth and path[:depth] == section}


def _table(text: str) -> dict[str, Reads]:
    """Lines ``class: required | in training | optional``; those that begin with a space go on the line above."""
    table = {}
    for line in text.replace("\n ", " ").strip().splitlines():
        name, _, keys = line.partition(":")
        columns = [[key for word in part.split() for key in _SHORT.get(word, word).split()] for part in keys.split("|")]
        table[name] = Reads(*(frozenset(tuple(key.split(".")) for key in column) for column in columns))
    return table


def _twice(names: str) -> str:
    return " ".join(f"{name} {name}2" for name in names.split())


_SHORT = {
    "IO": "io_backend io_backend.type",
    "BLUR": _twice("blur_kernel_size kernel_list kernel_prob blur_sigma betag_range betap_range sinc_prob"),
    "DEGRADATION": "high_order_degradation second_blur_prob queue_size gt_size "
    + _twice("gaussian_noise_prob gray_noise_prob jpeg_range noise_range poisson_scale_range resize_prob resize_range"),
    "OPTIM_G": "train.optim_g train.optim_g.type train.optim_g.lr train.scheduler train.scheduler.type",
    "OPTIM_D": "network_d train.optim_d train.optim_d.type",
    "GAN": "train.gan_opt train.net_d_iters train.net_d_init_iters",
}

DATASETS = _table("""
FFHQDataset: dataroot_gt mean std use_hflip IO
PairedImageDataset: dataroot_gt dataroot_lq scale IO | gt_size use_hflip use_rot
 | color filename_tmpl mean meta_info_file std
REDSDataset: dataroot_flow dataroot_gt dataroot_lq gt_size interval_list meta_info_file num_frame random_reverse scale
 val_partition IO || use_hflip use_rot
REDSRecurrentDataset: dataroot_gt dataroot_lq gt_size meta_info_file num_frame scale test_mode use_hflip use_rot
 val_partition IO || interval_list random_reverse
RealESRGANDataset: dataroot_gt final_sinc_prob use_hflip use_rot BLUR IO || meta_info
RealESRGANPairedDataset: dataroot_gt dataroot_lq scale IO | gt_size use_hflip use_rot | filename_tmpl mean meta_info std
SingleImageDataset: dataroot_lq IO || color mean meta_info_file std
VideoTestDataset: cache_data dataroot_gt dataroot_lq num_frame padding IO || meta_info_file
VideoTestDUFDataset: cache_data dataroot_gt dataroot_lq num_frame padding IO
 || meta_info_file scale use_duf_downsampling
VideoRecurrentTestDataset: cache_data dataroot_gt dataroot_lq IO || meta_info_file num_frame padding
VideoTestVimeo90KDataset: cache_data dataroot_gt dataroot_lq meta_info_file num_frame IO
Vimeo90KDataset: dataroot_gt dataroot_lq gt_size meta_info_file num_frame random_reverse scale use_hflip use_rot IO
Vimeo90KRecurrentDataset: dataroot_gt dataroot_lq flip_sequence gt_size meta_info_file num_frame random_reverse scale
 use_hflip use_rot IO
""")
"""What the data sets of basicsr 1.4.2 read, by class."""

MODELS = _table("""
SRModel: network_g num_gpu | train OPTIM_G
 | train.ema_decay train.pixel_opt train.perceptual_opt val.metrics val.pbar val.suffix
SRGANModel: | OPTIM_D | train.ldl_opt GAN
HiFaceGANModel: | OPTIM_D | train.feature_matching_opt GAN
RealESRNetModel: || gt_usm DEGRADATION
RealESRGANModel: || l1_gt_usm percep_gt_usm gan_gt_usm DEGRADATION
StyleGAN2Model: network_g num_gpu val | train OPTIM_G OPTIM_D train.gan_opt train.mixing_prob train.net_d_reg_every
 train.net_g_reg_every train.optim_d.lr train.path_reg_weight train.r1_reg_weight
 | train.path_batch_shrink val.num_val_samples val.metrics
EDVRModel: || train.dcn_lr_mul train.tsa_iter
VideoRecurrentModel: || train.fix_flow train.flow_lr_mul train.lr_flow val.center_frame_only val.flip_seq
SwinIRModel:
ESRGANModel:
VideoBaseModel:
VideoGANModel:
VideoRecurrentGANModel: | OPTIM_D | GAN
""")
"""What the models of basicsr 1.4.2 read themselves, by class; what their bases read comes on top."""


def is_own(obj: object) -> bool:
    """Whether a class is this package's, so that its section holds no key that we do not know."""
    return getattr(obj, "__module__", "").split(".")[0] == "unirain_plugin"


def is_stock(cls: object) -> bool:
    """Whether a model or data set is one of the toolbox's own (not one that was added to a checkout of it)."""
    return getattr(cls, "__module__", "").startswith("basicsr.") and getattr(cls, "__name__", "") in DATASETS | MODELS


def is_known(cls: object) -> bool:
    """Whether we know what a model or data set reads: it is ours or the toolbox's."""
    return is_own(cls) or is_stock(cls)


def reads_of(cls: type | None) -> Reads:
    names = [base.__name__ for base in getattr(cls, "__mro__", ()) if is_stock(base)]
    found = [DATASETS[name] for name in names if name in DATASETS][:1] or [MODELS[name] for name in names]
    return Reads(*(frozenset().union(*(getattr(reads, name) for reads in found))
                   for name in ("required", "in_training", "optional")))  # fmt: skip


def fits(path: KeyPath, pattern: str) -> bool:
    """Whether a key path is one of those that a dotted pattern such as ``datasets.*.name`` stands for."""
    parts = pattern.split(".")
    return len(parts) == len(path) and all(map(fnmatchcase, map(str, path), parts))


def home_of(key: str, section_path: KeyPath) -> str | None:
    """The section that a toolbox key belongs to, if it is a telling name that stands elsewhere."""
    homes = [name for name in ("train", "val", "logger", "path", "datasets.*") if key in STOCK_KEYS[name]]
    homes += ["path"] if rule_for(("path", key)) else []
    if not homes or key in ("name", "type", "phase", "scale") or homes[0] == dotted(section_path):
        return None
    return homes[0].replace("datasets.*", "datasets: train")


def rule_for(path: KeyPath) -> object | None:
    """The type of the value at a key path, or None if any value will do."""
    return next((kind for pattern, kind in RULES.items() if fits(path, pattern)), None)
