"""The multi-objective reweighted loss (paper §3) as a loss of BasicSR."""

from collections.abc import Mapping, Sequence

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch import distributed as dist

from unirain_plugin.errors import CheckpointError, DataError, OptionError, did_you_mean
from unirain_plugin.losses import base_terms, pixel_losses  # the modules: their import of BasicSR may have led here
from unirain_plugin.losses.reweighting import OPTION_NAMES, blend_with_floor, build_reweighter
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids
from unirain_plugin.support.spec import complaint

_Labels = Tensor | Sequence[int]


class RainLabels:
    """The rain types of a loss, in their order, with the integer label of each.

    ``rain_types`` are names, with the labels of :func:`~unirain_plugin.rain_types.rain_type_ids`; ``num_types`` means
    the labels 0 to num_types − 1, named drs, drd, nrs, nrd, type4, type5, …. Both None: the four. An OptionError if
    they are malformed or disagree.
    """

    def __init__(self, rain_types: Sequence[str] | None = None, num_types: int | None = None) -> None:
        if num_types is not None and (isinstance(num_types, bool) or not isinstance(num_types, int) or num_types < 1):
            raise OptionError(f"num_types: found {num_types!r}; expected an integer, 1 or more.")
        if rain_types is None:
            count = len(RAIN_TYPES) if num_types is None else num_types
            rain_types = [RAIN_TYPES[i] if i < len(RAIN_TYPES) else f"type{i}" for i in range(count)]
        elif isinstance(rain_types, str):
            raise OptionError(f"rain_types: found the text {rain_types!r}; expected a list such as [drs, drd].")
        ids = rain_type_ids(rain_types)
        if num_types is not None and num_types != len(ids):
            raise OptionError(f"num_types: found {num_types}, but rain_types lists {len(ids)}; give one of the two.")
        self.names: tuple[str, ...] = tuple(ids)
        self._position = {label: position for position, label in enumerate(ids.values())}

    def indices(self, rain_type: _Labels, batch: int) -> Tensor:
        """Positions (N,), int64 on the CPU, of N integer labels among this loss's types; DataError for others."""
        labels = rain_type if isinstance(rain_type, Tensor) else torch.as_tensor(rain_type)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != batch or labels.dim() > 1:
            shape = f"found shape {tuple(labels.shape)} of {labels.dtype}"
            raise DataError(f"rain_type: {shape}; expected ({batch},) integers, one a sample.")
        found = labels.reshape(-1).tolist()
        unknown = sorted(set(found) - set(self._position))
        if unknown:
            known = ", ".join(f"{name} = {label}" for name, label in zip(self.names, self._position, strict=True))
            text = f"label {unknown[0]} is none of the loss's rain types ({known})"
            raise DataError(f"rain_type: {text}; the data set's and the loss's rain_types must agree.")
        return torch.tensor([self._position[label] for label in found], dtype=torch.int64)

    def ordered(self, values: Mapping[str, float]) -> list[float | None]:
        """Values by name, in the order of the types; None for those left out. DataError for another name."""
        for name in values:
            if name not in self.names:
                known = f"{name!r} is none of the loss's rain types ({', '.join(self.names)})."
                raise DataError(known + did_you_mean(name, self.names))
        return [values.get(name) for name in self.names]


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum in place over all ranks (a collective: every rank must call it) and return ``values``."""
    if get_dist_info()[1] > 1:
        dist.all_reduce(values)
    return values


def sum_by_type(values: Tensor, index: Tensor, num_types: int) -> Tensor:
    """Sum values (N,) per type, (K,), always in the same order (``index_add`` has none on a GPU)."""
    is_type = index == torch.arange(num_types, device=index.device).unsqueeze(1)
    return torch.where(is_type, values, torch.zeros_like(values)).sum(1)


class LossRecords:
    """Sums and counts of finite per-sample losses of K types, over all ranks, for the running step and interval."""

    def __init__(self, num_types: int) -> None:
        # Rows: sums of finite losses, their counts. float64: a sum must not depend on how long the interval is.
        self._step: Tensor | None = None
        self._interval = torch.zeros(2, num_types, dtype=torch.float64)
        self._last = torch.zeros_like(self._interval)

    def add(self, losses: Tensor, index: Tensor, counts: Tensor) -> Tensor:
        """Record detached losses (N,) of the types ``index`` (N,); return ``counts`` (K,) summed over the ranks."""
        k = len(counts)
        finite = torch.isfinite(losses)
        kept = torch.where(finite, losses, torch.zeros_like(losses)).double()
        rows = [sum_by_type(kept, index, k), sum_by_type(finite.double(), index, k), counts.double()]
        table = sum_over_ranks(torch.stack(rows))
        self._step = table[:2] if self._step is None else self._step.to(table.device) + table[:2]
        return table[2].to(counts.dtype)

    def close_step(self) -> None:
        """The optimiser has stepped: what was added since is "the last step" and counts in the interval."""
        if self._step is not None:
            self._last = self._step
            self._interval = self._interval.to(self._step.device) + self._step
        self._step = None

    def discard_step(self) -> None:
        self._step = None

    def take_interval(self) -> list[float | None]:
        """Mean loss per type since the last call (None for types not seen), and start anew."""
        taken, self._interval = self._interval, torch.zeros_like(self._interval)
        return _means(taken)

    def last_means(self) -> list[float | None]:
        """Mean loss per type of the last step, or of the running one if it has begun."""
        return _means(self._last if self._step is None else self._step)

    def state_dict(self) -> dict[str, object]:
        step = None if self._step is None else self._step.tolist()
        return {"step": step, "interval": self._interval.tolist(), "last": self._last.tolist()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave (on the CPU; it moves with the next losses)."""
        tables = (state[name] for name in ("step", "interval", "last"))
        tables = (None if rows is None else torch.tensor(rows, dtype=torch.float64) for rows in tables)
        self._step, self._interval, self._last = tables


