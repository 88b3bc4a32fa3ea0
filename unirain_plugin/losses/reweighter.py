"""What all reweighting modes share: their options, the history of losses, their slopes, the floor, the state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np

from unirain_plugin.errors import CheckpointError, DataError
from unirain_plugin.support.spec import Problem, above, at_least, below, one_of

MODES = ("paper", "coba", "released", "equal", "dwa", "uncertainty", "rlw", "famo")
"""The ways to weight the rain types; see :mod:`unirain_plugin.losses.reweighting`."""


@dataclass(frozen=True)
class ReweightingOptions:
    """What a user may set. Every option is accepted in every mode, so that modes can be compared by one key.

    Attributes:
        num_types: K, the number of rain types (at least 1).
        mode: One of :data:`MODES`.
        window: N, the number of losses a slope is fitted to and of slopes that TSS sums (at least 2; the published
            script's 10).
        tau: τ of the Adaptivity Factor (0 or more; 5 in CoBa and in the published script). 0 keeps AF at 1.
        warmup: Number of first updates that return equal weights (0 or more; the published script's 20).
        update_freq: Iterations between two updates (at least 1). Used by the loss, not by the pure maths. Our
            choice of 100: often enough to follow a 300 k run, rare enough for a mean over many crops.
        source: ``train`` (mean over the interval) or ``val`` (the validation's losses). Used by the loss.
        floor: Smallest weight, 0 to 1/K. None: what the mode's origin uses (paper 0, coba 1/(10K), released 0.1 or
            1/K if that is smaller, baselines 0).
        ema: Share of the past in an exponential moving average of the losses before anything else looks at them
            (0 up to but not including 1). 0, the default, leaves them as they are. Our addition, against the noise
            of random crops.
        temperature: T of ``dwa`` (above 0; 2 in its paper).
        seed: Seed of ``rlw`` (0 or more).
        lr: Step size of ``famo`` (β; 0.025 in its paper's code) and of ``uncertainty`` outside a training loop.
        gamma: Decay of ``famo``'s logits (γ, 0 or more; 0.01 in its paper).
    """

    num_types: Annotated[int, at_least(1)]
    mode: Annotated[str, one_of(*MODES)] = "paper"
    window: Annotated[int, at_least(2)] = 10
    tau: Annotated[float, at_least(0)] = 5.0
    warmup: Annotated[int, at_least(0)] = 20
    update_freq: Annotated[int, at_least(1)] = 100
    source: Literal["train", "val"] = "train"
    floor: Annotated[float, at_least(0)] | None = None
    ema: Annotated[float, at_least(0), below(1)] = 0.0
    temperature: Annotated[float, above(0)] = 2.0
    seed: Annotated[int, at_least(0)] = 0
    lr: Annotated[float, above(0)] = 0.025
    gamma: Annotated[float, at_least(0)] = 0.01

    def check_floor(self) -> Iterator[Problem]:
        """All weights together are 1."""
        if self.floor is not None and self.floor > 1 / self.num_types:
            yield "floor", f"found {self.floor}; expected a number from 0 to 1/num_types = {1 / self.num_types:.6g}."


OPTION_NAMES = tuple(field.name for field in fields(ReweightingOptions))
"""The names of all options, in their order."""


_STATE = ("updates", "nonfinite", "_weights", "_first", "_smoothed", "_history", "_slopes", "_scores")
_LARGEST = 1e100  # a ratio beyond this tells no more; sums and products of ratios then stay finite in float64


class Reweighter(ABC):
    """Turns the per-type losses of successive updates into K weights that sum to 1. Plain float64 numbers, no torch.

    A type that is absent from an update (None, NaN, infinite) keeps its history and its last slope; when it returns,
    its next slope is fitted to its last N *seen* losses at the updates they were seen at. A type never seen counts as
    flat (slope 0). Our choices: the paper has no absent types.

    Subclasses implement :meth:`_compute` and name in ``_kept`` what attributes they keep besides.

    Attributes:
        options: The frozen options.
        updates: t, the number of updates that held at least one loss.
        nonfinite: How many NaN or infinite losses each type has had.
    """

    normalise = True
    """Whether losses are divided by the type's first loss, which makes the weights free of the losses' scale."""
    drop_zeros = False
    """Whether a loss of exactly 0 means that the type was absent (so in CoBa's code)."""
    default_floor = 0.0
    _kept: tuple[str, ...] = ()

    def __init__(self, options: ReweightingOptions) -> None:
        self.options = options
        k = options.num_types
        self.updates = 0
        self.nonfinite = [0] * k
        self._weights = np.full(k, 1.0 / k)
        self._first: list[float | None] = [None] * k
        self._smoothed: list[float | None] = [None] * k
        self._history: list[list[list[float]]] = [[] for _ in range(k)]
        self._slopes: np.ndarray | None = None
        self._scores: dict[str, object] = {"tbs": None, "tss": None, "af": None}
        lowest = self.default_floor if options.floor is None else options.floor
        self.floor = min(lowest, 1.0 / k)

    @property
    def weights(self) -> np.ndarray:
        """The K weights of the last update (1/K each before the first), a float64 copy."""
        return self._weights.copy()

    def update(self, losses: Sequence[float | None]) -> np.ndarray:
        """Take the losses ℓ_i(t) of one update and return the new weights ω_i(t).

        Args:
            losses: K numbers: a list, numpy array or tensor. None or NaN: the type is absent.

        Returns:
            K weights, float64, summing to 1. If every type is absent nothing changes and t does not advance.

        Raises:
            DataError: If there are not K values.
        """
        values = self._read(losses)
        if np.isnan(values).all():
            return self.weights
        self.updates += 1
        present = self._record(values)
        if self.updates <= self.options.warmup:
            self._observe(present)
            self._weights = np.full_like(self._weights, 1.0 / len(self._weights))
        else:
            self._fit_slopes(present)
            self._weights = self._apply_floor(self._compute(present))
        return self.weights

    def diagnostics(self) -> dict[str, object]:
        """What the last update was decided by.

        Returns:
            ``slopes``, ``tbs``, ``tss`` (K floats each) and ``af`` (a float); None during warm-up, and for scores that
            the mode does not have. ``updates`` (t) and ``nonfinite`` (K counts) besides.
        """
        slopes = None if self._slopes is None else self._slopes.tolist()
        return {
            "slopes": slopes,
            **copy.deepcopy(self._scores),
            "updates": self.updates,
            "nonfinite": list(self.nonfinite),
        }

    def state_dict(self) -> dict[str, object]:
        """All history as plain lists, numbers and strings: safe for JSON and for ``torch.load(weights_only=True)``."""
        head = {"mode": self.options.mode, "num_types": self.options.num_types}
        return {**head, **self._values(_STATE), "extra": self._values(self._kept)}

    def _values(self, attributes: Sequence[str]) -> dict[str, object]:
        return {name.lstrip("_"): _plain(getattr(self, name)) for name in attributes}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave; the next update is then the same to the last bit.

        Raises:
            CheckpointError: If the state is of another mode or number of types, or lacks something.
        """
        for name, mine in (("mode", self.options.mode), ("num_types", self.options.num_types)):
            if state.get(name) != mine:
                raise CheckpointError(f"reweighting state: {name} is {state.get(name)!r}, but this run has {mine!r}.")
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise CheckpointError(f"reweighting state: missing {', '.join(missing)}.")
        for attributes, values in ((_STATE, state), (self._kept, state["extra"])):
            for name in attributes:
                setattr(self, name, _like(getattr(self, name), values[name.lstrip("_")]))

    @abstractmethod
    def _compute(self, present: np.ndarray) -> np.ndarray:
        """Return the K weights before the floor. ``present``: bool (K,), the types seen in this update."""

    def _observe(self, present: np.ndarray) -> None:  # noqa: B027 (a hook)
        """Look at an update during warm-up (for modes with state of their own)."""

    def _apply_floor(self, weights: np.ndarray) -> np.ndarray:
        return raise_to_floor(weights, self.floor)

    def _read(self, losses: Sequence[float | None]) -> np.ndarray:
        if hasattr(losses, "detach"):  # a tensor, without importing torch
            losses = losses.detach().cpu().tolist()
        try:
            values = [None if value is None else float(value) for value in losses]
        except (TypeError, ValueError) as error:
            raise DataError(f"update: found {losses!r}; expected {self.options.num_types} numbers or None.") from error
        if len(values) != self.options.num_types:
            raise DataError(f"update: found {len(values)} losses; expected {self.options.num_types}, one a rain type.")
        for i, value in enumerate(values):
            if value is not None and not np.isfinite(value):
                self.nonfinite[i] += 1
                values[i] = None
        values = [np.nan if value is None else value for value in values]
        return np.array(values, dtype=np.float64)

    def _record(self, values: np.ndarray) -> np.ndarray:
        present = ~np.isnan(values)
        if self.drop_zeros:
            present &= values != 0.0
        for i in np.flatnonzero(present):
            past = self._smoothed[i]
            value = float(values[i])
            smooth = value if past is None else self.options.ema * past + (1.0 - self.options.ema) * value
            self._smoothed[i] = smooth
            if self._first[i] is None and smooth != 0.0:
                self._first[i] = abs(smooth)
            if self.normalise and self._first[i] is None:
                continue  # zero so far: nothing to measure progress by, the slope stays 0
            with np.errstate(over="ignore"):
                ratio = np.float64(smooth) / (self._first[i] if self.normalise else 1.0)
            self._history[i].append([self.updates, float(np.clip(ratio, -_LARGEST, _LARGEST))])
            del self._history[i][: -self.options.window]
        return present

    def _fit_slopes(self, present: np.ndarray) -> None:
        slopes = np.zeros(len(present)) if self._slopes is None else self._slopes.copy()
        for i in np.flatnonzero(present):
            slopes[i] = fit_slope(self._history[i])
        self._slopes = slopes


def _plain(value: object) -> object:
    """A copy as plain lists, numbers and strings."""
    return value.tolist() if isinstance(value, (np.ndarray, array)) else copy.deepcopy(value)


def _like(old: object, value: object) -> object:
    """A copy of a plain value as what stood in its place."""
    if isinstance(old, array):
        return array("d", value)
    is_array = isinstance(old, np.ndarray) or old is None  # slopes are None at first
    return np.array(value, dtype=np.float64) if is_array and value is not None else copy.deepcopy(value)


def fit_slope(series: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of (x, y) points; 0 below two points, exactly 0 for equal ys (paper §3, α_i)."""
    if len(series) < 2:
        return 0.0
    x, y = np.array(series, dtype=np.float64).T
    y = y - y[-1]  # equal values become exact zeros, so flat curves cannot turn rounding into a direction
    x = x - x.mean()
    return float(x @ y / (x @ x))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the only axis, safe for logits of any finite size."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def blend_with_floor(weights: np.ndarray, floor: float) -> np.ndarray:
    """ω (1 − K f) + f: no weight is below f, the sum stays 1."""
    return weights * (1.0 - floor * len(weights)) + floor


def raise_to_floor(weights: np.ndarray, floor: float) -> np.ndarray:
    """Raise weights below ``floor`` to it and scale the others down so that the sum stays 1.

    Our choice for a floor in the modes whose origin has none: it changes nothing while no weight is below the floor,
    and it does not jump when one gets there.
    """
    low = weights < floor
    while low.any():
        if low.all():
            return np.full_like(weights, 1.0 / len(weights))
        rest = (1.0 - floor * low.sum()) / weights[~low].sum()
        raised = np.where(low, floor, weights * rest)
        if not (raised[~low] < floor).any():
            return raised
        low = low | (raised < floor)
    return weights
