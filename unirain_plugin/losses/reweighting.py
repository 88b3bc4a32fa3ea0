r"""Multi-objective reweighting: from the per-type losses of successive updates to the types' weights.

The paper's formulas (UniRain §3, those of CoBa under new names: Gong et al., "CoBa: Convergence Balancer for Multitask
Finetuning of Large Language Models", EMNLP 2024). ℓ_i(t) is type i's loss at update t, divided by ℓ_i(1); α_i(t) the
slope of the least-squares line through the last N of these ratios:

.. math::
    \mathrm{TBS}_i(t) &= \mathrm{softmax}_i\left(K \alpha_i(t) / \textstyle\sum_j |\alpha_j(t)|\right) \\
    \mathrm{TSS}_i(t) &= \mathrm{softmax}_i\left(-N \alpha_i(t) / \textstyle\sum_{k=t-N+1}^{t} |\alpha_i(k)|\right) \\
    \mathrm{AF}(t) &= \min\left(t \cdot \mathrm{softmax}_t\left(-\tau t \alpha_{max}(t) /
        \textstyle\sum_{k=1}^{t} |\alpha_{max}(k)|\right), 1\right) \\
    \omega_i(t) &= \mathrm{AF}(t)\, \mathrm{TBS}_i(t) + (1 - \mathrm{AF}(t))\, \mathrm{TSS}_i(t)

Beside them: CoBa's post-processing, the released script's behaviour, and the baselines that a researcher compares with
(equal, DWA, uncertainty, RLW and FAMO). Pure maths with state: no torch, no BasicSR.
"""

import copy
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np

from unirain_plugin.errors import CheckpointError, DataError
from unirain_plugin.support.spec import Problem, above, at_least, below, one_of, parse_section

MODES = ("paper", "coba", "released", "equal", "dwa", "uncertainty", "rlw", "famo")  # the ways to weight the rain types


@dataclass(frozen=True)
class ReweightingOptions:
    """What a user may set. Every option is accepted in every mode, so that modes can be compared by one key."""

    num_types: Annotated[int, at_least(1)]  # K, the number of rain types
    mode: Annotated[str, one_of(*MODES)] = "paper"
    window: Annotated[int, at_least(2)] = 10  # N: losses a slope is fitted to, slopes TSS sums (published script's 10)
    tau: Annotated[float, at_least(0)] = 5.0  # τ of AF (5 in CoBa and in the published script); 0 keeps AF at 1
    warmup: Annotated[int, at_least(0)] = 20  # first updates that return equal weights (the published script's 20)
    # iterations between two updates. Our choice: often enough to follow a 300 k run, rare enough for a mean of many
    update_freq: Annotated[int, at_least(1)] = 100
    source: Literal["train", "val"] = "train"  # the loss's mean over the interval, or the validation's losses
    # smallest weight, up to 1/K. None: the mode's own (coba 1/(10K), released 0.1 or 1/K if that is smaller, others 0)
    floor: Annotated[float, at_least(0)] | None = None
    # share of the past in a moving average of the losses, before all else: our addition, against random crops' noise
    ema: Annotated[float, at_least(0), below(1)] = 0.0
    temperature: Annotated[float, above(0)] = 2.0  # T of ``dwa`` (2 in its paper)
    seed: Annotated[int, at_least(0)] = 0  # of ``rlw``
    # β of ``famo`` (0.025 in its paper's code), and step of ``uncertainty`` outside a training loop
    lr: Annotated[float, above(0)] = 0.025
    gamma: Annotated[float, at_least(0)] = 0.01  # γ, decay of ``famo``'s logits (0.01 in its paper)

    def check_floor(self) -> Iterator[Problem]:
        if self.floor is not None and self.floor > 1 / self.num_types:
            yield "floor", f"found {self.floor}; expected a number from 0 to 1/num_types = {1 / self.num_types:.6g}."


OPTION_NAMES = tuple(field.name for field in fields(ReweightingOptions))  # the names of all options, in their order


_STATE = ("updates", "nonfinite", "_weights", "_first", "_smoothed", "_history", "_slopes", "_scores")
_LARGEST = 1e100  # a ratio beyond this tells no more; sums and products of ratios then stay finite in float64


