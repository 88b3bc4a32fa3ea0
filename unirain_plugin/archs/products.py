"""Matrix products of pixels with a weight: x Wᵀ, by whichever library is faster on this processor.

In float32 torch calls MKL. On an AMD processor with AVX-512, oneDNN, which torch carries too, was measured faster at
the tall and narrow products of 1×1 convolutions: on one thread 1.03 to 1.5 times for x Wᵀ and 1.04 to 1.8 times for the
gradient of x, most at full resolution. For the gradient of W it was slower, so that stays as it is. On an Intel
processor it was up to 1.3 times slower. In bfloat16 torch uses oneDNN by itself where that has such products.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN's product is used: on AMD's processors with AVX-512, see above, if torch names the processor."""
    processor = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    with_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return with_avx512 and str(processor.get("cpu_name")).startswith("AMD") and has_onednn()


@cache
def has_onednn() -> bool:
    """Whether oneDNN's product can be called here. It is no public part of torch, so it is tried once."""
    try:
        with torch.inference_mode():
            found = _onednn(torch.ones(2, 3), torch.ones(4, 3))
    except Exception:  # whatever another version of torch raises; its own product serves as well
        return False
    return found.shape == (2, 4) and bool((found == 3).all())


@cache
def has_bfloat16() -> bool:
    """Whether bfloat16 is of use on this CPU; if not, a warning says so, once.

    On x86 without AVX-512 or AVX-VNNI-2 oneDNN has no such products, and torch's own are plain loops: at 128² the
    network took 19 times as long as in float32, a plain network of its size 43 times.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return True
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # no public part of torch
    if known is not None and known():
        return True
    warnings.warn("bfloat16: this processor has no instructions for it; float32 is used instead.", stacklevel=2)
    return False


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def is_watched() -> bool:
    """Whether a graph is captured, or a function transform or a counter of operations is at work.

    They shall see torch's own operators on whole maps, and a counter what the network's formulas ask for.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    told = (getattr(torch._C, name, int) for name in ("_len_torch_dispatch_stack", "_are_functorch_transforms_active"))
    return any(ask() for ask in told)  # no public names; a torch without them counts as unwatched


def is_plain(*tensors: Tensor) -> bool:
    """Whether these would now be computed with in float32 on the CPU, and nobody watches or rewrites operators."""
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
        return False
    if torch.is_autocast_enabled("cpu") or is_watched():
        return False
    return type(tensors[0]) in (Tensor, torch.nn.Parameter) and tensors[0].numel() > 0


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return _onednn(x, weight) if prefers_onednn() else F.linear(x, weight)


class _Linear(torch.autograd.Function):
    """x Wᵀ of ``(…, C)`` and ``(O, C)``."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return _product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = _product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        for_weight = _weight_gradient(gradient.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return for_x, for_weight


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gᵀ x of ``(P, O)`` and ``(P, C)``. The longer side first takes 0.8 of the time where C is several times O."""
    return gradient.t() @ x if gradient.shape[1] >= x.shape[1] else (x.t() @ gradient).t()


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``F.linear`` without bias: ``(…, C)`` and ``(O, C)`` to ``(…, O)``.

    In float32 on the CPU it can be differentiated once only.
    """
    if not is_plain(x, weight):
        return F.linear(x, weight)
    return _Linear.apply(x, weight) if torch.is_grad_enabled() else _product(x, weight)


def linear_into(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """Write x Wᵀ of ``(P, C)`` and ``(O, C)`` to ``out`` ``(P, O)``, without gradients."""
    if is_plain(x, weight) and prefers_onednn():  # which has no such form
        out.copy_(_onednn(x, weight))
    else:
        torch.mm(x, weight.t(), out=out)


def times_picture_matrix(x: Tensor, matrix: Tensor) -> Tensor:
    """Each picture's pixels ``(N, P, C)`` times its own ``(N, C, C)``."""
    if is_plain(x, matrix) and len(x) == 1:  # in this order: a captured graph must not depend on the size
        return linear(x, matrix[0].t())
    return x @ matrix