def _means(table: Tensor) -> list[float | None]:
    sums, counts = table.tolist()
    return [s / n if n else None for s, n in zip(sums, counts, strict=True)]


_OPTIONS = tuple(dict.fromkeys(("base", "rain_types", "num_types", "loss_weight", "reduction", *OPTION_NAMES)))

_NO_LABELS = (
    "MultiObjectiveReweightedLoss is given no rain types (labels), so it is its plain base loss and `mode: {}` has no "
    "effect. Labels come from a data set such as DistilledMixedPairedDataset, and UniRainModel hands them on."
)
_SMALLEST = 1e-30  # float32 cannot hold a weight below; Σ ω_i then stays above 0


@LOSS_REGISTRY.register()
class MultiObjectiveReweightedLoss(nn.Module):
    """Σ_i ω_i ℓ_i / Σ_i ω_i over the rain types present in the (global) batch; ω from the chosen reweighting mode.

    ℓ_i is the mean of the base loss over the samples of type i. Without labels it is the plain base loss, so the stock
    SRModel can use it. Under ``torch.distributed`` the counts of samples are summed over the ranks in the forward pass,
    and a rank's result is scaled such that the mean over ranks is the value (and has the gradient) of one process with
    the whole batch. So every rank must call the loss equally often while training.

    Recording and communication happen only in training mode, with gradients enabled and labels given.

    Args:
        base: ``{type: L1Loss}`` (default), any loss registered in BasicSR, or a list of them, each with its
            ``loss_weight``, whose values are added. See :class:`~unirain_plugin.losses.base_terms.BaseTerm`.
        rain_types: Names, such as ``[drs, drd, nrs, nrd]``. Default: the paper's four, or those of ``num_types``.
        num_types: Instead of names: labels 0 to num_types − 1.
        loss_weight: Factor of the whole loss.
        reduction: Only ``mean``; accepted because stock option files say so.
        mode: ``paper`` (default), ``coba``, ``released``, ``equal``, ``dwa``, ``uncertainty``, ``rlw`` or ``famo``.
        **options: See :class:`~unirain_plugin.losses.reweighting.ReweightingOptions`.

    Images are (N, C, H, W), range [0, 1], any float type (computed in float32 at least), labels (N,) integers; the
    result is a scalar. An OptionError if an option is unknown, of a wrong type or out of range.
    """

    OPTIONS: frozenset[str] = frozenset(_OPTIONS)  # the keys of the loss in an option file, for the option check

    def __init__(
        self,
        base: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
        rain_types: Sequence[str] | None = None,
        num_types: int | None = None,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        mode: str = "paper",
        **options: object,
    ) -> None:
        super().__init__()
        for name in options:
            if name not in _OPTIONS:
                known = f"{name}: unknown key; expected one of {', '.join(_OPTIONS)}."
                raise OptionError(known + did_you_mean(name, _OPTIONS))
        if reduction != "mean":
            raise OptionError(f"reduction: found {reduction!r}; expected mean.")
        if text := complaint(loss_weight, float):
            raise OptionError(f"loss_weight: {text}")
        self.labels = RainLabels(rain_types, num_types)
        self.loss_weight = float(loss_weight)
        self.reweighter = build_reweighter(mode=mode, num_types=len(self.labels.names), **options)
        self.options = self.reweighter.options
        self.base = base_terms.build_base_terms(base)
        self.records = LossRecords(len(self.labels.names))
        self._updated_at = 0
        self._announced: Tensor | None = None
        self._unseen, self._told = 0, False
        self.register_buffer("weights", torch.zeros(len(self.labels.names)), persistent=False)
        if mode == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.labels.names)))
        self._publish_weights()

    def forward(
        self, pred: Tensor, target: Tensor, rain_type: _Labels | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Compare restored with clean images (N, C, H, W); ``weight`` is (N, C or 1, H, W), as in the toolbox's losses.

        Labels (N,) are best left on the CPU (reading them from a GPU waits). A DataError if they are not N integers out
        of this loss's rain types, or the images differ in shape.
        """
        if pred.shape != target.shape:
            raise DataError(f"loss: the prediction is {tuple(pred.shape)}, the target {tuple(target.shape)}.")
        pred, target, weight = pixel_losses.at_least_float32(pred, target, weight)
        with torch.autocast(pred.device.type, enabled=False):
            if rain_type is None:
                if self.training and torch.is_grad_enabled() and not self._told:
                    self._told = True
                    get_root_logger().warning(_NO_LABELS.format(self.options.mode))
                return self.loss_weight * sum(term.whole(pred, target, weight) for term in self.base)
            index = self.labels.indices(rain_type, len(pred))
            losses = sum(term(pred, target, weight) for term in self.base)
            return self.loss_weight * self._grouped(losses, index.to(losses.device))

    def learned_parameters(self) -> list[nn.Parameter]:
        """What is trained along with the network (no base loss's own): its gradient is to be averaged over ranks."""
        return [self.log_variances] if self.options.mode == "uncertainty" else []

    def begin_batch(self, rain_type: _Labels) -> None:
        """Announce the labels (N,) of a batch that will be given in several micro-batches (gradient accumulation).

        Until N samples have been through :meth:`forward`, each result is then the micro-batch's share: their sum, and
        that of their gradients, are those of the whole batch at once. A collective under ``torch.distributed``. A
        DataError if the labels are no integers out of this loss's rain types.
        """
        self._unseen = len(rain_type)
        index = self.labels.indices(rain_type, self._unseen).to(self.weights.device)
        ones = torch.ones(self._unseen, device=index.device)
        self._announced = sum_over_ranks(sum_by_type(ones, index, len(self.labels.names)))

    def step(self, current_iter: int) -> None:
        """Tell the loss that an optimiser step has been done; call it once after each, on every rank.

        With ``source: train`` the weights are updated at (or after) each multiple of ``update_freq``.
        """
        self.records.close_step()
        self._announced = None
        freq = self.options.update_freq
        if current_iter // freq > self._updated_at // freq:
            self._updated_at = int(current_iter)
            if self.options.source == "train":
                self._update(self.records.take_interval())

    def discard(self) -> None:
        """Forget what was recorded since the last :meth:`step`: the batch is skipped, for example as not finite."""
        self.records.discard_step()
        self._announced = None

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Update the weights (``source: val``) from the validation's losses by type name, the same on every rank.

        Types that are left out count as absent. A DataError if a name is none of this loss's rain types.
        """
        values = self.labels.ordered(losses)
        if self.options.source == "val":
            self._update(values)

    def log(self) -> dict[str, float]:
        """What to log, as floats; this waits for the GPU.

        ``l_<type>`` is the mean over the global batch of the last step, of types it held; beside them there are
        ``w_<type>``, and ``slope_<type>``, ``tbs_<type>``, ``tss_<type>``, ``af`` where the mode has them and warm-up
        is over.
        """
        scores = self.reweighter.diagnostics()
        rows = {"l": self.records.last_means(), "w": self._current_weights().tolist(), "slope": scores["slopes"]}
        found = {}
        for label, values in {**rows, "tbs": scores["tbs"], "tss": scores["tss"]}.items():
            found |= {f"{label}_{name}": value for name, value in zip(self.labels.names, values or (), strict=False)}
        return {name: value for name, value in {**found, "af": scores["af"]}.items() if value is not None}

    def get_extra_state(self) -> dict[str, object]:
        """Everything with history, as plain Python values; part of ``state_dict()``, the same on every rank."""
        return {
            "rain_types": list(self.labels.names),
            "updated_at": self._updated_at,
            "records": self.records.state_dict(),
            "reweighter": self.reweighter.state_dict(),
        }

    def set_extra_state(self, state: Mapping[str, object]) -> None:
        """Continue exactly from a state; a CheckpointError if it is of other rain types or another mode."""
        names, mine = state.get("rain_types"), list(self.labels.names)
        if list(names or ()) != mine:
            raise CheckpointError(f"loss state: it was saved for the rain types {names}, but this run has {mine}.")
        self.reweighter.load_state_dict(state["reweighter"])
        self.records.load_state_dict(state["records"])
        self._updated_at = int(state["updated_at"])
        self._publish_weights()

    def _grouped(self, losses: Tensor, index: Tensor) -> Tensor:
        k = len(self.labels.names)
        sums = sum_by_type(losses, index, k)
        counts = global_counts = sum_by_type(torch.ones_like(losses), index, k)
        ranks = 1
        if self.training and torch.is_grad_enabled():
            _, ranks = get_dist_info()
            global_counts = self.records.add(losses.detach(), index, counts)
            if self._announced is not None:  # of the whole batch, while its samples come in
                global_counts = self._announced.to(global_counts)
                self._unseen -= len(losses)
                self._announced = self._announced if self._unseen > 0 else None
        means = ranks * sums / global_counts.clamp_min(1)
        weights = self._current_weights().to(losses).clamp_min(_SMALLEST)
        total = (weights * means).sum()
        if self.options.mode != "released":
            total = total / (weights * (global_counts > 0)).sum()
        if self.options.mode == "uncertainty":
            # Of value 0, with the gradient in s of Σ_i (exp(−s_i) ℓ_i + s_i), Kendall et al. 2018. A rank's shares in
            # each type's samples add up to one s_i a type.
            s, shares = self.log_variances.to(means), ranks * counts / global_counts.clamp_min(1)
            objective = (torch.exp(-s) * means.detach() + s * shares).sum()
            total = total + (objective - objective.detach())
        return total

    def _update(self, losses: Sequence[float | None]) -> None:
        if self.options.mode == "uncertainty":
            self.reweighter.set_log_variances(self.log_variances.detach().tolist())
        else:
            self.reweighter.update(losses)
        self._publish_weights()

    def _publish_weights(self) -> None:
        self.weights.copy_(torch.as_tensor(self.reweighter.weights))

    def _current_weights(self) -> Tensor:
        if self.options.mode == "uncertainty":
            return blend_with_floor(torch.softmax(-self.log_variances.detach(), 0), self.reweighter.floor)
        return self.weights
