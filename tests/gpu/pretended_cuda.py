"""A CUDA device that computes on the CPU, so that code for a GPU runs, with true values, where there is none.

Tensors that are put on ``cuda`` say so, and as on a GPU do not mix with those of the CPU, are no arrays, and follow
CUDA's autocast. Kernels, streams, memory and several devices are not pretended, nor what a GPU rounds differently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
MIXING = {*INDEXING, aten._to_copy.default, aten.copy_.default}
"""What takes tensors of two devices; indices may lie on the CPU."""
LOWERED = {
    torch.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.mm, torch.addmm,
    torch.prelu,
}  # fmt: skip
WIDENED = {
    F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax, torch.logsumexp, Tensor.logsumexp,
    torch.sum, Tensor.sum, torch.exp, Tensor.exp, torch.log, Tensor.log, Tensor.pow, F.l1_loss, F.mse_loss,
}  # fmt: skip
"""What CUDA's autocast computes in the lower type and in float32, as far as it is used here."""


class OnGpu(Tensor):
    """A tensor that says it lies on ``cuda:0``; its values are those of ``host``, on the CPU.

    To C++ it says it has no values (``meta``): there is no driver that could be asked for the current device.
    """

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        with _disable_current_modes():
            meta = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device="meta")
        outer = Tensor._make_subclass(cls, meta, False)
        outer.host = host
        return outer

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __repr__(self, **kwargs) -> str:
        return f"OnGpu({self.host})"

    def tolist(self) -> list:
        return self.host.tolist()

    def numpy(self, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __reduce_ex__(self, protocol):
        return OnGpu, (self.host.detach(),)

    def __deepcopy__(self, memo):
        copied = OnGpu(self.host.detach().clone())
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied


def mapped(function: Callable, value: object) -> object:
    """A function's results for what tuples, lists and dictionaries hold (torch's ``tree_map`` is slow)."""
    if type(value) in (tuple, list):
        return type(value)([mapped(function, part) for part in value])
    if type(value) is dict:
        return {key: mapped(function, part) for key, part in value.items()}
    return function(value)


def compute(func: Callable, args: tuple, kwargs: dict) -> object:
    """Carry out an operator of torch on the host's tensors.

    Raises:
        RuntimeError: If tensors of both devices meet (single values may).
    """
    tensors = []
    mapped(lambda value: tensors.append(value) if isinstance(value, Tensor) else None, (args, kwargs))
    on_gpu = [value for value in tensors if isinstance(value, OnGpu)]
    elsewhere = [value for value in tensors if not isinstance(value, OnGpu) and value.dim()]
    wrong_way = func in INDEXING and not isinstance(args[0], OnGpu)
    if on_gpu and elsewhere and (func not in MIXING or wrong_way):
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cuda:0 and cpu.")
    named = kwargs.get("device")
    if func is aten.copy_.default:
        result_on_gpu = isinstance(args[0], OnGpu)
    else:  # C++ takes the device from a tensor, which says meta
        result_on_gpu = bool(on_gpu) if named is None else torch.device(named).type in ("cuda", "meta")

    def to_host(value: object) -> object:
        if isinstance(value, torch.device) and value.type in ("cuda", "meta"):
            return torch.device("cpu")
        return value.host if isinstance(value, OnGpu) else value

    known = {id(value.host): value for value in on_gpu}

    def from_host(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        same = known.get(id(value))  # changed in place
        assert same is None or same.shape == value.shape, f"{func} changes a shape in place"
        return (OnGpu(value) if result_on_gpu else value) if same is None else same

    args, kwargs = mapped(to_host, (args, {**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs))
    return mapped(from_host, func(*args, **kwargs))


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """``cuda`` is ``cuda:0``, as torch would ask the driver for the number; and autocast."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def prepared(value: object) -> object:
            if isinstance(value, OnGpu) and value.is_floating_point() and value.dtype != torch.float64:
                return value if dtype is None else value.to(dtype)
            return GPU if isinstance(value, (str, torch.device)) and str(value) == "cuda" else value

        dtype = None
        if torch.is_autocast_enabled("cuda") and func in LOWERED | WIDENED:
            dtype = torch.get_autocast_dtype("cuda") if func in LOWERED else torch.float32
        args, kwargs = mapped(prepared, (tuple(args), kwargs or {}))
        if func is Tensor.cuda:
            return args[0].to(GPU)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **{**kwargs, "device": "cpu"}).to(GPU)
        if func is Tensor.backward:  # checkpointing runs the network again in it
            with self:
                return torch.autograd.backward(args[0], kwargs.get("gradient"), kwargs.get("retain_graph"))
        return func(*args, **kwargs)


class _Stream:
    def __init__(self, *args) -> None: ...

    def wait_stream(self, other: _Stream) -> None: ...


REPLACED = {
    torch.cuda: {
        "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
        "device_count": lambda: 1, "current_device": lambda: 0, "set_device": lambda device: None,
        "get_device_name": lambda *device: "pretended", "is_bf16_supported": lambda *args: True,
        "synchronize": lambda *device: None, "empty_cache": lambda: None,
        "memory_allocated": lambda *device: 100, "max_memory_allocated": lambda *device: 300,
        "reset_peak_memory_stats": lambda *device: None, "mem_get_info": lambda *device: (2**33, 2**34),
        "manual_seed": lambda seed: None, "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda *device: torch.get_rng_state(), "set_rng_state": lambda state, *device: None,
        "Stream": _Stream, "current_stream": _Stream, "stream": lambda stream: contextlib.nullcontext(),
    },
    Tensor: {"record_stream": lambda self, stream: None, "pin_memory": lambda self, *device: self},
    torch.UntypedStorage: {"cuda": lambda self, *args, **kwargs: self},  # how the toolbox loads checkpoints
    torch.optim.Optimizer: {"_accelerator_graph_capture_health_check": lambda self: None},  # from torch 2.10 on
    torch: {"inference_mode": torch.no_grad},  # whose tensors cannot be made of others
}  # fmt: skip


@contextlib.contextmanager
def pretended_cuda() -> Iterator[None]:
    """Within the context, and its thread, there is a device ``cuda``."""
    convert = torch.__future__.set_overwrite_module_params_on_conversion  # else .to() keeps the kind of a parameter
    with contextlib.ExitStack() as stack:
        for owner, values in REPLACED.items():
            for name, value in values.items():
                stack.enter_context(mock.patch.object(owner, name, value, create=True))
        convert(True)
        stack.callback(convert, False)
        stack.enter_context(_Operators())
        stack.enter_context(_Functions())
        yield
