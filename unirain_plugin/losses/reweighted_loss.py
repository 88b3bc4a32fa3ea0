"""The multi-objective reweighted loss (paper §3) as a loss of BasicSR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch import distributed as dist

from unirain_plugin.errors import CheckpointError, DataError, OptionError, did_you_mean
from unirain_plugin.losses import pixel_losses  # the module: its import of BasicSR may have led here
from unirain_plugin.losses.base_terms import build_base_terms
from unirain_plugin.losses.reweighter import OPTION_NAMES, blend_with_floor
from unirain_plugin.losses.reweighting import build_reweighter
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids


class RainLabels:
    """The rain types of a loss, in their order, with the integer label of each.

    Args:
        rain_types: Names; their labels come from :func:`~unirain_plugin.rain_types.rain_type_ids`.
        num_types: Instead: labels 0 to num_types − 1, named drs, drd, nrs, nrd, type4, type5, …. Both None: the four.

    Raises:
        OptionError: If a name is malformed, the number is no positive integer, or both are given and disagree.
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

    def indices(self, rain_type: Tensor | Sequence[int], batch: int) -> Tensor:
        """Positions (N,), int64 on the CPU, of the labels (N,) among this loss's types.

        Raises:
            DataError: If the labels are not N integers, or one is none of this loss's types.
        """
        labels = rain_type if isinstance(rain_type, Tensor) else torch.as_tensor(rain_type)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != batch or labels.dim() > 1:
            raise DataError(
                f"rain_type: found shape {tuple(labels.shape)} of {labels.dtype}; expected ({batch},) integers, one "
                "a sample."
            )
        found = labels.reshape(-1).tolist()
        unknown = sorted(set(found) - set(self._position))
        if unknown:
            raise DataError(
                f"rain_type: label {unknown[0]} is none of the loss's rain types "
                f"({', '.join(f'{name} = {label}' for name, label in zip(self.names, self._position, strict=True))}); "
                "the data set's and the loss's rain_types must agree."
            )
        return torch.tensor([self._position[label] for label in found], dtype=torch.int64)

    def ordered(self, values: Mapping[str, float]) -> list[float | None]:
        """Values by name, in the order of the types; None for those left out.

        Raises:
            DataError: If a name is none of this loss's types.
        """
        for name in values:
            if name not in self.names:
                raise DataError(
                    f"{name!r} is none of the loss's rain types ({', '.join(self.names)})."
                    + did_you_mean(name, self.names)
                )
        return [values.get(name) for name in self.names]

    def check_same(self, names: object) -> None:
        """Raise CheckpointError unless ``names``, from a checkpoint, are this loss's."""
        if list(names or ()) != list(self.names):
            raise CheckpointError(
                f"loss state: it was saved for the rain types {names}, but this run has {list(self.names)}."
            )


