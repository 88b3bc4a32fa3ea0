"""The Muon optimiser for restoration networks: their weights are matrices, convolutions and stacks of experts."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_SMALLEST = 8  # rows and columns of a matrix; it leaves the first and last convolution and routers to AdamW
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic


class Muon(torch.optim.AdamW):
    """Muon for the weights that mix channels, AdamW for all others.

    Of a weight's averaged gradient Muon takes the nearest matrix with orthonormal rows or columns as the step, so
    that every direction of the weight learns at the same rate. A matrix is a weight of shape ``(out, in)``, each
    slice of ``(experts, out, in)``, and ``(out, in * kh * kw)`` of a convolution. Biases, norms, depthwise
    convolutions and weights with less than 8 rows or columns (as a network's first and last convolution) get AdamW's
    steps. Muon's steps are scaled to the size of AdamW's, so one ``lr`` and one ``weight_decay`` serve both. An expert
    whose gradient is zero, as it did not run, stays as it is: its average has a direction, whose size does not count,
    and would carry it on at full length for hundreds of steps (our choice). torch's own ``Muon`` takes two-dimensional
    weights only.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scale is that of
    J. Liu et al., "Muon is scalable for LLM training", 2025.

    Args:
        params: Parameters, or groups of them with options of their own.
        lr: Learning rate of both.
        betas: Decays of AdamW's averages.
        eps: Added to AdamW's denominators.
        weight_decay: Of both; each step takes ``lr * weight_decay`` of a weight away.
        momentum: Decay of the averaged gradient of matrices, 0 to 1 (1 excluded).

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        momentum: float = 0.95,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"Invalid momentum value: {momentum}")
        groups = list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        groups = [{"momentum": momentum, **group} for group in groups]
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.defaults["momentum"] = momentum

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its matrices become a group of their own."""
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        matrices = [p for p in params if _is_matrix(p)]
        others = [p for p in params if not _is_matrix(p)]
        if others or not matrices:
            super().add_param_group({**param_group, "params": others, "momentum": None})
        if matrices:
            momentum = param_group.get("momentum", self.defaults.get("momentum"))
            super().add_param_group({**param_group, "params": matrices, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if group["momentum"] is None]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["momentum"] is not None:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))  # AdamW expects a step
            state["step"] += 1
            whole = (-2, -1) if weight.ndim == 3 else tuple(range(weight.ndim))
            ran = (weight.grad != 0).any(whole, keepdim=True).to(weight.dtype)  # 0 for an expert that did not
            average = state["momentum_buffer"].lerp_(weight.grad, (1 - momentum) * ran)
            matrices = weight.grad.lerp(average, momentum)  # Nesterov's
            matrices = matrices if weight.ndim == 3 else matrices.flatten(1)
            scale = 0.2 * math.sqrt(max(matrices.shape[-2:]))  # AdamW's steps have a root mean square of 0.2 to 0.4
            weight.mul_(1 - lr * group["weight_decay"] * ran)
            weight.sub_(orthogonalize(matrices).reshape(weight.shape).to(weight.dtype) * ran, alpha=lr * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Give nearly the nearest matrix with orthonormal rows or columns, by five Newton-Schulz steps.

    Args:
        matrices: ``(..., rows, columns)``.

    Returns:
        Float32, the same shape: the same singular vectors. Singular values of at least 0.0015 of the matrix's norm
        become 0.68 to 1.21, smaller ones less. Zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices.float() if wide else matrices.float().mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-20)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim in (2, 3, 4) and min(weight.shape[-2:] if weight.ndim == 3 else weight.shape[:2]) >= _SMALLEST
