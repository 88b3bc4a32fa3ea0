"""Kernels: what the layers compute their maps with, equal to the plain formulas and faster.

Matrix products in float32 are MKL's; on an AMD processor with AVX-512 oneDNN's, as fast forward and faster in training
(the paper's size: 1.00 and 0.89 of the time; on an Intel one it was slower). Gates and channel attention have backward
passes of their own, which write each gradient into its place (0.6 to 0.9 of the time).

Every layer starts with W · x (1×1) and a 3×3 depth-wise convolution of the result, a map several times as wide as x
that exceeds the cache. On the CPU without gradients it is made in strips, whose two common rows are carried over: the
result is that of the whole map (48 channels at 256×256: 0.5 to 0.6 of the time).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


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

    On x86 without AVX-512 or AVX-VNNI-2 torch's products are plain loops: 19 times as slow as float32 at 128².
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
    """Whether a graph is captured, or a function transform or a counter of torch's own operators is at work."""
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
    return _onednn(x, weight) if x.dtype == torch.float32 and prefers_onednn() else F.linear(x, weight)


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
    """``F.linear`` without bias: ``(…, C)`` and ``(O, C)`` to ``(…, O)``; in float32 on the CPU differentiable once."""
    if not is_plain(x, weight):
        return F.linear(x, weight)
    return _Linear.apply(x, weight) if torch.is_grad_enabled() else _product(x, weight)


def times_image_matrix(x: Tensor, matrix: Tensor) -> Tensor:
    """Each image's pixels ``(N, P, C)`` times its own ``(N, C, C)``."""
    if is_plain(x, matrix) and len(x) == 1:  # in this order: a captured graph must not depend on the size
        return linear(x, matrix[0].t())
    return x @ matrix


LEAST_SQUARE = 1e-24
"""Lower bound of a channel's squared norm: a channel of zeros stays differentiable."""


def head_products(qk: Tensor, heads: int) -> Tensor:
    """qᵀ k of each head: ``(N, P, 2C)``, first q then k, to ``(N, heads, c, c)``."""
    q, k = qk.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return q.transpose(2, 3) @ k