def world_size() -> int:
    """The number of ranks, 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum in place over all ranks (a collective: every rank must call it) and return ``values``."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def sum_by_type(values: Tensor, index: Tensor, num_types: int) -> Tensor:
    """Sum values (N,) per type, (K,), always in the same order (``index_add`` has none on a GPU)."""
    is_type = index == torch.arange(num_types, device=index.device).unsqueeze(1)
    return torch.where(is_type, values, torch.zeros_like(values)).sum(1)


class LossRecords:
    """Sums and counts of the finite per-sample losses of K types, for the running step and the running interval.

    Everything is summed over the ranks as it is added: one rank's state is everybody's.
    """

    def __init__(self, num_types: int) -> None:
        # Rows: sums of finite losses, their counts. float64: a sum must not depend on how long the interval is.
        self._step = torch.zeros(2, num_types, dtype=torch.float64)
        self._interval = torch.zeros_like(self._step)
        self._last = torch.zeros_like(self._step)
        self._open = False

    def add(self, losses: Tensor, index: Tensor, counts: Tensor) -> Tensor:
        """Record detached losses (N,) of the types ``index`` (N,); return ``counts`` (K,) summed over the ranks."""
        k = len(counts)
        finite = torch.isfinite(losses)
        kept = torch.where(finite, losses, torch.zeros_like(losses)).double()
        rows = [sum_by_type(kept, index, k), sum_by_type(finite.double(), index, k), counts.double()]
        table = sum_over_ranks(torch.stack(rows))
        self._step = self._step.to(table.device) + table[:2] if self._open else table[:2]
        self._open = True
        return table[2].to(counts.dtype)

    def close_step(self) -> None:
        """The optimiser has stepped: what was added since is "the last step" and counts in the interval."""
        if self._open:
            self._last = self._step
            self._interval = self._interval.to(self._step.device) + self._step
            self._open = False

    def discard_step(self) -> None:
        """Forget what was added since the last step."""
        self._open = False

    def take_interval(self) -> list[float | None]:
        """Mean loss per type since the last call (None for types not seen), and start anew."""
        means = _means(self._interval)
        self._interval = torch.zeros_like(self._interval)
        return means

    def last_means(self) -> list[float | None]:
        """Mean loss per type of the last step, or of the running one if it has begun."""
        return _means(self._step if self._open else self._last)

    def state_dict(self) -> dict[str, object]:
        """Plain lists."""
        return {
            "step": self._step.tolist() if self._open else None,
            "interval": self._interval.tolist(),
            "last": self._last.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave (on the CPU; it moves with the next losses)."""
        self._open = state["step"] is not None
        self._step = torch.tensor(state["step"] or state["last"], dtype=torch.float64)
        self._interval = torch.tensor(state["interval"], dtype=torch.float64)
        self._last = torch.tensor(state["last"], dtype=torch.float64)


def _means(table: Tensor) -> list[float | None]:
    sums, counts = table.tolist()
    return [s / n if n else None for s, n in zip(sums, counts, strict=True)]


_OPTIONS = tuple(dict.fromkeys(("base", "rain_types", "num_types", "loss_weight", "reduction", *OPTION_NAMES)))

_SMALLEST = 1e-30  # float32 cannot hold a weight below; Σ ω_i then stays above 0


