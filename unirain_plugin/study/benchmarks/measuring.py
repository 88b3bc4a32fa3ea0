"""Time and memory of networks, measured so that ratios between them are fair.

All contestants take turns in one process, so that a disturbance meets each alike, and medians are taken. The process is
new and runs nothing else: what ran before leaves memory with the allocator, and a network that makes large temporaries
no longer pays for mapping fresh memory at each. Peak memory of a training step is the growth of the resident set in a
process of its own (on a GPU: of the allocator's peak).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from unirain_plugin.errors import UniRainError
from unirain_plugin.support.processes import process_pool

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """How a network is run.

    Attributes:
        label: Name in the table.
        bf16: Under bfloat16 autocast.
        channels_last: With input and weights in channels_last.
        compiled: Through ``torch.compile``.
        checkpointing: With recomputation in the backward pass (networks that offer ``use_checkpoint`` only).
    """

    label: str
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    checkpointing: bool = False


VARIANTS = {
    variant.label: variant
    for variant in (
        Variant("fp32"),
        Variant("bf16", bf16=True),
        Variant("checkpointing", checkpointing=True),
        Variant("channels_last", channels_last=True),
        Variant("bf16+channels_last", bf16=True, channels_last=True),
        Variant("compile", compiled=True),
        Variant("bf16+channels_last+compile", bf16=True, channels_last=True, compiled=True),
    )
}


Row = tuple[str, Variant]
"""What is measured: a network of :func:`candidates` and how it is run."""


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process with as many threads; its exceptions are raised here.

    Raises:
        UniRainError: If the process was killed, most often for lack of memory.
    """
    with process_pool(1, torch.set_num_threads, torch.get_num_threads()) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise UniRainError(
                "a measuring process was killed, perhaps for lack of memory: name fewer --networks or a smaller --size."
            ) from None


def build(builder: Callable[..., nn.Module], variant: Variant, device: str) -> nn.Module:
    """Build a network, with the same random weights every time, and prepare it for a variant."""
    torch.manual_seed(0)
    net = builder(use_checkpoint=True) if variant.checkpointing else builder()
    net = net.to(device)
    if variant.channels_last:
        net = net.to(memory_format=torch.channels_last)
    return torch.compile(net) if variant.compiled else net


def forward_pass(net: nn.Module, variant: Variant, lq: Tensor) -> Tensor:
    """One restoration without gradients."""
    net.eval()
    with torch.inference_mode(), torch.autocast(lq.device.type, torch.bfloat16, enabled=variant.bf16):
        return net(lq)


def training_step(net: nn.Module, variant: Variant, lq: Tensor) -> None:
    """Forward, L1 and auxiliary losses, backward; no optimiser, which is the same for all."""
    net.train()
    with torch.autocast(lq.device.type, torch.bfloat16, enabled=variant.bf16):
        loss = (net(lq) - lq).float().abs().mean()
        for extra in getattr(net, "auxiliary_losses", dict)().values():
            loss = loss + 0.01 * extra
    loss.backward()
    net.zero_grad(set_to_none=True)


def picture(size: int, variant: Variant, device: str) -> Tensor:
    """A random picture ``(1, 3, size, size)``."""
    lq = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return lq.to(memory_format=torch.channels_last) if variant.channels_last else lq


def interleaved(actions: Mapping[object, Callable[[], object]], rounds: int, device: str) -> dict[object, float]:
    """Median seconds of each action; they take turns, the first turn is not counted.

    Args:
        actions: What to time, by name.
        rounds: Counted turns.
        device: ``cpu``, or a GPU that is waited for after each action.
    """
    seconds: dict[object, list[float]] = {key: [] for key in actions}
    for number in range(rounds + 1):
        for key, action in actions.items():
            start = time.perf_counter()
            action()
            if device != "cpu":
                torch.cuda.synchronize()
            if number:
                seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def forward_seconds(rows: Sequence[Row], size: int, rounds: int, device: str) -> dict[Row, float]:
    """Median seconds of a forward pass of each row, see :func:`interleaved`."""
    return _seconds(forward_pass, rows, size, rounds, device)


def step_seconds(rows: Sequence[Row], size: int, rounds: int, device: str) -> dict[Row, float]:
    """Likewise of a training step."""
    return _seconds(training_step, rows, size, rounds, device)


def step_and_warm_seconds(
    rows: Sequence[Row], warm: Sequence[Row], step_size: int, warm_size: int, rounds: int, device: str
) -> tuple[dict[Row, float], dict[Row, float]]:
    """Median seconds of training steps, and then of forward passes of the rows ``warm`` in the same process."""
    steps = step_seconds(rows, step_size, rounds, device)
    return steps, forward_seconds(warm, warm_size, rounds, device)


def _seconds(
    action: Callable[[nn.Module, Variant, Tensor], object], rows: Sequence[Row], size: int, rounds: int, device: str
) -> dict[Row, float]:
    from unirain_plugin.study.benchmarks.candidates import candidates

    builders = candidates()
    nets = {row: build(builders[row[0]], row[1], device) for row in rows}
    actions = {
        row: lambda row=row, net=net: action(net, row[1], picture(size, row[1], device)) for row, net in nets.items()
    }
    return interleaved(actions, rounds, device)


def step_memory(name: str, variant: Variant, size: int, device: str) -> int | None:
    """Bytes by which a training step raises the peak; None where it cannot be told."""
    if device != "cpu":
        return apart(allocated_growth, name, variant, size, device)
    if not sys.platform.startswith("linux"):
        return None
    return apart(resident_growth, name, variant, size)


def resident_growth(name: str, variant: Variant, size: int) -> int:
    """By how many bytes a training step raises this process's peak resident set; for a process of its own."""
    from unirain_plugin.study.benchmarks.candidates import candidates

    net = build(candidates()[name], variant, "cpu")
    training_step(net, variant, picture(8, variant, "cpu"))  # libraries load their kernels before the measurement
    resident = _status("VmRSS")
    training_step(net, variant, picture(size, variant, "cpu"))
    return (_status("VmHWM") - resident) * 1024


def _status(key: str) -> int:
    """A figure of /proc/self/status in KiB. (``ru_maxrss`` begins with the peak of the parent process.)"""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))


def allocated_growth(name: str, variant: Variant, size: int, device: str) -> int:
    """Likewise of what is allocated on the GPU."""
    from unirain_plugin.study.benchmarks.candidates import candidates

    net = build(candidates()[name], variant, device)
    lq = picture(size, variant, device)
    training_step(net, variant, lq)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    training_step(net, variant, lq)
    return torch.cuda.max_memory_allocated() - before