def mixing_matrix(products: Tensor, squares: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """(W_o · A)ᵀ, ``(N, C, C)`` float32, with A the attention weights: what an image's v is multiplied with.

    ``products`` are qᵀ k of each head, ``(N, heads, c, c)`` float32, ``squares`` the squared norms of q's and then k's
    channels, ``(N, 2C)`` float32; ``temperature`` is ``(heads,)``, ``project`` W_o, ``(C, C)``.
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
        return times_image_matrix(v, mixing_matrix(products, squares, temperature, project))

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
        for n, image in enumerate(for_qk):
            torch.mm(gradient[n], mixing[n].detach().t(), out=for_v[n])
            q, k = qk[n].unflatten(-1, heads).permute(1, 2, 0, 3)
            for_q, for_k = image.unflatten(-1, heads).permute(1, 2, 0, 3)
            for i, matrix in enumerate(for_products[n]):
                for_q[i].addmm_(k[i], matrix.t())
                for_k[i].addmm_(q[i], matrix)
        return for_z, for_temperature, for_project


def attend(z: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """Attention across channels in float32 on the CPU: ``(N, P, 3C)`` to ``(N, P, C)``. Differentiable once.

    ``z`` is q, k and v side by side, each head by head; ``temperature`` is ``(heads,)``, ``project`` W_o, ``(C, C)``.
    """
    return _Attend.apply(z, temperature, project)


def depthwise_3x3(x: Tensor, weight: Tensor, padding: int = 1) -> Tensor:
    """Depth-wise 3×3 convolution of ``(N, H, W, C)`` by ``(C, 1, 3, 3)``; ``padding`` 0 shrinks each edge by 1."""
    weight = weight.flatten(1).unflatten(1, (1, 3, 3))  # its gradient is then contiguous as it is, as DDP asks
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, project: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, project, weights)
        return _product(_scaled(gate(z), weights), project)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        z, project, weights = ctx.saved_tensors
        product, for_product, for_weights = gate(z), _product(gradient, project.t()), None
        if weights is not None:
            shares = (product * for_product).unflatten(-1, (weights.shape[-1], -1)).sum(-1)
            for_weights = shares.sum_to_size(weights.shape)
            _scaled(for_product, weights)
            _scaled(product, weights)
        for_project = _weight_gradient(gradient.flatten(0, -2), product.flatten(0, -2))
        del product
        for_z = torch.empty_like(z)
        for half, other in zip(for_z.chunk(2, -1), reversed(z.chunk(2, -1)), strict=True):
            torch.mul(for_product, other, out=half)
        return for_z, for_project, for_weights


def _scaled(product: Tensor, weights: Tensor | None) -> Tensor:
    """``(…, h)``, of which each of E equal groups of channels is scaled in place by its own of ``(…, E)``."""
    if weights is not None:
        product.unflatten(-1, (weights.shape[-1], -1)).mul_(weights.to(product.dtype).unsqueeze(-1))
    return product


def gate(z: Tensor) -> Tensor:
    """The gate a ⊙ b of a and b, the halves of ``(…, 2h)``: ``(…, h)``."""
    return torch.mul(*z.chunk(2, -1))


def gated(z: Tensor, project: Tensor, weights: Tensor | None = None) -> Tensor:
    """W_out · (w ⊗ (a ⊙ b)) of z = [a; b]: ``(N, H, W, 2h)`` to ``(N, H, W, C)``.

    In float32 on the CPU only ``z`` is kept for the backward pass, which can be differentiated once only.

    ``project`` is W_out, ``(C, h)``. Each of E equal groups of the h channels is scaled by its own of ``weights``,
    ``(N, H, W, E)`` float32 or with H = W = 1; None for no scaling.
    """
    if is_plain(z, project):
        return _Gated.apply(z, project, weights)
    product = gate(z)
    if weights is not None:
        product = (product.unflatten(-1, (weights.shape[-1], -1)) * weights.to(z.dtype).unsqueeze(-1)).flatten(-2)
    return linear(product, project)


def computed_again(value: Tensor, compute: Callable[[], Tensor]) -> AbstractContextManager[object]:
    """A context in which autograd keeps ``compute`` instead of ``value``, which it gives again in the backward pass.

    Nothing changes without gradients, while somebody watches, and where others see to what is kept
    (``torch.utils.checkpoint``, ``save_on_cpu``).
    """
    others = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)  # no public name
    if not torch.is_grad_enabled() or is_watched() or others(False):
        return nullcontext()
    place, size, uses, again = value.data_ptr(), value.numel(), 0, None

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        nonlocal uses
        if tensor.data_ptr() != place or tensor.numel() != size or not tensor.is_contiguous():
            return tensor
        uses += 1
        return tensor.shape

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        nonlocal uses, again
        if isinstance(kept, Tensor):
            return kept
        if again is None:
            with torch.no_grad():
                again = compute()
        found, uses = again.view(kept), uses - 1
        again = again if uses > 0 else None
        return found

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


STRIP_BYTES = 4 * 2**20
"""Bytes of a strip: twice the second-level cache of two cores (3 to 9 MiB measured equal, 1 and 2 MiB slower)."""


Place = tuple[slice, slice]
"""Rows and columns of a map, with start and stop."""
Strip = tuple[Place, Tensor]
"""A part of a map: where, and its values ``(rows, columns, channels)``."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of ``x`` are computed in: autocast's type where it is on, else (and for float64) its own."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def wants_slow_bfloat16(x: Tensor) -> bool:
    """Whether autocast asks for bfloat16 with float32 ``x`` on a CPU without it, and nobody watches."""
    asked = x.device.type == "cpu" and x.dtype == torch.float32 and compute_dtype(x) == torch.bfloat16
    return asked and not is_watched() and not has_bfloat16()


def can_stream(x: Tensor) -> bool:
    """Whether strips may be used for ``(N, H, W, C)``: on the CPU, without gradients, while nobody watches."""
    known = compute_dtype(x) in (torch.float32, torch.bfloat16, torch.float64)
    return x.device.type == "cpu" and known and not torch.is_grad_enabled() and not is_watched()


def expanded_strips(
    x: Tensor,
    expand: Tensor,
    depthwise: Tensor,
    region: Place | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    strip_bytes: int | None = None,
) -> Iterator[Strip]:
    """Yield D(W · f(x)), strip by strip from the top down, of ``strip_bytes`` and at least two rows.

    ``x`` is one image's map ``(H, W, C)``; a strip's part may be changed after it. ``expand`` is W, ``(channels, C)``,
    of the dtype and on the device that are computed with, ``depthwise`` D, ``(channels, 1, 3, 3)``, with zero padding.
    Of a ``region`` (None: the whole) the neighbours' values are read. ``prepare`` is f, by pixel, for which x is taken
    row by row, each once (None: the identity).
    """
    inner_rows, inner_columns = region or (slice(0, x.shape[0]), slice(0, x.shape[1]))
    height, channels = inner_rows.stop - inner_rows.start, len(expand)
    left, right = max(inner_columns.start - 1, 0), min(inner_columns.stop + 1, x.shape[1])
    outside = int(inner_columns.start == 0), int(inner_columns.stop == x.shape[1])
    padding = int(all(outside))
    if padding:
        outside = 0, 0  # else columns of zeros are made there
    columns = right - left + sum(outside)
    fitting = max((strip_bytes or STRIP_BYTES) // (columns * channels * expand.element_size()), 2)
    rows = -(-height // -(-height // fitting))
    whole = expand.new_empty(1, rows + 2, columns, channels)  # with the batch axis: else its strides hide channels_last
    strip = whole[0]  # its row i holds the region's row top - 1 + i
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        start, stop = 2 if top else 0, bottom - top + 2
        if top:
            strip[:2] = strip[rows:]
        above = inner_rows.start + top - 1  # the map's row that the strip begins with
        first, last = max(above + start, 0), min(above + stop, x.shape[0])
        strip[start : first - above] = strip[last - above : stop] = 0
        pixels = x[first:last, left:right]
        if prepare:
            pixels = prepare(pixels)
        if any(outside):
            pixels = F.pad(pixels, (0, 0, *outside))
        torch.mm(pixels.flatten(0, 1), expand.t(), out=strip[first - above : last - above].flatten(0, 1))
        z = F.conv2d(whole[:, :stop].permute(0, 3, 1, 2), depthwise, padding=(0, padding), groups=channels)
        yield (slice(inner_rows.start + top, inner_rows.start + bottom), inner_columns), z[0].permute(1, 2, 0)


def gated_strips(strips: Iterable[Strip], weights: Mapping[Place, Tensor | None] | Tensor | None) -> Iterator[Strip]:
    """Yield w ⊗ (a ⊙ b) of strips ``(rows, columns, 2h)`` of [a; b].

    ``weights`` is w, ``(H, W, E)``, or what gives it for a place, after the strip was computed; see :func:`gated`.
    """
    for place, z in strips:
        yield place, _scaled(gate(z), None if weights is None else weights[place])


def attention_sums(
    strips: Iterable[Strip], heads: int, channels: int, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over pixels that channel attention needs: qᵀ k ``(heads, c, c)``, squared norms ``(2C,)``, both float32.

    The strips cover the map and hold q, k and, where ``v`` ``(H, W, C)`` is to be written, v: ``(rows, columns, 3C)``.
    """
    products = squares = 0.0
    for place, z in strips:
        if v is not None:
            v[place] = z[..., 2 * channels :]
        qk = z.flatten(0, 1)[:, : 2 * channels]
        qk = qk.float() if qk.dtype == torch.float16 else qk  # sums over many pixels would overflow
        q, k = qk.unflatten(-1, (2, heads, -1)).unbind(1)
        products = products + (q.permute(1, 2, 0) @ k.transpose(0, 1)).float()
        squares = squares + qk.square().sum(0, dtype=torch.float32)
    return products, squares


def stream_feed_forward(
    x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor, weights: Tensor | None = None
) -> Tensor:
    """W_out · (w ⊗ (a ⊙ b)), [a; b] = D(W_in · x), in strips: ``(N, H, W, C)``, normalised, to the same shape.

    ``expand`` is W_in, ``(2h, C)``, ``depthwise`` D, ``(2h, 1, 3, 3)``; ``project`` and ``weights`` are as for
    :func:`gated`.
    """
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, expand, depthwise, project = (t.to(dtype) for t in (x, expand, depthwise, project))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for n, image in enumerate(x):
            shares = None if weights is None else weights[n].expand(*image.shape[:2], -1)
            for (rows, _), product in gated_strips(expanded_strips(image, expand, depthwise), shares):
                torch.mm(product.flatten(0, 1), project.t(), out=out[n, rows].flatten(0, 1))
    return out


def stream_attention(x: Tensor, qkv: Tensor, depthwise: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`attention_sums` of ``(N, H, W, C)``, and v; ``qkv`` is ``(3C, C)``, ``depthwise`` ``(3C, 1, 3, 3)``."""
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, qkv, depthwise = (t.to(dtype) for t in (x, qkv, depthwise))
        v = torch.empty_like(x, memory_format=torch.contiguous_format)
        strips = [expanded_strips(image, qkv, depthwise) for image in x]
        sums = [attention_sums(each, heads, x.shape[-1], v[n]) for n, each in enumerate(strips)]
    products, squares = map(torch.stack, zip(*sums, strict=True))
    return products, squares, v
