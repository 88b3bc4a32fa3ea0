"""One training iteration: the loss, micro-batches, mixed precision, the finite check common to all ranks, the step."""

import contextlib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from unirain_plugin.errors import OptionError, TrainingError, did_you_mean
from unirain_plugin.models.settings import AUX_WEIGHTS, Stage, TrainingSettings
from unirain_plugin.support.packages import own_code
from unirain_plugin.support.tiling import checked_output


def learned_parameters(loss: nn.Module | None) -> list[nn.Parameter]:
    """What a loss names as to be trained along; not its networks, which judge and would learn to be content."""
    return getattr(loss, "learned_parameters", list)()


def loss_state(loss: nn.Module) -> dict[str, Any]:
    """A loss's ``state_dict()`` without the parameters that nobody trains: the option file names them."""
    learned = {id(parameter) for parameter in learned_parameters(loss)}
    fixed = {name for name, parameter in loss.named_parameters() if id(parameter) not in learned}
    return {name: value for name, value in loss.state_dict().items() if name not in fixed}


class Objective:
    """Sums up the terms of the loss for one micro-batch: those of ``pixel_opt`` and ``perceptual_opt``, or None.

    Auxiliary losses of ``network`` (without wrappers; None: none) are read after each forward.
    """

    def __init__(
        self, network: nn.Module | None, pixel: Any, perceptual: Any, aux_weights: Mapping[str, float]
    ) -> None:
        self._network, self.pixel, self._perceptual = network, pixel, perceptual
        self._aux_weights = aux_weights
        self._takes_labels = pixel is not None and "rain_type" in inspect.signature(pixel.forward).parameters
        self._checked = False
        self._whole_batch = False

    def begin_batch(self, rain_type: Tensor | None, parts: int) -> None:
        """Announce a batch that will be cut into ``parts`` micro-batches.

        A loss that is no plain mean over samples (ours: a mean per type) needs the labels of the whole batch to give
        each its share; stock losses are weighted by the number of samples instead.
        """
        begin = getattr(self.pixel, "begin_batch", None)
        self._whole_batch = parts > 1 and self._takes_labels and rain_type is not None and begin is not None
        if self._whole_batch:
            begin(rain_type)

    def __call__(
        self, output: Tensor, target: Tensor, rain_type: Tensor | None, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the share of a micro-batch in the loss of its batch.

        Output and target are (n, 3, H, W) float32, labels (n,) int64 or None; ``share`` is n divided by the batch's
        size. Returns the sum of all terms, and the detached terms by their names in the log.
        """
        terms: dict[str, Tensor] = {}
        if self.pixel is not None:
            labels = {"rain_type": rain_type} if self._takes_labels and rain_type is not None else {}
            is_share = self._whole_batch or getattr(self.pixel, "reduction", "mean") == "sum"
            terms["l_pix"] = self.pixel(output, target, **labels) * (1.0 if is_share else share)
        if self._perceptual is not None:
            for name, value in zip(("l_percep", "l_style"), self._perceptual(output, target), strict=True):
                if value is not None:
                    terms[name] = value * share
        auxiliary = getattr(self._network, "auxiliary_losses", dict)()
        if not self._checked:
            self._check_names(auxiliary)
        for name, value in auxiliary.items():
            terms[f"l_aux_{name}"] = value * (self._aux_weights.get(name, 0.0) * share)
        total = torch.stack([term.float().reshape(()) for term in terms.values()]).sum()
        return total, {name: term.detach().float().reshape(()) for name, term in terms.items()}

    def _check_names(self, losses: Mapping[str, Tensor]) -> None:
        """Once, after the first forward: only then does the network tell which auxiliary losses it has."""
        self._checked = True
        for name in self._aux_weights:
            if name not in losses and name not in AUX_WEIGHTS:
                text = f"no auxiliary loss '{name}' (it has: {', '.join(losses) or 'none'})."
                raise OptionError(f"train: aux_weights: the network has {text}{did_you_mean(name, losses)}")
        for name in losses:
            if name not in self._aux_weights:
                text = f"train: aux_weights names no weight for '{name}': it is logged as 0 and not trained on."
                get_root_logger().warning(text)


@dataclass
class NonFiniteGuard:
    """Counts skipped iterations: training stops after ``limit`` in a row."""

    limit: int
    total: int = 0
    in_row: int = 0

    def skipped(self, iteration: int, what: str, files: Sequence[str]) -> None:
        """Note an iteration without a step: ``what`` was not finite on ``files``. TrainingError at the limit."""
        self.total += 1
        self.in_row += 1
        batch = ", ".join(files) or "(the data set gives no file names)"
        counts = f"({self.in_row} in a row, {self.total} in all)"
        text = f"Iteration {iteration}: {what} is not finite; the step is skipped {counts}. Batch: {batch}"
        get_root_logger().warning(text)
        if self.in_row >= self.limit:
            raise TrainingError(
                f"Training stopped at iteration {iteration}: loss or gradient were not finite {self.in_row} times in a "
                f"row (train: max_nonfinite: {self.limit}). The weights are those of the last good step. "
                f"Last batch: {batch}. Check these files; else lower the learning rate, set train: grad_clip, "
                "or use amp: off."
            )

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_row": self.in_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.total, self.in_row = state["total"], state["in_row"]


def describe_batch(paths: Sequence[str], images: Mapping[str, Tensor | None]) -> list[str]:
    """File names of a batch, each with the first of ``images`` (``lq`` → (N, …) tensor, …) that is not finite."""
    remarks: dict[int, str] = {}
    for name, batch in images.items():
        finite = [] if batch is None else torch.isfinite(batch.detach()).flatten(1).all(dim=1).tolist()
        for index in (index for index, fine in enumerate(finite) if not fine):
            remarks.setdefault(index, f" ({name} is not finite)")
    return [f"{path}{remarks.get(index, '')}" for index, path in enumerate(paths)]


def from_all_ranks(items: list[Any]) -> list[Any]:
    """Concatenate a list over ranks. Every rank must call it."""
    _, ranks = get_dist_info()
    if ranks == 1:
        return items
    parts: list[Any] = [None] * ranks
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``average`` towards ``network``: a ← decay · a + (1 − decay) · n, in one fused call per dtype.

    Unlike in the toolbox, floating-point buffers are averaged as well, others copied. Neither network has wrappers.
    """
    targets, sources = [], []
    for (name, target), source in zip(average.state_dict().items(), network.state_dict().values(), strict=True):
        if not isinstance(target, torch.Tensor):
            continue  # a module's extra state
        if target.shape != source.shape:
            shapes = f"{tuple(target.shape)} in the average, {tuple(source.shape)} in the network"
            raise ValueError(f"EMA: {name} is {shapes}.")
        if target.is_floating_point():
            targets.append(target)
            sources.append(source)
        else:
            target.copy_(source)
    torch._foreach_mul_(targets, decay)
    torch._foreach_add_(targets, sources, alpha=1 - decay)


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """What a rank trains on in one iteration."""

    lq: Tensor  # (N, 3, H, W), rainy, RGB in [0, 1]
    gt: Tensor  # (N, 3, H, W), clean
    rain_type: Tensor | None  # (N,) int64 labels, or None
    paths: Sequence[str] = ()  # file names, for messages; may be empty

    def cut(self, stage: Stage | None, seed: Sequence[int], devices: int = 1) -> "Batch":
        """A part of the first samples at one random place, as a stage wants them; ``seed`` decides on the place.

        The batch is of so many ``devices``.
        """
        if stage is None:
            return self
        first, size = slice(stage.batch_size * devices), stage.gt_size
        top, left = np.random.default_rng(seed).integers(np.subtract(self.gt.shape[2:], size), endpoint=True)
        lq, gt = (x[first, :, top : top + size, left : left + size] for x in (self.lq, self.gt))
        return Batch(lq, gt, None if self.rain_type is None else self.rain_type[first], self.paths[first])

    def split(self, parts: int) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        """Cut into at most ``parts`` micro-batches of (nearly) equal size."""
        parts = min(parts, len(self.lq))
        labels = [None] * parts if self.rain_type is None else self.rain_type.tensor_split(parts)
        return list(zip(self.lq.tensor_split(parts), self.gt.tensor_split(parts), labels, strict=True))


class TrainingStep:
    """Runs iterations: one batch and one optimiser step each, whatever ``accumulate`` is.

    A step waits for the device once and, in a distributed run, adds one collective to DDP's: a small vector with the
    finite flags and all logged losses. (The loss adds its own: counts and sums per rain type of every forward; the
    network one for its auxiliary losses; learned loss parameters have their gradients averaged.)

    ``network`` is as it is called (DDP or plain); the pixel loss's ``step`` and ``discard`` are called if it has them.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.network, self.objective, self.criterion = network, objective, objective.pixel
        self.optimizer, self.settings, self.device = optimizer, settings, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.guard = NonFiniteGuard(settings.max_nonfinite)
        self.world_size = dist.get_world_size() if isinstance(network, DistributedDataParallel) else 1
        self._loss_parameters = learned_parameters(self.criterion)
        self.output: Tensor | None = None

    def run(self, batch: Batch, current_iter: int) -> tuple[dict[str, float], bool]:
        """Train on this rank's part of the batch of an iteration, counted from 1.

        Returns the logged values (means over ranks), and whether the optimiser stepped. TrainingError: too many were
        not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        norms = (module for module in self.network.modules() if isinstance(module, _NormBase))
        statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        with own_code("a part of your own", f"the batch {', '.join(batch.paths)}", TrainingError):
            total, terms = self._backward(batch)
        norm = self._finish_gradients()
        logs, loss_ok, gradient_ok = self._agree(total, terms, norm)
        if loss_ok and gradient_ok:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.guard.in_row = 0
        else:
            for buffer, value in statistics:  # of batch normalisation: undo what the skipped batch did to them
                buffer.copy_(value)
            self._skip(batch, current_iter, logs, loss_ok)
        if hasattr(self.criterion, "step"):
            self.criterion.step(current_iter)
        if self.guard.total:
            logs["skipped"] = float(self.guard.total)
        return logs, loss_ok and gradient_ok

    def autocast(self) -> torch.autocast:
        """The context in which the network runs."""
        amp = self.settings.amp
        return torch.autocast(self.device.type, _AUTOCAST.get(amp), enabled=amp != "off")

    def _backward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum up the gradients of all micro-batches; ranks exchange them once, with the last one."""
        parts = batch.split(self.settings.accumulate)
        self.objective.begin_batch(batch.rain_type, len(parts))
        totals, sums, outputs = [], {}, []
        for index, (lq, gt, rain_type) in enumerate(parts):
            waits = self.world_size > 1 and index < len(parts) - 1
            with self.network.no_sync() if waits else contextlib.nullcontext():
                with self.autocast():
                    output = checked_output(self.network(lq))
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
        files = from_all_ranks(describe_batch(batch.paths, images))
        bad = [name for name, value in logs.items() if name.startswith("l_") and not math.isfinite(value)]
        what = f"the loss ({', '.join(bad)})" if bad else "the loss" if not loss_ok else "the gradient"
        self.guard.skipped(current_iter, what, files)
