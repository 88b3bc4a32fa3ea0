"""Time and memory of networks, measured so that ratios between them are fair.

All contestants take turns in one process, so that a disturbance meets each alike, and medians are taken. Forward
passes take theirs in a process that runs nothing else, as restoring pictures does: once a process has run training
steps, its allocator keeps the freed memory, and a network that makes large temporaries no longer pays for mapping
fresh memory at each. Peak memory of a training step is the growth of the resident set in a process of its own (on a
GPU: of the allocator's peak).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


def interleaved(
    actions: Mapping[object, Callable[[], object]], rounds: int, device: str, once: Collection[object] = ()
) -> dict[object, float]:
    """Median seconds of each action; they take turns, the first turn is not counted.

    Args:
        actions: What to time, by name.
        rounds: Counted turns.
        device: ``cpu``, or a GPU that is waited for after each action.
        once: Names of slow actions that are counted in one turn only.
    """
    seconds: dict[object, list[float]] = {key: [] for key in actions}
    for number in range(rounds + 1):
        for key, action in actions.items():
            if key in once and number > 1:
                continue
            start = time.perf_counter()
            action()
            if device != "cpu":
                torch.cuda.synchronize()
            if number:
                seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def forward_seconds(
    rows: Sequence[tuple[str, Variant]], size: int, rounds: int, device: str, once: Collection[tuple[str, Variant]] = ()
) -> dict[tuple[str, Variant], float]:
    """Median seconds of a forward pass of each row ``(network, variant)``, see :func:`interleaved`."""
    from unirain_plugin.benchmarks.candidates import candidates

    builders = candidates()
    nets = {row: build(builders[row[0]], row[1], device) for row in rows}
    actions = {
        row: lambda row=row, net=net: forward_pass(net, row[1], picture(size, row[1], device))
        for row, net in nets.items()
    }
    return interleaved(actions, rounds, device, once)


def forward_seconds_apart(
    rows: Sequence[tuple[str, Variant]], size: int, rounds: int, device: str, once: Collection[tuple[str, Variant]] = ()
) -> dict[tuple[str, Variant], float]:
    """:func:`forward_seconds` in a new process with as many threads, which runs forward passes only.

    Raises:
        RuntimeError: With the end of what the process wrote, if it failed.
    """
    task = {
        "rows": [(name, variant.label, (name, variant) in once) for name, variant in rows],
        "size": size, "rounds": rounds, "device": device, "threads": torch.get_num_threads(),
    }  # fmt: skip
    code = "from unirain_plugin.benchmarks.measuring import report_forwards as r; r()"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"The process that measures forward passes failed: {done.stderr.strip()[-800:]}")
    return dict(zip(rows, json.loads(done.stdout.splitlines()[-1]), strict=True))


def report_forwards() -> None:
    """In a process of its own: read a task from stdin, write the rows' seconds to stdout."""
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    rows = [(name, VARIANTS[label]) for name, label, _ in task["rows"]]
    once = [row for row, (_, _, single) in zip(rows, task["rows"], strict=True) if single]
    seconds = forward_seconds(rows, task["size"], task["rounds"], task["device"], once)
    sys.stdout.write(json.dumps([seconds[row] for row in rows]) + "\n")


def step_memory(name: str, variant: Variant, size: int, device: str) -> int | None:
    """Bytes by which a training step raises the peak; None where it cannot be told."""
    code = f"from unirain_plugin.benchmarks.measuring import report_memory as r; r({name!r}, {variant.label!r}, {size})"
    if device != "cpu":
        return _gpu_memory(name, variant, size, device)
    if not sys.platform.startswith("linux"):
        return None
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.split() else None


def report_memory(name: str, label: str, size: int) -> None:
    """In a process of its own: write to stdout by how many bytes a training step raises the peak resident set."""
    from unirain_plugin.benchmarks.candidates import candidates

    variant = VARIANTS[label]
    net = build(candidates()[name], variant, "cpu")
    training_step(net, variant, picture(8, variant, "cpu"))  # libraries load their kernels before the measurement
    resident = _status("VmRSS")
    training_step(net, variant, picture(size, variant, "cpu"))
    sys.stdout.write(f"{(_status('VmHWM') - resident) * 1024}\n")


def _status(key: str) -> int:
    """A figure of /proc/self/status in KiB. (``ru_maxrss`` begins with the peak of the parent process.)"""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))


def _gpu_memory(name: str, variant: Variant, size: int, device: str) -> int:
    from unirain_plugin.benchmarks.candidates import candidates

    net = build(candidates()[name], variant, device)
    lq = picture(size, variant, device)
    training_step(net, variant, lq)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    training_step(net, variant, lq)
    return torch.cuda.max_memory_allocated() - before
