"""One training iteration: micro-batches, mixed precision, the finite check common to all ranks, clipping, the step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unirain_plugin.models.nonfinite import NonFiniteGuard, describe_batch, from_all_ranks, running_statistics
from unirain_plugin.models.objective import Objective, learned_parameters
from unirain_plugin.models.settings import Stage, TrainingSettings

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """What a rank trains on in one iteration.

    Attributes:
        lq: (N, 3, H, W), rainy, RGB in [0, 1].
        gt: (N, 3, H, W), clean.
        rain_type: (N,) int64 labels, or None.
        paths: File names, for messages; may be empty.
    """

    lq: Tensor
    gt: Tensor
    rain_type: Tensor | None
    paths: Sequence[str] = ()

    def cut(self, stage: Stage | None) -> Batch:
        """The middle of the first samples, as a stage wants them; crops are random already, so no draw is needed."""
        if stage is None:
            return self
        first, size = slice(stage.batch_size), stage.gt_size
        top, left = ((edge - size) // 2 for edge in self.gt.shape[2:])
        lq, gt = (x[first, :, top : top + size, left : left + size] for x in (self.lq, self.gt))
        return Batch(lq, gt, None if self.rain_type is None else self.rain_type[first], self.paths[first])

    def split(self, parts: int) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        """Cut into at most ``parts`` micro-batches of (nearly) equal size."""
        parts = min(parts, len(self.lq))
        labels = [None] * parts if self.rain_type is None else self.rain_type.tensor_split(parts)
        return list(zip(self.lq.tensor_split(parts), self.gt.tensor_split(parts), labels, strict=True))


class TrainingStep:
    """Runs iterations.

    An iteration is one batch and one optimiser step, whatever ``accumulate`` is. The step itself waits for the device
    once and, in a distributed run, adds one collective to DDP's: a small vector that holds the finite flags and all
    logged losses together. (The loss adds its own: the counts and sums per rain type of every forward; the network
    one for its auxiliary losses; and learned loss parameters, where there are any, have their gradients averaged.)

    Args:
        network: The network as it is called (DDP or plain).
        objective: The loss.
        criterion: The pixel loss; its ``step`` and ``discard`` are called if it has them.
        optimizer: The optimiser of network and loss parameters.
        settings: The model's training settings.
        device: Where the network lives.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        criterion: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.network, self.objective, self.criterion = network, objective, criterion
        self.optimizer, self.settings, self.device = optimizer, settings, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.guard = NonFiniteGuard(settings.max_nonfinite)
        self.world_size = dist.get_world_size() if isinstance(network, DistributedDataParallel) else 1
        self._loss_parameters = learned_parameters(criterion)
        self.output: Tensor | None = None

    def run(self, batch: Batch, current_iter: int) -> tuple[dict[str, float], bool]:
        """Train on one batch.

        Args:
            batch: This rank's part of the global batch.
            current_iter: The iteration, counted from 1.

        Returns:
            The logged values (means over ranks), and whether the optimiser stepped.

        Raises:
            TrainingError: If too many iterations in a row were not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        statistics = running_statistics(self.network)
        total, terms = self._backward(batch)
        norm = self._finish_gradients()
        logs, loss_ok, gradient_ok = self._agree(total, terms, norm)
        if loss_ok and gradient_ok:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.guard.passed()
        else:
            for buffer, value in statistics:
                buffer.copy_(value)
            self._skip(batch, current_iter, logs, loss_ok)
        if hasattr(self.criterion, "step"):
            self.criterion.step(current_iter)
        if self.guard.total:
            logs["skipped"] = float(self.guard.total)
        return logs, loss_ok and gradient_ok

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which the network runs."""
        if self.settings.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.settings.amp])

    def _backward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum up the gradients of all micro-batches; ranks exchange them once, with the last one."""
        parts = batch.split(self.settings.accumulate)
        self.objective.begin_batch(batch.rain_type, len(parts))
        totals, sums, outputs = [], {}, []
        for index, (lq, gt, rain_type) in enumerate(parts):
            waits = self.world_size > 1 and index < len(parts) - 1
            with self.network.no_sync() if waits else contextlib.nullcontext():
                with self.autocast():
                    output = self.network(lq)
                loss, terms = self.objective(output.float(), gt, rain_type, len(lq) / len(batch.lq))
                self.scaler.scale(loss).backward()
            totals.append(loss.detach())
            outputs.append(output.detach())
            sums = {name: sums[name] + term if name in sums else term for name, term in terms.items()}
        self.output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return torch.stack(totals).sum(), sums

    def _finish_gradients(self) -> Tensor:
        """Average the loss's own gradients over ranks, undo the scaling, clip. Returns the norm before clipping."""
        for parameter in self._loss_parameters if self.world_size > 1 else ():  # DDP does the network's
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world_size
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.settings.grad_clip is not None:
            return torch.nn.utils.clip_grad_norm_(parameters, self.settings.grad_clip)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.grad for p in parameters])))

    def _agree(self, total: Tensor, terms: dict[str, Tensor], norm: Tensor) -> tuple[dict[str, float], bool, bool]:
        """Mean of the logged values over ranks, and the decision, the same on every rank, whether all is finite."""
        flags = [(~torch.isfinite(total)).float(), (~torch.isfinite(norm)).float()]
        values = torch.stack([*flags, norm.float(), *terms.values()])
        if self.world_size > 1:
            dist.all_reduce(values)
        bad_loss, bad_gradient, *rest = values.tolist()
        names = ("grad_norm", *terms)
        # the norm goes last: the losses are what one looks for in a line of the log
        logs = {name: value / self.world_size for name, value in zip(names, rest, strict=True)}
        logs["grad_norm"] = logs.pop("grad_norm")
        return logs, bad_loss == 0, bad_gradient == 0

    def _skip(self, batch: Batch, current_iter: int, logs: dict[str, float], loss_ok: bool) -> None:
        scale = self.scaler.get_scale()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if hasattr(self.criterion, "discard"):
            self.criterion.discard()
        if loss_ok and self.scaler.is_enabled() and scale > 1:
            logs["loss_scale"] = self.scaler.get_scale()
            return  # the scaler is looking for its scale, as it does in the first iterations of every fp16 run
        images = {"lq": batch.lq, "gt": batch.gt, "output": self.output}
        files = describe_batch(batch.paths, images)
        files = from_all_ranks(files) if self.world_size > 1 else files
        bad = [name for name, value in logs.items() if name.startswith("l_") and not math.isfinite(value)]
        what = f"the loss ({', '.join(bad)})" if bad else "the loss" if not loss_ok else "the gradient"
        self.guard.skipped(current_iter, what, files)