@LOSS_REGISTRY.register()
class MultiObjectiveReweightedLoss(nn.Module):
    r"""Σ_i ω_i ℓ_i / Σ_i ω_i over the rain types present in the (global) batch; ω from the chosen reweighting mode.

    ℓ_i is the mean of the base loss over the samples of type i. Without labels it is the plain base loss, so the
    stock SRModel can use it. Under ``torch.distributed`` the counts of samples are summed over the ranks in the
    forward pass, and a rank's result is scaled such that the mean over ranks, which is what DDP makes of gradients
    and BasicSR of logged losses, is the value (and has the gradient) of one process with the whole batch. Every rank
    must therefore call the loss equally often while training.

    Recording and communication happen only in training mode, with gradients enabled and labels given.

    In mode ``uncertainty`` there are log-variances to be learned, see :meth:`learned_parameters`: whoever trains must
    give them to the optimiser and average their gradient over the ranks, since DDP wraps the network only.

    Args:
        base: ``{type: L1Loss}`` (default), any loss registered in BasicSR, or a list of them, each with its
            ``loss_weight``, whose values are added. See :class:`~unirain_plugin.losses.base_terms.BaseTerm`.
        rain_types: Names, such as ``[drs, drd, nrs, nrd]``. Default: the paper's four, or those of ``num_types``.
        num_types: Instead of names: labels 0 to num_types − 1.
        loss_weight: Factor of the whole loss.
        reduction: Only ``mean``; accepted because stock option files say so.
        mode: ``paper`` (default), ``coba``, ``released``, ``equal``, ``dwa``, ``uncertainty``, ``rlw`` or ``famo``.
        **options: ``window``, ``tau``, ``warmup``, ``update_freq``, ``source``, ``floor``, ``ema``, …: see
            :class:`~unirain_plugin.losses.reweighter.ReweightingOptions`.

    Shape:
        pred, target: (N, C, H, W), range [0, 1], any float type (computed in float32 at least); rain_type: (N,)
        integer labels; result: a scalar.

    Raises:
        OptionError: If an option is unknown, of a wrong type or out of range.

    Attributes:
        OPTIONS: The keys of the loss in an option file, for the option check.
    """

    OPTIONS: frozenset[str] = frozenset(_OPTIONS)

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
        _check_names(options)
        if reduction != "mean":
            raise OptionError(f"reduction: found {reduction!r}; expected mean.")
        if isinstance(loss_weight, bool) or not isinstance(loss_weight, (int, float)):
            raise OptionError(f"loss_weight: found {loss_weight!r}; expected a number.")
        self.labels = RainLabels(rain_types, num_types)
        self.loss_weight = float(loss_weight)
        self.reweighter = build_reweighter(mode=mode, num_types=len(self.labels.names), **options)
        self.options = self.reweighter.options
        self.base = build_base_terms(base)
        self.records = LossRecords(len(self.labels.names))
        self._updated_at = 0
        self._announced: Tensor | None = None
        self._unseen = 0
        self._told = False
        self.register_buffer("weights", torch.zeros(len(self.labels.names)), persistent=False)
        if mode == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.labels.names)))
        self._publish_weights()

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        rain_type: Tensor | Sequence[int] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred: Restored images (N, C, H, W).
            target: Clean images, same shape.
            rain_type: Labels (N,), best left on the CPU (reading them from a GPU waits for it). None: plain base loss.
            weight: Per-pixel weights (N, C or 1, H, W), as in the toolbox's losses.

        Raises:
            DataError: If the labels are not N integers out of this loss's rain types, or the images differ in shape.
        """
        if pred.shape != target.shape:
            raise DataError(f"loss: the prediction is {tuple(pred.shape)}, the target {tuple(target.shape)}.")
        pred, target, weight = pixel_losses.at_least_float32(pred, target, weight)
        with torch.autocast(pred.device.type, enabled=False):
            if rain_type is None:
                self._tell_of_missing_labels()
                return self.loss_weight * sum(term.whole(pred, target, weight) for term in self.base)
            index = self.labels.indices(rain_type, len(pred))
            return self.loss_weight * self._grouped(self.per_sample(pred, target, weight), index)

    def _tell_of_missing_labels(self) -> None:
        """Once, and in training only: nobody who asks for reweighting means the plain base loss."""
        if self.training and torch.is_grad_enabled() and not self._told:
            self._told = True
            get_root_logger().warning(
                "MultiObjectiveReweightedLoss is given no rain types (labels), so it is its plain base loss and "
                f"`mode: {self.options.mode}` has no effect. Labels come from a data set such as "
                "DistilledMixedPairedDataset, and UniRainModel hands them on."
            )

    def per_sample(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The base loss of each sample, (N,), unweighted by type; no recording. For validation losses per type."""
        pred, target, weight = pixel_losses.at_least_float32(pred, target, weight)
        with torch.autocast(pred.device.type, enabled=False):
            return sum(term(pred, target, weight) for term in self.base)

    def learned_parameters(self) -> list[nn.Parameter]:
        """What is to be trained along with the network; never a base loss's own network, which judges it."""
        return [self.log_variances] if self.options.mode == "uncertainty" else []

    @property
    def source(self) -> str:
        """Where the weights' losses come from: ``train`` or ``val``."""
        return self.options.source

    def begin_batch(self, rain_type: Tensor | Sequence[int]) -> None:
        """Announce the labels (N,) of a batch that will be given in several micro-batches (gradient accumulation).

        Until N samples have been through :meth:`forward`, each result is then the micro-batch's share in the loss of
        the batch: their sum, and the sum of their gradients, are those of the whole batch at once. Without the
        announcement every call is a batch of its own. A collective under ``torch.distributed``.

        Raises:
            DataError: If the labels are no integers out of this loss's rain types.
        """
        self._unseen = len(rain_type)
        index = self.labels.indices(rain_type, self._unseen).to(self.weights.device)
        ones = torch.ones(self._unseen, device=index.device)
        self._announced = sum_over_ranks(sum_by_type(ones, index, len(self.labels.names)))

    def step(self, current_iter: int) -> None:
        """Tell the loss that an optimiser step has been done; call it once after each, on every rank.

        With ``source: train`` the weights are updated whenever ``current_iter`` has reached or passed the next
        multiple of ``update_freq``, from each type's mean loss since the last update.
        """
        self.records.close_step()
        self._announced = None
        freq = self.options.update_freq
        due = current_iter // freq > self._updated_at // freq
        if not due:
            return
        self._updated_at = int(current_iter)
        if self.options.source == "train":
            self._update(self.records.take_interval())

    def discard(self) -> None:
        """Forget what was recorded since the last :meth:`step`: the batch is skipped, for example as not finite."""
        self.records.discard_step()
        self._announced = None

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Update the weights from the validation's losses by type name (``source: val``; otherwise ignored).

        Types that are left out count as absent. Give the same values on every rank.

        Raises:
            DataError: If a name is none of this loss's rain types.
        """
        values = self.labels.ordered(losses)
        if self.options.source == "val":
            self._update(values)

    def log(self) -> dict[str, float]:
        """What to log, as floats; this waits for the GPU, so call it only when a line is written.

        Returns:
            ``l_<type>`` (mean over the global batch of the last step; only types it held), ``w_<type>``,
            ``slope_<type>``, ``tbs_<type>``, ``tss_<type>``, ``af`` (where the mode has them and warm-up is over).
        """
        names = self.labels.names
        found = {f"l_{n}": v for n, v in zip(names, self.records.last_means(), strict=True) if v is not None}
        found |= {f"w_{n}": v for n, v in zip(names, self._current_weights().tolist(), strict=True)}
        scores = self.reweighter.diagnostics()
        for key, label in (("slopes", "slope"), ("tbs", "tbs"), ("tss", "tss")):
            found |= {f"{label}_{n}": v for n, v in zip(names, scores[key] or (), strict=False)}
        return found if scores["af"] is None else {**found, "af": scores["af"]}

    def get_extra_state(self) -> dict[str, object]:
        """Everything with history, as plain Python values; part of ``state_dict()``, the same on every rank."""
        return {
            "rain_types": list(self.labels.names),
            "updated_at": self._updated_at,
            "records": self.records.state_dict(),
            "reweighter": self.reweighter.state_dict(),
        }

    def set_extra_state(self, state: Mapping[str, object]) -> None:
        """Continue exactly where :meth:`get_extra_state` was called; used by ``load_state_dict()``.

        Raises:
            CheckpointError: If the state is of other rain types or another mode.
        """
        self.labels.check_same(state.get("rain_types"))
        self.reweighter.load_state_dict(state["reweighter"])
        self.records.load_state_dict(state["records"])
        self._updated_at = int(state["updated_at"])
        self._publish_weights()

    def _grouped(self, losses: Tensor, index: Tensor) -> Tensor:
        index = index.to(losses.device)
        k = len(self.labels.names)
        sums = sum_by_type(losses, index, k)
        counts = global_counts = sum_by_type(torch.ones_like(losses), index, k)
        ranks = 1
        if self.training and torch.is_grad_enabled():
            ranks = world_size()
            global_counts = self._announced_counts(self.records.add(losses.detach(), index, counts), len(losses))
        means = ranks * sums / global_counts.clamp_min(1)
        weights = self._current_weights().to(losses).clamp_min(_SMALLEST)
        total = (weights * means).sum()
        if self.options.mode != "released":
            total = total / (weights * (global_counts > 0)).sum()
        if self.options.mode == "uncertainty":
            total = total + self._variance_term(means.detach(), ranks * counts / global_counts.clamp_min(1))
        return total

    def _announced_counts(self, counts: Tensor, batch: int) -> Tensor:
        """The counts of the announced batch while its samples come in, else those given."""
        if self._announced is None:
            return counts
        announced = self._announced.to(counts)
        self._unseen -= batch
        if self._unseen <= 0:
            self._announced = None
        return announced

    def _variance_term(self, means: Tensor, present: Tensor) -> Tensor:
        """A term of value 0 whose gradient in s is that of Σ_i (exp(−s_i) ℓ_i + s_i), Kendall et al. 2018.

        ``present`` (K,) is this rank's share in each type's samples, so that shares add up to one s_i a type.
        """
        s = self.log_variances.to(means)
        objective = (torch.exp(-s) * means + s * present).sum()
        return objective - objective.detach()

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


def _check_names(options: Mapping[str, object]) -> None:
    for name in options:
        if name not in _OPTIONS:
            raise OptionError(
                f"{name}: unknown key; expected one of {', '.join(_OPTIONS)}.{did_you_mean(name, _OPTIONS)}"
            )
