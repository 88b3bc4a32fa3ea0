"""Baselines that a researcher compares the reweighting with: equal, DWA, uncertainty, RLW and FAMO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unirain_plugin.losses.reweighting_base import Reweighter, blend_with_floor, softmax
from unirain_plugin.losses.reweighting_options import ReweightingOptions

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

    def _extra_state(self) -> dict[str, object]:
        return {"log_variances": self.log_variances.tolist()}

    def _load_extra_state(self, state: Mapping[str, object]) -> None:
        self.log_variances = np.array(state["log_variances"], dtype=np.float64)


class FastAdaptiveMultitaskOptimization(Reweighter):
    """FAMO (Liu, Feng, Stone, Liu: "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, algorithm 1).

    Logits ξ with z = softmax(ξ); after each update d_i = log ℓ_i(t−1) − log ℓ_i(t) says how much type i improved,
    δ = z ⊙ (d − z·d), ξ ← ξ − β (δ + γ ξ), and the losses are weighted by (z_i / ℓ_i) / Σ_j (z_j / ℓ_j). Losses at or
    below 0 have no logarithm and count as 1e-8, as in the authors' code. Plain steps of size β stand for their Adam
    (our choice: the algorithm as printed). A type not seen yet is given the mean loss of the others.
    """

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

    def _extra_state(self) -> dict[str, object]:
        return {"logits": self._logits.tolist(), "past": list(self._past)}

    def _load_extra_state(self, state: Mapping[str, object]) -> None:
        self._logits = np.array(state["logits"], dtype=np.float64)
        self._past = list(state["past"])
