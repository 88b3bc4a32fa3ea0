"""Metrics by name: PSNR and SSIM under a protocol, the toolbox's NIQE, and those of lpips and pyiqa where installed."""

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from unirain_plugin.errors import DataError, OptionError, did_you_mean
from unirain_plugin.metrics.protocols import DEFAULT, PROTOCOLS, measure_of

BUILT_IN = ("psnr", "ssim", "psnr_y", "ssim_y", "niqe")
"""Metrics that need nothing further; ``psnr@PROTOCOL`` and ``ssim@PROTOCOL`` are others."""

PYIQA_NAMES = (
    "lpips", "lpips-vgg", "dists", "pieapp", "ahiq", "topiq_fr", "topiq_nr", "fsim", "vif", "vsi", "gmsd", "nlpd",
    "mad", "ms_ssim", "cw_ssim", "ssimc", "psnry", "ilniqe", "brisque", "nrqm", "pi", "musiq", "maniqa", "clipiqa",
    "clipiqa+", "nima", "dbcnn", "hyperiqa", "tres", "paq2piq", "cnniqa", "liqe", "qalign", "arniqa",
)  # fmt: skip
"""Names of pyiqa, for messages where it is not installed."""

NIQE_SIDE = 192
"""Smallest side that NIQE takes: 2 × 2 blocks of 96 × 96 for a covariance."""
_LPIPS_NETS = {"lpips": "alex", "lpips-vgg": "vgg"}
_INSTALL = (
    "needs the package pyiqa: pip install pyiqa (its licence, PolyForm Noncommercial, forbids commercial use; it "
    "downloads weights at a metric's first use)"
)
_INSTALL_LPIPS = "needs the package lpips: pip install lpips (BSD licence; it downloads weights at first use), or pyiqa"

Function = Callable[[np.ndarray, np.ndarray | None], float]


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str  # as in the option file
    higher_is_better: bool
    needs_gt: bool  # whether it compares with the clean image
    # maps (image, clean image or None), uint8 RGB (H, W, 3), to a value; NaN where there is none
    function: Function = field(repr=False)
    protocol: str | None = None  # that of PSNR and SSIM; None for others

    @property
    def key(self) -> str:
        """What a stored value is known by: a name that tells the protocol, whatever the option file calls it."""
        measure, suffix = self.name.partition("@")[0].removesuffix("_y"), {DEFAULT: "", "y-basicsr": "_y"}
        return self.name if self.protocol is None else measure + suffix.get(self.protocol, f"@{self.protocol}")

    def __call__(self, image: np.ndarray, target: np.ndarray | None) -> float | None:
        """The value, or None where the image has none (no clean image, too small, flat); DataError if pyiqa fails."""
        if self.needs_gt and target is None:
            return None
        value = float(self.function(image, target))
        return None if math.isnan(value) else value


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse names that are misspelt for certain: the OptionError has the nearest valid one."""
    known = (*BUILT_IN, *PYIQA_NAMES)
    for index, name in enumerate(names):
        if name in known or measure_of(name, f"{where}: metrics[{index}]"):
            continue
        near_miss, installed = did_you_mean(name, BUILT_IN), _pyiqa_names()
        if near_miss or (installed and name not in installed):
            hint = near_miss or did_you_mean(name, installed)
            raise OptionError(f"{where}: metrics[{index}]: unknown metric '{name}'.{hint} "
                              f"Known: {', '.join(BUILT_IN)}, and those of pyiqa.")  # fmt: skip


def make_metrics(
    names: Sequence[str], device: str = "cpu", protocol: str = DEFAULT
) -> tuple[list[Metric], dict[str, str]]:
    """Build the metrics; one that cannot be had is left out and the others are kept.

    Returns them, and for each name that is missing a line that says why and what helps. ``protocol``: that of ``psnr``
    and ``ssim``.
    """
    metrics, missing = [], {}
    for name in names:
        try:
            if found := measure_of(name, protocol=protocol):
                measure, chosen = found
                metrics.append(Metric(name, True, True, partial(PROTOCOLS[chosen].value, measure), chosen))
            else:
                metrics.append(_MAKERS[name](name) if name in _MAKERS else _learned(name, device))
        except DataError as error:
            missing[name] = str(error)
    return metrics, missing


def _niqe(name: str) -> Metric:
    from unirain_plugin.toolbox import prepare_import

    prepare_import()
    from basicsr.metrics import calculate_niqe

    def value(image: np.ndarray, _: np.ndarray | None) -> float:
        if min(image.shape[:2]) < NIQE_SIDE:
            return math.nan
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # means over nothing, of a flat image
                return float(calculate_niqe(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), crop_border=0))
        except np.linalg.LinAlgError:
            return math.nan

    return Metric(name, False, False, value)


_MAKERS: dict[str, Callable[[str], Metric]] = {"niqe": _niqe}


def _pyiqa_names() -> Sequence[str]:
    if importlib.util.find_spec("pyiqa") is None:
        return ()
    try:
        import pyiqa

        return pyiqa.list_models()
    except Exception:  # a broken installation is told when the metric is made
        return ()


def _learned(name: str, device: str) -> Metric:
    """A metric of lpips, or else of pyiqa; DataError if the package or its weights cannot be had."""
    source = "lpips" if name in _LPIPS_NETS and importlib.util.find_spec("lpips") else "pyiqa"
    if importlib.util.find_spec(source) is None:
        raise DataError(f"{name}: {_INSTALL_LPIPS if name in _LPIPS_NETS else _INSTALL}")
    import torch

    try:
        if source == "lpips":
            import lpips

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in its old way
                network = lpips.LPIPS(net=_LPIPS_NETS[name], verbose=False).to(device)
            model = partial(network, normalize=True)
        else:
            import pyiqa

            model = pyiqa.create_metric(name, device=torch.device(device))
    except Exception as error:  # no network, a broken installation, an unknown name: the others go on
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        cache = "torch.hub" if source == "lpips" else "pyiqa"
        advice = f"run once with network access, or put them into the cache folder of {cache}"
        text = f"{source} cannot make it ({reason}); its weights are downloaded at first use: {advice}"
        raise DataError(f"{name}: {text}") from error

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float().div(255).to(device)

    def value(image: np.ndarray, target: np.ndarray | None) -> float:
        try:
            with torch.no_grad():
                inputs = [tensor(image)] if not needs_gt else [tensor(image), tensor(target)]
                return float(model(*inputs).mean())
        except Exception as error:  # too small an image, no memory left, …
            raise DataError(f"{name}: no value for a {image.shape[1]}×{image.shape[0]} image: "
                              f"{error or type(error).__name__}") from error  # fmt: skip

    needs_gt = getattr(model, "metric_mode", "FR") == "FR"
    lower_is_better = source == "lpips" or getattr(model, "lower_better", False)
    return Metric(name, not lower_is_better, needs_gt, value)
