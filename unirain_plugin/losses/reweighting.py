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

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from unirain_plugin.losses.reweighter import (
    MODES,
    Reweighter,
    ReweightingOptions,
    blend_with_floor,
    softmax,
)
from unirain_plugin.support.spec import parse_section

__all__ = ["MODES", "Reweighter", "ReweightingOptions", "build_reweighter"]

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

    ω = softmax of K standard normal numbers, drawn anew in every update (set ``update_freq: 1`` for the paper's draw
    in every iteration). The generator is seeded with (seed, t), so the count of updates is its whole state and
    neither resuming nor other users of random numbers change the sequence.
    """

    def _compute(self, present: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng((self.options.seed, self.updates))
        return softmax(generator.standard_normal(len(present)))


class UncertaintyReweighter(Reweighter):
    """Learned log-variances (Kendall, Gal, Cipolla: "Multi-Task Learning Using Uncertainty …", CVPR 2018).

    With s_i the logarithm of a type's noise scale, Σ_i exp(−s_i) ℓ_i + s_i is minimised over s; the type's weight is
    exp(−s_i), here divided by the sum over i. (ℓ is a mean absolute error: the likelihood is Laplace's, which has no
    factors ½.) In training s are parameters of the loss, moved by the optimiser, and only handed in by
    :meth:`set_log_variances`; :meth:`update` alone takes a plain gradient step of size ``lr``, for use without one.
    """

    _kept = ("log_variances",)
    _limit = 20.0  # exp(±20): far outside anything sensible, far inside float64

    def __init__(self, options: ReweightingOptions) -> None:
        super().__init__(options)
        self.log_variances = np.zeros(options.num_types)

    def set_log_variances(self, values: Sequence[float]) -> np.ndarray:
        """Take over s (K finite numbers) from the optimiser and return the weights."""
        self.log_variances = np.clip(np.array(values, dtype=np.float64), -self._limit, self._limit)
        self._weights = self._apply_floor(softmax(-self.log_variances))
        return self.weights

    def _compute(self, present: np.ndarray) -> np.ndarray:
        losses = np.array([0.0 if value is None else value for value in self._smoothed])
        gradient = np.clip(1.0 - np.exp(-self.log_variances) * losses, -10.0, 10.0)
        moved = self.log_variances - self.options.lr * np.where(present, gradient, 0.0)
        self.log_variances = np.clip(moved, -self._limit, self._limit)
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
        if present.any():
            for i in np.flatnonzero(present):
                self._slope_history[i].append(float(self._slopes[i]))
                del self._slope_history[i][: -self.options.window]
            self._worst.append(float(self._slopes[present].max()))
        tbs, tss, af = self._type_balance(), self._type_stability(), self._adaptivity()
        self._scores = {"tbs": tbs.tolist(), "tss": tss.tolist(), "af": af}
        return self._combine(af * tbs + (1.0 - af) * tss)

    def _combine(self, mixture: np.ndarray) -> np.ndarray:
        return mixture

    def _type_balance(self) -> np.ndarray:
        """TBS: more weight for what converges slowly."""
        return softmax(len(self._slopes) * _share(self._slopes, np.abs(self._slopes).sum()))

    def _type_stability(self) -> np.ndarray:
        """TSS: less weight for what diverges, measured by each type's own recent slopes."""
        counts = np.array([len(series) for series in self._slope_history], dtype=np.float64)
        sums = np.array([np.abs(series).sum() for series in self._slope_history])
        return softmax(-counts * _share(self._slopes, sums))

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
    """Slopes / total, 0 where total is 0."""
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
    """Build a reweighter: ``update(losses) -> weights``, ``weights``, ``diagnostics()``, ``state_dict()``, ….

    Args:
        mode: One of :data:`MODES`.
        num_types: K, the number of rain types.
        **more: ``window``, ``tau``, ``warmup``, ``floor``, ``ema``, …: see :class:`ReweightingOptions`.

    Raises:
        OptionError: For each unknown name (the nearest valid one is named), wrong type and value out of range.
    """
    options = parse_section(ReweightingOptions, {"mode": mode, "num_types": num_types, **more}, "")
    return _CLASSES[options.mode](options)
