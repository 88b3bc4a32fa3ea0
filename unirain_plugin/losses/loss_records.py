"""Per-type sums and counts of losses, global over all ranks, without waiting for the GPU in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributed as dist


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
    """Sums and counts of the per-sample losses of K types, for the running step and the running interval.

    Everything is summed over the ranks as it is added, so all ranks hold the same numbers and one rank's state is
    everybody's. Losses that are not finite are left out.
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
        """Plain lists; float64 numbers survive them exactly."""
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
