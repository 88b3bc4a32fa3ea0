"""Which keys a class understands: its signature, and for the toolbox's models and data sets a table.

The source of classes is not read for this: what somebody else's class needs, only that class can tell. So a class that
is neither ours nor in the table is asked for nothing, and what looks odd in its sections is a warning.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from unirain_plugin.options.problems import KeyPath


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of a constructor or function.

    Attributes:
        defaults: Argument → default value; ``inspect.Parameter.empty`` where it has to be given.
        open: Whether further names are swallowed by ``**kwargs``.
    """

    defaults: dict[str, object]
    open: bool

    @property
    def required(self) -> tuple[str, ...]:
        """The arguments without a default."""
        return tuple(name for name, default in self.defaults.items() if default is inspect.Parameter.empty)


def signature_of(obj: object, skip: tuple[str, ...] = ()) -> Signature:
    """The keyword arguments that ``obj`` takes, without those that the toolbox passes itself (``skip``)."""
    try:
        parameters = inspect.signature(obj).parameters
    except (TypeError, ValueError):  # written in C
        return Signature({}, open=True)
    defaults, is_open = {}, False
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and name not in skip:
            defaults[name] = parameter.default
    return Signature(defaults, is_open)


@dataclass(frozen=True)
class Reads:
    """The option keys that a class of the toolbox reads, as paths from the dict that its constructor gets.

    Attributes:
        required: Those without which every run stops.
        in_training: Those without which a training stops.
        optional: Those that may be left out.
    """

    required: frozenset[KeyPath] = frozenset()
    in_training: frozenset[KeyPath] = frozenset()
    optional: frozenset[KeyPath] = frozenset()

    def keys(self, section: KeyPath = ()) -> set[str]:
        """The names read directly below ``section``."""
        depth, paths = len(section), self.required | self.in_training | self.optional
        return {str(path[depth]) for path in paths if len(path) > depth and path[:depth] == section}


def _reads(required: str, in_training: str = "", optional: str = "") -> Reads:
    return Reads(*(frozenset(tuple(name.split(".")) for name in names.split())
                   for names in (required, in_training, optional)))  # fmt: skip


_IO = "io_backend io_backend.type"
_BLUR = " ".join(
    f"{name}{number}"
    for name in (
        "blur_kernel_size",
        "kernel_list",
        "kernel_prob",
        "blur_sigma",
        "betag_range",
        "betap_range",
        "sinc_prob",
    )
    for number in ("", "2")
)
_DEGRADATION = (
    " ".join(
        f"{name}{number}"
        for name in (
            "gaussian_noise_prob",
            "gray_noise_prob",
            "jpeg_range",
            "noise_range",
            "poisson_scale_range",
            "resize_prob",
            "resize_range",
        )
        for number in ("", "2")
    )
    + " high_order_degradation second_blur_prob queue_size gt_size"
)
_GAN = ("network_d train.optim_d train.optim_d.type", "train.gan_opt train.net_d_iters train.net_d_init_iters")

