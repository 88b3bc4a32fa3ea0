"""Base losses from YAML, reduced per sample: any loss registered in BasicSR, or a weighted sum of several."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from basicsr.losses import build_loss
from torch import Tensor, nn

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.losses import pixel_losses  # noqa: F401 - registers them
from unirain_plugin.support.spec import complaint
from unirain_plugin.toolbox import registered


class BaseTerm(nn.Module):
    """One registered loss that gives a value per sample, from ``{type: NAME, …}`` as for BasicSR's ``build_loss``.

    Of a loss that knows ``reduction='none'`` each sample's mean is taken, weighted where there are per-pixel weights.
    Any other (PerceptualLoss, one of your own) is applied to each sample alone; the parts of a tuple that are not None
    are added. ``loss_weight`` is accepted for any loss. An OptionError (``where``: the key's path) if the type is
    unknown, takes no (prediction, target) pair, or is to be reduced by a sum.
    """

    def __init__(self, opt: Mapping[str, object], where: str) -> None:
        super().__init__()
        opt = _checked(opt, where)
        self.name = str(opt["type"])
        cls = registered("loss")[self.name]
        accepted = inspect.signature(cls.__init__).parameters
        self.factor = 1.0 if "loss_weight" in accepted else float(opt.pop("loss_weight", 1.0))
        self.loss, self.has_map = _build(opt, "reduction" in accepted, where)
        names = list(inspect.signature(cls.forward).parameters)[1:]
        second = names[1] if len(names) > 1 else "nothing"
        if second.startswith(("nothing", "target_is")):
            compares = f"{self.name} compares no prediction with a target"
            raise OptionError(f"{where}.type: {compares}; take L1Loss, MSELoss, …")
        self.takes_target = second != "weight"
        self.takes_weight = "weight" in names

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Losses (N,) of predictions and targets (N, C, H, W); ``weight``: (N, C or 1, H, W) or None."""
        if weight is not None and not self.takes_weight:
            raise OptionError(f"base: {self.name} takes no per-pixel weight.")
        if self.has_map:
            loss_map = self._call(pred, target, weight)
            sums = loss_map.flatten(1).sum(1)
            if weight is None:
                return self.factor * (sums / loss_map[0].numel())
            total = _matching(weight, loss_map).flatten(1).sum(1)
            return self.factor * (sums / total.clamp_min(torch.finfo(total.dtype).tiny))
        singles = []
        for b, one in enumerate(pred.split(1)):
            value = self._call(one, target[b : b + 1], None if weight is None else weight[b : b + 1])
            parts = [part for part in (value if isinstance(value, (tuple, list)) else [value]) if part is not None]
            if not parts or not all(isinstance(part, Tensor) for part in parts):
                raise OptionError(f"base: {self.name} gives {value!r}; expected a tensor.")
            singles.append(sum(part.mean() for part in parts))
        return self.factor * torch.stack(singles)

    def whole(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of the batch as a whole: a scalar, what the toolbox's own loss gives."""
        if not self.has_map:
            return self.forward(pred, target, weight).mean()
        loss_map = self._call(pred, target, weight)
        if weight is None:
            return self.factor * loss_map.mean()
        return self.factor * loss_map.sum() / _matching(weight, loss_map).sum()

    def _call(self, pred: Tensor, target: Tensor, weight: Tensor | None) -> Any:
        more = {} if weight is None else {"weight": weight}
        value = self.loss(pred, target, **more) if self.takes_target else self.loss(pred, **more)
        if self.has_map and not (isinstance(value, Tensor) and value.dim() > 1 and len(value) == len(pred)):
            raise OptionError(f"base: {self.name} gives no loss per element (N, …) with reduction 'none'.")
        return value


def build_base_terms(base: Mapping[str, object] | Sequence[Mapping[str, object]] | None) -> nn.ModuleList:
    """Build the terms of ``base:``: a mapping, a list of mappings, or None for L1Loss; else OptionError."""
    base = {"type": "L1Loss"} if base is None else base
    if isinstance(base, Mapping):
        return nn.ModuleList([BaseTerm(base, "base")])
    if not isinstance(base, (list, tuple)) or not base:
        raise OptionError(f"base: found {base!r}; expected {{type: L1Loss}} or a list of such mappings.")
    return nn.ModuleList([BaseTerm(opt, f"base[{i}]") for i, opt in enumerate(base)])


def _checked(opt: Mapping[str, object], where: str) -> dict[str, object]:
    if not isinstance(opt, Mapping) or "type" not in opt:
        raise OptionError(f"{where}: found {opt!r}; expected a mapping with a type, such as {{type: L1Loss}}.")
    opt = deepcopy(dict(opt))
    known = sorted(registered("loss"))
    if opt["type"] not in known:
        raise OptionError(f"{where}.type: no loss is registered as {opt['type']!r}." + did_you_mean(opt["type"], known))
    if opt["type"] == "MultiObjectiveReweightedLoss":
        raise OptionError(f"{where}.type: MultiObjectiveReweightedLoss cannot be its own base loss.")
    if text := complaint(opt.get("loss_weight", 1.0), float):
        raise OptionError(f"{where}.loss_weight: {text}")
    if opt.pop("reduction", "mean") != "mean":
        raise OptionError(f"{where}.reduction: expected mean; per-sample losses are means.")
    return opt


def _build(opt: dict[str, object], has_reduction: bool, where: str) -> tuple[nn.Module, bool]:
    try:
        if has_reduction:
            try:
                return build_loss({**opt, "reduction": "none"}), True
            except ValueError:  # such as WeightedTVLoss, which refuses 'none'
                pass
        return build_loss(opt), False
    except (TypeError, ValueError) as error:
        raise OptionError(f"{where}: {opt['type']} refuses its options: {error}") from error


def _matching(weight: Tensor, loss_map: Tensor) -> Tensor:
    """The central part of ``weight`` as large as the map (SSIM's has no border), for each of its channels."""
    top, left = ((whole - part) // 2 for whole, part in zip(weight.shape[-2:], loss_map.shape[-2:], strict=True))
    part = weight[..., top : top + loss_map.shape[-2], left : left + loss_map.shape[-1]]
    return part.expand_as(loss_map)
