"""What a network costs: parameters and multiply-adds, counted with ``mmengine.analysis``; time and memory, measured."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

CONVENTION = (
    "Multiply-adds are those of convolutions and matrix products of one forward pass (papers often call this number "
    "FLOPs; it is half of the floating-point operations); normalisations, activations and sums are left out, experts "
    "that do not run are not counted."
)

_COUNTED = ("conv", "linear", "matmul", "einsum", "bmm", "mm", "addmm", "baddbmm")
_SMALL = 16


@dataclass(frozen=True)
class Complexity:
    """Number of weights of a network, and multiply-adds of one forward pass, counted as :data:`CONVENTION` says."""

    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} M parameters, {self.multiply_adds / 1e9:.2f} G multiply-adds"


def complexity(network: nn.Module, size: tuple[int, int] = (256, 256), channels: int = 3) -> Complexity:
    """Count on one image of ``size`` (height, width); any network of images, which is left in the mode it was in."""
    from mmengine.analysis import FlopAnalyzer

    image = random_image(size, channels)
    first = next(iter(network.parameters()), image)
    was_training = network.training
    network.eval()
    logger = logging.getLogger("mmengine")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        analyzer = FlopAnalyzer(network, (image.to(first),))
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        # Nothing is kept for a gradient: SwinIR at 256² would need more than 24 GB. Gradients stay enabled, as networks
        # may take shortcuts without them whose operators cannot be traced.
        with saved_tensors_hooks(lambda _: None, lambda _: None):
            counts = analyzer.by_operator()
    finally:
        logger.setLevel(level)
        network.train(was_training)
    macs = sum(count for name, count in counts.items() if name in _COUNTED)
    return Complexity(sum(p.numel() for p in network.parameters()), int(macs))


def random_image(size: tuple[int, int], channels: int = 3) -> Tensor:
    """The same random image ``(1, channels, *size)`` in [0, 1] for every network."""
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))


def seconds(restore: Callable[[Tensor], Tensor], size: int, device: torch.device) -> float:
    """Seconds of one restoration of a square image; ``restore`` maps ``(1, 3, H, W)`` to a result on the host."""
    lq = random_image((size, size))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    restore(lq)
    return time.perf_counter() - start


def peak_memory(restore: Callable[[Tensor], Tensor], size: int, device: torch.device) -> int | None:
    """Bytes by which one restoration raises the memory of this process (CUDA: of torch's allocator) at its peak.

    To be called first in a fresh process: memory kept from earlier does not count. None where the system does not tell.
    """
    restore(random_image((_SMALL, _SMALL)))  # libraries load their kernels before the measurement
    return peak_growth(lambda: restore(random_image((size, size))), device)


def peak_growth(action: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which an action raises the peak of this process's resident set (CUDA: of the allocator) above what it
    holds before; None where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    if not sys.platform.startswith("linux") or device.type != "cpu":
        return None
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _resident("VmRSS")
    action()
    return max(_resident("VmHWM") - before, 0)


def _resident(key: str) -> int:
    """A figure of /proc/self/status in bytes. (``ru_maxrss`` begins with the peak of the parent process.)"""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