class Reweighter(ABC):
    """Turns the per-type losses of successive updates into K weights that sum to 1. Plain float64 numbers, no torch.

    A type that is absent from an update (None, NaN, infinite) keeps its history and its last slope; when it returns,
    its next slope is fitted to its last N *seen* losses. A type never seen counts as flat (slope 0). Our choices: the
    paper has no absent types. Subclasses implement :meth:`_compute` and name in ``_kept`` what attributes they keep
    besides.
    """

    normalise = True
    """Whether losses are divided by the type's first loss, which makes the weights free of the losses' scale."""
    drop_zeros = False  # whether a loss of exactly 0 means that the type was absent (so in CoBa's code)
    default_floor = 0.0
    _kept: tuple[str, ...] = ()

    def __init__(self, options: ReweightingOptions) -> None:
        self.options = options
        k = options.num_types
        self.updates = 0  # t, the number of updates that held at least one loss
        self.nonfinite = [0] * k  # how many NaN or infinite losses each type has had
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
        """Take the losses ℓ_i(t) of one update and return the new weights ω_i(t), K float64 that sum to 1.

        Losses are K numbers (else DataError), None or NaN of an absent type. If all are absent, t does not advance.
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
            self._slopes = np.zeros(len(present)) if self._slopes is None else self._slopes
            for i in np.flatnonzero(present):
                self._slopes[i] = fit_slope(self._history[i])
            self._weights = self._apply_floor(self._compute(present))
        return self.weights

    def diagnostics(self) -> dict[str, object]:
        """What the last update was decided by: ``slopes``, ``tbs``, ``tss`` (K floats each) and ``af`` (a float).

        They are None during warm-up, or where the mode has none. ``updates`` (t) and ``nonfinite`` (K counts) besides.
        """
        slopes = None if self._slopes is None else self._slopes.tolist()
        counts = {"updates": self.updates, "nonfinite": list(self.nonfinite)}
        return {"slopes": slopes, **copy.deepcopy(self._scores), **counts}

    def state_dict(self) -> dict[str, object]:
        """All history as plain lists, numbers and strings: safe for JSON and for ``torch.load(weights_only=True)``."""
        head = {"mode": self.options.mode, "num_types": self.options.num_types}
        return {**head, **self._values(_STATE), "extra": self._values(self._kept)}

    def _values(self, attributes: Sequence[str]) -> dict[str, object]:
        values = ((name.lstrip("_"), getattr(self, name)) for name in attributes)
        return {name: value.tolist() if hasattr(value, "tolist") else copy.deepcopy(value) for name, value in values}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue to the last bit; a CheckpointError if the state is of another mode or number of types."""
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
            values = np.array([np.nan if value is None else float(value) for value in losses])
        except (TypeError, ValueError) as error:
            raise DataError(f"update: found {losses!r}; expected {self.options.num_types} numbers or None.") from error
        if len(values) != self.options.num_types:
            raise DataError(f"update: found {len(values)} losses; expected {self.options.num_types}, one a rain type.")
        for i in np.flatnonzero(~np.isfinite(values)):
            self.nonfinite[i] += losses[i] is not None
            values[i] = np.nan
        return values

    def _record(self, values: np.ndarray) -> np.ndarray:
        present = ~np.isnan(values)
        if self.drop_zeros:
            present &= values != 0.0
        for i in np.flatnonzero(present):
            past, value = self._smoothed[i], float(values[i])
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
    """Raise weights below ``floor`` to it and scale the others down to the sum 1 (our choice: nothing jumps)."""
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


_LARGEST_RATE = 1e6  # an infinite ratio would be NaN in a softmax


class EqualReweighter(Reweighter):
    """Every type has the weight 1/K, always."""

    def _compute(self, present: np.ndarray) -> np.ndarray:
        return np.full(len(present), 1.0 / len(present))


class DynamicWeightAverage(Reweighter):
    """Dynamic Weight Average (Liu, Johns, Davison: "End-to-End Multi-Task Learning with Attention", CVPR 2019).

    ω = softmax_i(r_i / T) with r_i(t) the ratio of the type's last two losses, 1 before there are two. The paper's
    factor K is left out, since our weights sum to 1.
    """

    def _compute(self, present: np.ndarray) -> np.ndarray:
        rates = np.ones(len(present))
        for i, series in enumerate(self._history):
            if len(series) > 1 and series[-2][1] != 0.0:
                rates[i] = series[-1][1] / series[-2][1]
        return softmax(np.clip(rates, -_LARGEST_RATE, _LARGEST_RATE) / self.options.temperature)