DATASETS: dict[str, Reads] = {
    "FFHQDataset": _reads(f"dataroot_gt mean std use_hflip {_IO}"),
    "PairedImageDataset": _reads(
        f"dataroot_gt dataroot_lq scale {_IO}",
        "gt_size use_hflip use_rot",
        "color filename_tmpl mean meta_info_file std",
    ),
    "REDSDataset": _reads(
        "dataroot_flow dataroot_gt dataroot_lq gt_size interval_list meta_info_file num_frame random_reverse scale "
        f"val_partition {_IO}",
        optional="use_hflip use_rot",
    ),
    "REDSRecurrentDataset": _reads(
        "dataroot_gt dataroot_lq gt_size meta_info_file num_frame scale test_mode use_hflip use_rot val_partition "
        + _IO,
        optional="interval_list random_reverse",
    ),
    "RealESRGANDataset": _reads(f"dataroot_gt final_sinc_prob use_hflip use_rot {_BLUR} {_IO}", optional="meta_info"),
    "RealESRGANPairedDataset": _reads(
        f"dataroot_gt dataroot_lq scale {_IO}", "gt_size use_hflip use_rot", "filename_tmpl mean meta_info std"
    ),
    "SingleImageDataset": _reads(f"dataroot_lq {_IO}", optional="color mean meta_info_file std"),
    "VideoTestDataset": _reads(
        f"cache_data dataroot_gt dataroot_lq num_frame padding {_IO}", optional="meta_info_file"
    ),
    "VideoTestDUFDataset": _reads(
        f"cache_data dataroot_gt dataroot_lq num_frame padding {_IO}",
        optional="meta_info_file scale use_duf_downsampling",
    ),
    "VideoRecurrentTestDataset": _reads(
        f"cache_data dataroot_gt dataroot_lq {_IO}", optional="meta_info_file num_frame padding"
    ),
    "VideoTestVimeo90KDataset": _reads(f"cache_data dataroot_gt dataroot_lq meta_info_file num_frame {_IO}"),
    "Vimeo90KDataset": _reads(
        f"dataroot_gt dataroot_lq gt_size meta_info_file num_frame random_reverse scale use_hflip use_rot {_IO}"
    ),
    "Vimeo90KRecurrentDataset": _reads(
        "dataroot_gt dataroot_lq flip_sequence gt_size meta_info_file num_frame random_reverse scale use_hflip use_rot "
        + _IO
    ),
}
"""What the data sets of basicsr 1.4.2 read, by class."""

MODELS: dict[str, Reads] = {
    "SRModel": _reads(
        "network_g num_gpu",
        "train train.optim_g train.optim_g.type train.optim_g.lr train.scheduler train.scheduler.type",
        "train.ema_decay train.pixel_opt train.perceptual_opt val.metrics val.pbar val.suffix",
    ),
    "SRGANModel": _reads("", _GAN[0], f"train.ldl_opt {_GAN[1]}"),
    "HiFaceGANModel": _reads("", _GAN[0], f"train.feature_matching_opt {_GAN[1]}"),
    "RealESRNetModel": _reads("", optional=f"gt_usm {_DEGRADATION}"),
    "RealESRGANModel": _reads("", optional=f"l1_gt_usm percep_gt_usm gan_gt_usm {_DEGRADATION}"),
    "StyleGAN2Model": _reads(
        "network_g num_gpu val",
        "network_d train train.gan_opt train.mixing_prob train.net_d_reg_every train.net_g_reg_every train.optim_d "
        "train.optim_d.lr train.optim_d.type train.optim_g train.optim_g.lr train.optim_g.type train.path_reg_weight "
        "train.r1_reg_weight train.scheduler train.scheduler.type",
        "train.path_batch_shrink val.num_val_samples val.metrics",
    ),
    "EDVRModel": _reads("", optional="train.dcn_lr_mul train.tsa_iter"),
    "VideoRecurrentModel": _reads(
        "", optional="train.fix_flow train.flow_lr_mul train.lr_flow val.center_frame_only val.flip_seq"
    ),
    "SwinIRModel": _reads(""),
    "ESRGANModel": _reads(""),
    "VideoBaseModel": _reads(""),
    "VideoGANModel": _reads(""),
    "VideoRecurrentGANModel": _reads("", *_GAN),
}
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
    """What the toolbox's classes among a model or data set and its bases read."""
    names = [base.__name__ for base in getattr(cls, "__mro__", ()) if is_stock(base)]
    found = [DATASETS[name] for name in names if name in DATASETS][:1] or [MODELS[name] for name in names]
    return Reads(*(frozenset().union(*(getattr(reads, name) for reads in found))
                   for name in ("required", "in_training", "optional")))  # fmt: skip


_NETWORK_OPTION = re.compile(r"""\[["'](network_\w+)["']\]\s*\[["'](\w+)["']\](?!\s*=[^=])""")


def network_options_of(cls: type) -> set[tuple[str, str]]:
    """The options of networks that a model takes out of their sections, such as ``('network_g', 'window_size')``.

    They are searched for in the source of the class and its bases, as far as there is one: for warnings.
    """
    found: set[tuple[str, str]] = set()
    for base in cls.__mro__[:-1]:
        try:
            found |= set(_NETWORK_OPTION.findall(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
    return {pair for pair in found if pair[1] != "type"}
