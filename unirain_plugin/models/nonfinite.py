"""What happens when a loss or a gradient is not finite: skip, count, name the files, stop after too many in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from unirain_plugin.errors import TrainingError


class NonFiniteGuard:
    """Counts skipped iterations.

    Args:
        limit: Training stops after so many in a row.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.in_row = 0

    def passed(self) -> None:
        """Note an iteration whose step was taken."""
        self.in_row = 0

    def skipped(self, iteration: int, what: str, files: Sequence[str]) -> None:
        """Note and log an iteration whose step was not taken.

        Args:
            iteration: The current iteration.
            what: What was not finite, for the message.
            files: Descriptions of the batch's images, over all ranks.

        Raises:
            TrainingError: If this was the last of ``limit`` in a row.
        """
        self.total += 1
        self.in_row += 1
        batch = ", ".join(files) or "(the data set gives no file names)"
        get_root_logger().warning(
            f"Iteration {iteration}: {what} is not finite; the step is skipped "
            f"({self.in_row} in a row, {self.total} in all). Batch: {batch}"
        )
        if self.in_row >= self.limit:
            raise TrainingError(
                f"Training stopped at iteration {iteration}: loss or gradient were not finite {self.in_row} times in a "
                f"row (train: max_nonfinite: {self.limit}). The weights are those of the last good step. "
                f"Last batch: {batch}. Check these files; else lower the learning rate, set train: grad_clip, "
                "or use amp: off."
            )

    def state_dict(self) -> dict[str, int]:
        """The counters, for a checkpoint."""
        return {"total": self.total, "in_row": self.in_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take up counters that :meth:`state_dict` gave."""
        self.total, self.in_row = state["total"], state["in_row"]


def describe_batch(paths: Sequence[str], images: Mapping[str, Tensor | None]) -> list[str]:
    """File names of a batch, each with what is not finite about it.

    Args:
        paths: A path for each image; may be empty.
        images: Name (``lq``, ``gt``, ``output``) → (N, …) tensor; the first that is not finite is named.
    """
    remarks: dict[int, str] = {}
    for name, batch in images.items():
        if batch is None:
            continue
        bad = (~torch.isfinite(batch.detach()).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        for index in bad:
            remarks.setdefault(index, f" ({name} is not finite)")
    return [f"{path}{remarks.get(index, '')}" for index, path in enumerate(paths)]


def from_all_ranks(items: list[Any]) -> list[Any]:
    """Concatenate a list over ranks. Every rank must call it."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def running_statistics(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The buffers of batch normalisation with copies of their values, to undo what a skipped batch does to them.

    Empty for networks without it, such as UniRain.
    """
    norms = (module for module in network.modules() if isinstance(module, _NormBase))
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