class RandomLossWeighting(Reweighter):
    """Random Loss Weighting (Lin, Ye, Zhang, Tsang: "Reasonable Effectiveness of Random Weighting", TMLR 2022).

    ω = softmax of K standard normal numbers, drawn anew in every update (``update_freq: 1`` for the paper's draw in
    every iteration). The generator is seeded with (seed, t), so the count of updates is its whole state.
    """

    def _compute(self, present: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng((self.options.seed, self.updates))
        return softmax(generator.standard_normal(len(present)))


class UncertaintyReweighter(Reweighter):
    """Learned log-variances (Kendall, Gal, Cipolla: "Multi-Task Learning Using Uncertainty …", CVPR 2018).

    With s_i the logarithm of a type's noise scale, Σ_i exp(−s_i) ℓ_i + s_i is minimised over s (Laplace's likelihood,
    as ℓ is a mean absolute error); the type's weight is exp(−s_i), here divided by the sum over i. In training s are
    parameters of the loss, handed in by :meth:`set_log_variances`; :meth:`update` alone takes a plain gradient step of
    size ``lr``.
    """

    _kept = ("log_variances",)
    _limits = -20.0, 20.0  # exp(±20): far outside anything sensible, far inside float64

    def __init__(self, options: ReweightingOptions) -> None:
        super().__init__(options)
        self.log_variances = np.zeros(options.num_types)

    def set_log_variances(self, values: Sequence[float]) -> np.ndarray:
        """Take over s (K finite numbers) from the optimiser and return the weights."""
        self.log_variances = np.clip(np.array(values, dtype=np.float64), *self._limits)
        self._weights = self._apply_floor(softmax(-self.log_variances))
        return self.weights

    def _compute(self, present: np.ndarray) -> np.ndarray:
        losses = np.array([0.0 if value is None else value for value in self._smoothed])
        gradient = np.clip(1.0 - np.exp(-self.log_variances) * losses, -10.0, 10.0)
        moved = self.log_variances - self.options.lr * np.where(present, gradient, 0.0)
        self.log_variances = np.clip(moved, *self._limits)
        return softmax(-self.log_variances)

    def _apply_floor(self, weights: np.ndarray) -> np.ndarray:
        return blend_with_floor(weights, self.floor)  # smooth, so that the loss can do the same on the GPU


class FastAdaptiveMultitaskOptimization(Reweighter):
    """FAMO (Liu, Feng, Stone, Liu: "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, algorithm 1).

    Logits ξ with z = softmax(ξ); after each update d_i = log ℓ_i(t−1) − log ℓ_i(t) says how much type i improved,
    δ = z ⊙ (d − z·d), ξ ← ξ − β (δ + γ ξ), and the losses are weighted by (z_i / ℓ_i) / Σ_j (z_j / ℓ_j). Losses at or
    below 0 have no logarithm and count as 1e-8, as in the authors' code. Plain steps of size β stand for their Adam
    (our choice: the algorithm as printed). A type not seen yet is given the mean loss of the others.
    """

    _kept = ("_logits", "_past")
    _smallest = 1e-8

    def __init__(self, options: ReweightingOptions) -> None:
        super().__init__(options)
        self._logits = np.zeros(options.num_types)
        self._past: list[float | None] = [None] * options.num_types

    def _compute(self, present: np.ndarray) -> np.ndarray:
        improved = np.zeros(len(present))
        for i in np.flatnonzero(present):
            if self._past[i] is not None:
                improved[i] = np.log(self._past[i]) - np.log(self._loss(i))
        shares = softmax(self._logits)
        delta = shares * (improved - shares @ improved)
        self._logits = self._logits - self.options.lr * (delta + self.options.gamma * self._logits)
        self._observe(present)
        known = [value for value in self._past if value is not None]
        losses = np.array([np.mean(known) if value is None else value for value in self._past])
        # Softmax of the logarithms: the same quotient, and losses of very different size cannot overflow it.
        return softmax(np.log(softmax(self._logits)) - np.log(losses))

    def _observe(self, present: np.ndarray) -> None:
        for i in np.flatnonzero(present):
            self._past[i] = self._loss(i)

    def _loss(self, i: int) -> float:
        return max(self._smoothed[i], self._smallest)


class PaperReweighter(Reweighter):
    """The paper's formulas, clamped and guarded (mode ``paper``, the default).

    Updates t ≤ warm-up give 1/K and record no slope. In TSS, N is the number of slopes actually summed; in AF, t
    counts the updates since warm-up and the softmax runs over all of them. Where all slopes are 0 the scores are
    1/K and AF is 1, so nothing is ever divided by 0. α_max(t) is taken over the types present in the update (our
    choice: the old slope of an absent type must not hold AF down).
    """

    _kept = ("_slope_history", "_worst")

    def __init__(self, options: ReweightingOptions) -> None:
        super().__init__(options)
        self._slope_history: list[list[float]] = [[] for _ in range(options.num_types)]
        self._worst = array("d")  # grows by one an update: a list would be slow to turn into numpy every time

    def _compute(self, present: np.ndarray) -> np.ndarray:
        for i in np.flatnonzero(present):
            self._slope_history[i].append(float(self._slopes[i]))
            del self._slope_history[i][: -self.options.window]
        if present.any():
            self._worst.append(float(self._slopes[present].max()))
        # TBS: more weight for what converges slowly
        tbs = softmax(len(self._slopes) * _share(self._slopes, np.abs(self._slopes).sum()))
        # TSS: less weight for what diverges, measured by each type's own recent slopes
        counts = np.array([len(series) for series in self._slope_history], dtype=np.float64)
        tss = softmax(-counts * _share(self._slopes, np.array([np.abs(s).sum() for s in self._slope_history])))
        af = self._adaptivity()
        self._scores = {"tbs": tbs.tolist(), "tss": tss.tolist(), "af": af}
        return self._combine(af * tbs + (1.0 - af) * tss)

    def _combine(self, mixture: np.ndarray) -> np.ndarray:
        return mixture

    def _adaptivity(self) -> float:
        """AF in [0, 1]: near 1 while the worst type improves as before, smaller once it diverges."""
        return float(min(len(self._worst) * self._last_share(), 1.0))

    def _last_share(self) -> float:
        if not self._worst:
            return 1.0
        worst = np.frombuffer(self._worst)
        return softmax(-self.options.tau * len(worst) * _share(worst, np.abs(worst).sum()))[-1]


class CobaReweighter(PaperReweighter):
    """CoBa's own post-processing of the same scores (mode ``coba``), after its published implementation.

    Losses of exactly 0 are dropped; the mixture goes through softmax_i(K · ω_i); if a weight is then below the floor
    f = 1/(10K), all become ω (1 − K f) + f. Unlike CoBa's code it is guarded against slopes that are all 0 and AF is
    clamped to 1, as in ``paper``; α_max is the largest slope, as printed, not the slope of the largest loss.
    """

    drop_zeros = True

    def __init__(self, options: ReweightingOptions) -> None:
        self.default_floor = 1.0 / (10 * options.num_types)
        super().__init__(options)

    def _combine(self, mixture: np.ndarray) -> np.ndarray:
        return softmax(len(mixture) * mixture)

    def _apply_floor(self, weights: np.ndarray) -> np.ndarray:
        return blend_with_floor(weights, self.floor) if (weights < self.floor).any() else weights


class ReleasedReweighter(PaperReweighter):
    """What the script published with the paper does (mode ``released``), for comparison only.

    Differences to ``paper``: losses are not normalised; AF is not multiplied by t (flat slopes give 1/N, not 1) and
    looks at the last N updates only; a second softmax flattens the mixture; the floor of 0.1 is always blended in,
    ω (1 − K f) + f. The loss then does not divide by Σ ω_i. Unlike the script, the history survives a resume. What
    its description leaves open is taken from ``paper``: this is its behaviour, not its code.
    """

    normalise = False
    default_floor = 0.1

    def _adaptivity(self) -> float:
        del self._worst[: -self.options.window]
        return float(self._last_share())

    def _combine(self, mixture: np.ndarray) -> np.ndarray:
        return softmax(mixture)

    def _apply_floor(self, weights: np.ndarray) -> np.ndarray:
        return blend_with_floor(weights, self.floor)


def _share(slopes: np.ndarray, total: np.ndarray | float) -> np.ndarray:
    return np.divide(slopes, total, out=np.zeros_like(slopes), where=np.greater(total, 0.0))


_CLASSES: dict[str, type[Reweighter]] = {
    "paper": PaperReweighter,
    "coba": CobaReweighter,
    "released": ReleasedReweighter,
    "equal": EqualReweighter,
    "dwa": DynamicWeightAverage,
    "uncertainty": UncertaintyReweighter,
    "rlw": RandomLossWeighting,
    "famo": FastAdaptiveMultitaskOptimization,
}


def build_reweighter(mode: str = "paper", num_types: int = 4, **more: object) -> Reweighter:
    """Build a reweighter from :class:`ReweightingOptions`; the OptionError names each wrong option."""
    options = parse_section(ReweightingOptions, {"mode": mode, "num_types": num_types, **more}, "")
    return _CLASSES[options.mode](options)
