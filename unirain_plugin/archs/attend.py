"""What channel attention computes between its two 1×1 convolutions, with a backward pass written by hand.

q, k and v are thirds of one tensor. Left to autograd, each third's gradient is a tensor of its own, partly re-ordered
head by head, and all are put together again at the end. Here each is computed in its place: measured, forward and
backward take 0.6 to 0.9 of the time (most is gained at full resolution).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from unirain_plugin.archs.products import times_picture_matrix

LEAST_SQUARE = 1e-24
"""Lower bound of a channel's squared norm: a channel of zeros stays differentiable."""


def head_products(qk: Tensor, heads: int) -> Tensor:
    """qᵀ k of each head: ``(N, P, 2C)``, first q then k, to ``(N, heads, c, c)``."""
    q, k = qk.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return q.transpose(2, 3) @ k


def mixing_matrix(products: Tensor, squares: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """(W_o · A)ᵀ with A the attention weights: what a picture's v is multiplied with, from sums over its pixels.

    Args:
        products: qᵀ k of each head, ``(N, heads, c, c)`` float32.
        squares: Squared norms of q's and then k's channels, ``(N, 2C)`` float32.
        temperature: ``(heads,)``.
        project: W_o, ``(C, C)``.

    Returns:
        ``(N, C, C)`` float32.
    """
    heads = len(temperature)
    q_norm, k_norm = squares.clamp_min(LEAST_SQUARE).sqrt().unflatten(-1, (2, heads, -1)).unbind(1)
    cosines = products / (q_norm.unsqueeze(-1) * k_norm.unsqueeze(-2)).clamp_min(1e-12)
    attention = (cosines * temperature.view(-1, 1, 1)).softmax(-1)  # in float32
    project = project.unflatten(1, (heads, -1)).transpose(0, 1).to(attention.dtype)
    return (project @ attention).transpose(2, 3).flatten(1, 2)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
        qk, v = z.split((2 * len(project), len(project)), -1)
        products, squares = head_products(qk, len(temperature)), qk.square().sum(1)
        ctx.save_for_backward(z, products, squares, temperature, project)
        return times_picture_matrix(v, mixing_matrix(products, squares, temperature, project))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, *small = ctx.saved_tensors
        small = [t.detach().requires_grad_() for t in small]
        with torch.enable_grad():
            mixing = mixing_matrix(*small)
        qk, v = z.split((2 * mixing.shape[1], mixing.shape[1]), -1)
        for_products, for_squares, for_temperature, for_project = torch.autograd.grad(
            mixing, small, v.transpose(1, 2) @ gradient
        )
        for_z = torch.empty_like(z)
        for_qk, for_v = for_z.split((qk.shape[-1], v.shape[-1]), -1)
        torch.mul(qk, 2 * for_squares.unsqueeze(1), out=for_qk)
        heads = 2, len(small[2]), -1
        for n, picture in enumerate(for_qk):
            torch.mm(gradient[n], mixing[n].detach().t(), out=for_v[n])
            q, k = qk[n].unflatten(-1, heads).permute(1, 2, 0, 3)
            for_q, for_k = picture.unflatten(-1, heads).permute(1, 2, 0, 3)
            for i, matrix in enumerate(for_products[n]):
                for_q[i].addmm_(k[i], matrix.t())
                for_k[i].addmm_(q[i], matrix)
        return for_z, for_temperature, for_project


def attend(z: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """Attention across channels: v times the matrix that q and k give. Differentiable once.

    Args:
        z: q, k and v beside each other, each head by head, ``(N, P, 3C)`` float32 on the CPU.
        temperature: ``(heads,)``.
        project: W_o, ``(C, C)``.

    Returns:
        ``(N, P, C)``.
    """
    return _Attend.apply(z, temperature, project)
