"""What a network costs: parameters, multiply-adds, time and memory of one restoration, the same for every network."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unirain_plugin.inference.restoring import RestoreOptions, restore_tensor
from unirain_plugin.metrics.complexity import complexity

if TYPE_CHECKING:
    from unirain_plugin.metrics.complexity import Complexity

CONVENTION = (
    "Multiply-adds are those of convolutions and matrix products of one forward pass (papers often call this number "
    "FLOPs; it is half of the floating-point operations); normalisations, activations and sums are left out, experts "
    "that do not run are not counted."
)

_SMALL = 16


def picture(size: int) -> Tensor:
    """The same random picture ``(1, 3, size, size)`` in [0, 1] for every network."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def seconds(net: nn.Module, size: int, options: RestoreOptions) -> float:
    """Seconds of one restoration."""
    lq = picture(size)
    device = _device(net)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    restore_tensor(net, lq, options)  # brings the result to the host, so the device has finished
    return time.perf_counter() - start


def peak_memory(net: nn.Module, size: int, options: RestoreOptions) -> int | None:
    """Bytes by which one restoration raises the memory of this process (CUDA: of torch's allocator) at its peak.

    To be called first in a fresh process: memory that was used before and is kept for later use does not count.

    Returns:
        The bytes, or None where the system does not tell (not Linux, no CUDA).
    """
    device = _device(net)
    restore_tensor(net, picture(_SMALL), options)  # libraries load their kernels before the measurement
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        restore_tensor(net, picture(size), options)
        return torch.cuda.max_memory_allocated(device) - before
    if not sys.platform.startswith("linux") or device.type != "cpu":
        return None
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _resident("VmRSS")
    restore_tensor(net, picture(size), options)
    return max(_resident("VmHWM") - before, 0)


def count(net: nn.Module, size: int) -> Complexity:
    """Parameters and multiply-adds at ``size`` × ``size``."""
    return complexity(net, (size, size))


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))
