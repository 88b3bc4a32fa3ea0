"""``benchmark arch``: size, cost, time and memory of the networks, as ratios to a Restormer-size dense one.

All contestants take turns in one process, so that a disturbance meets each alike, and medians are taken. The process is
new and runs nothing else: what ran before leaves memory with the allocator, and a network that makes large temporaries
no longer pays for mapping fresh memory at each. So the baseline and the full size are measured again, warm, in the
process that has run the training steps.

The presets, their ablations and other networks are measured in groups, each in new processes and each with a baseline
among them, so that no row depends on the other groups. Peak memory of a training step is the growth of the resident set
in a process of its own (on a GPU: of the allocator's peak).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unirain_plugin.archs.kernels import has_bfloat16
from unirain_plugin.archs.mixtures import HardMoE
from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.archs.presets import ABLATIONS, PRESETS, preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.compare.report import markdown_table
from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.metrics.complexity import complexity, peak_growth
from unirain_plugin.study.benchmarks.cli import expect_known, interleaved, tell, threads
from unirain_plugin.study.benchmarks.reference_net import TextbookNet
from unirain_plugin.support.files import write_json
from unirain_plugin.support.processes import process_pool

BASELINE = "textbook"
_tell = partial(tell, "arch")


def _swinir() -> nn.Module:
    from basicsr.archs.swinir_arch import SwinIR

    return SwinIR(
        upscale=1, img_size=128, window_size=8, img_range=1.0, depths=[6] * 6, embed_dim=180, num_heads=[6] * 6,
        mlp_ratio=2, upsampler="", resi_connection="1conv",
    )  # fmt: skip


def _rcan() -> nn.Module:
    from basicsr.archs.rcan_arch import RCAN

    return RCAN(3, 3, num_feat=64, num_group=10, num_block=16, squeeze_factor=16, upscale=1)


def candidates() -> dict[str, Callable[..., nn.Module]]:
    """Name → builder. The baseline comes first; UniRain's builders take further constructor options."""
    table: dict[str, Callable[..., nn.Module]] = {BASELINE: TextbookNet}
    for name in PRESETS:
        table[name] = lambda name=name, **changes: UniRain(**preset(name, **changes))
    for label, kinds in ABLATIONS.items():
        table[f"UniRain_{label}"] = lambda kinds=kinds, **changes: UniRain(**preset("UniRain", **kinds, **changes))
    table["SwinIR"] = _swinir
    table["RCAN"] = _rcan
    table["textbook-tiny"] = lambda: TextbookNet(16, (1, 1, 1, 1), 1)
    return table


GPU_VARIANTS = (
    "fp32", "channels_last", "bf16", "bf16+channels_last", "bf16+channels_last+compile", "checkpointing",
)  # fmt: skip
CPU_VARIANTS = ("fp32", "bf16", "checkpointing")
VARIANTS = (*GPU_VARIANTS, "compile")
"""How a network is run, joined by ``+``. ``bf16``: under bfloat16 autocast; ``channels_last``: input and weights in
that order; ``compile``: by ``torch.compile``; ``checkpointing``: with recomputation in the backward pass (networks with
``use_checkpoint`` only); ``fp32``: nothing of these."""
Row = tuple[str, str]  # what is measured: a network of candidates and one of VARIANTS


def apart(function: Callable[..., Any], *args: object) -> Any:
    """Call a function in a new process with as many threads; UniRainError if it was killed, as for lack of memory."""
    with process_pool(1, torch.set_num_threads, torch.get_num_threads()) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise UniRainError(
                "a measuring process was killed, perhaps for lack of memory: name fewer or a smaller --size."
            ) from None


def build(builder: Callable[..., nn.Module], variant: str, device: str) -> nn.Module:
    """Build a network, with the same random weights every time, and prepare it for a variant."""
    torch.manual_seed(0)
    net = builder(use_checkpoint=True) if "checkpointing" in variant else builder()
    net = net.to(device)
    if "channels_last" in variant:
        net = net.to(memory_format=torch.channels_last)
    return torch.compile(net) if "compile" in variant else net


def forward_pass(net: nn.Module, variant: str, lq: Tensor) -> Tensor:
    net.eval()
    with torch.inference_mode(), torch.autocast(lq.device.type, torch.bfloat16, enabled="bf16" in variant):
        return net(lq)


def training_step(net: nn.Module, variant: str, lq: Tensor) -> None:
    """Forward, L1 and auxiliary losses, backward; no optimiser, which is the same for all."""
    net.train()
    with torch.autocast(lq.device.type, torch.bfloat16, enabled="bf16" in variant):
        loss = (net(lq) - lq).float().abs().mean()
        for extra in getattr(net, "auxiliary_losses", dict)().values():
            loss = loss + 0.01 * extra
    loss.backward()
    net.zero_grad(set_to_none=True)


def random_image(size: int, variant: str, device: str) -> Tensor:
    lq = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return lq.to(memory_format=torch.channels_last) if "channels_last" in variant else lq


def seconds_of(
    action: Callable[[nn.Module, str, Tensor], object], rows: Sequence[Row], size: int, rounds: int, device: str
) -> dict[Row, float]:
    """Median seconds of :func:`forward_pass` or :func:`training_step` of each row, see :func:`interleaved`."""
    builders = candidates()
    nets = {row: build(builders[row[0]], row[1], device) for row in rows}
    actions = {
        row: lambda row=row, net=net: action(net, row[1], random_image(size, row[1], device))
        for row, net in nets.items()
    }
    return interleaved(actions, rounds, device)


def step_and_warm_seconds(
    rows: Sequence[Row], warm: Sequence[Row], step_size: int, warm_size: int, rounds: int, device: str
) -> tuple[dict[Row, float], dict[Row, float]]:
    """Median seconds of training steps, and then of forward passes of the rows ``warm`` in the same process."""
    steps = seconds_of(training_step, rows, step_size, rounds, device)
    return steps, seconds_of(forward_pass, warm, warm_size, rounds, device)


def step_memory(name: str, variant: str, size: int, device: str) -> int | None:
    """Bytes by which a training step raises the peak, in a process of its own; None where it cannot be told."""
    return apart(_memory_growth, name, variant, size, device)


def _memory_growth(name: str, variant: str, size: int, device: str) -> int | None:
    net = build(candidates()[name], variant, device)
    # Libraries load their kernels before the measurement; on the CPU a small image does, as memory is not given back.
    training_step(net, variant, random_image(8 if device == "cpu" else size, variant, device))
    lq = random_image(size, variant, device)
    return peak_growth(lambda: training_step(net, variant, lq), torch.device(device))


ABLATED = tuple(f"UniRain_{label}" for label in ABLATIONS)
OTHERS = ("SwinIR", "RCAN")
DEFAULT_NETWORKS = (BASELINE, *PRESETS, *ABLATED, *OTHERS)
WARM_NETWORKS = ("UniRain",)
DISPATCH_TURNS = 15  # counted turns of the mixtures at least: they are short


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="benchmark arch", description=__doc__)
    p.add_argument("--networks", nargs="+", default=list(DEFAULT_NETWORKS), metavar="NAME", help="default: all")
    p.add_argument("--variants", nargs="+", default=(), metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--size", type=int, default=256, help="edge of the image of the forward pass")
    p.add_argument("--train-size", type=int, default=128, help="edge of the image of the training step")
    p.add_argument("--rounds", type=int, default=3, help="counted turns; the median is reported")
    p.add_argument("--threads", type=int, default=2, help="CPU threads")
    p.add_argument("--no-memory", action="store_true", help="leave out the peak memory of a training step")
    p.add_argument("--no-dispatch", action="store_true", help="leave out the table of sparse against dense mixtures")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return p


def check(args: argparse.Namespace) -> None:
    expect_known("--networks", args.networks, candidates())
    expect_known("--variants", args.variants, VARIANTS)
    for option in ("size", "train_size", "rounds", "threads"):
        value = getattr(args, option)
        if value < 1 or (option.endswith("size") and value % 8):
            allowed = "a multiple of 8, at least 8" if option.endswith("size") else "at least 1"
            raise OptionError(f"--{option.replace('_', '-')}: got {value}; allowed: {allowed}.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch finds no CUDA device here; leave it out to measure on the CPU.")


def rows_of(args: argparse.Namespace) -> list[Row]:
    """The table's rows. The first is the baseline in fp32, in its plain formulation: it is the unit."""
    rows = [(BASELINE, "fp32")]
    for name in args.networks:
        variants = args.variants or _usual_variants(name, args.device)
        rows += [(name, v) for v in variants if name.startswith("UniRain") or v != "checkpointing"]
    return list(dict.fromkeys(rows))


def _usual_variants(name: str, device: str) -> tuple[str, ...]:
    if name in (*ABLATED, *OTHERS):
        return ("fp32",)
    if device == "cuda":
        return GPU_VARIANTS
    if name == BASELINE and not has_bfloat16():  # UniRain then computes in float32
        _tell(f"{name} in bf16 is left out, it would take very long on this processor (--variants bf16 measures it)")
        return ("fp32",)
    return CPU_VARIANTS


def groups_of(rows: list[Row]) -> list[list[Row]]:
    """The rows that are measured together, each group with the baseline first."""
    kinds = [[row for row in rows[1:] if row[0] in names] for names in (ABLATED, OTHERS)]
    presets = [row for row in rows[1:] if row not in kinds[0] + kinds[1]]
    return [[rows[0], *group] for group in (presets, *kinds) if group] or [rows]


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure every row; ratios are to the baseline of its group, the baseline's own row is of the first one."""
    rows = rows_of(args)
    figures: dict[str, dict[Row, tuple[float, float]]] = {"forward": {}, "step": {}, "warm": {}, "memory": {}}
    for group in groups_of(rows):
        for key, seconds in _group_seconds(group, args).items():
            for row, value in seconds.items():
                figures[key].setdefault(row, (value, seconds[group[0]]))
    if not args.no_memory:
        _tell("peak memory")
        memory = {row: step_memory(*row, args.train_size, args.device) for row in rows}
        figures["memory"] = {row: (value, memory[rows[0]]) for row, value in memory.items()}
    _tell("multiply-adds")
    builders = candidates()
    counts = {name: complexity(builders[name](), (args.size, args.size)) for name in dict.fromkeys(r[0] for r in rows)}
    results = []
    for row in rows:
        result = {"network": row[0], "variant": row[1], **asdict(counts[row[0]])}
        for key, values in figures.items():
            value, base = values.get(row, (None, None))
            result |= {key: value, f"{key}_base": base, f"{key}_ratio": value / base if value and base else None}
        results.append(result)
    return results


def _group_seconds(group: list[Row], args: argparse.Namespace) -> dict[str, dict[Row, float]]:
    """Recomputation is for training: such rows have no forward time."""
    restoring = [row for row in group if "checkpointing" not in row[1]]
    warm = [row for row in restoring if row[0] in WARM_NETWORKS]
    warm = [group[0], *warm] if warm else []
    what = f"{len(group)} rows ({', '.join(dict.fromkeys(name for name, _ in group))})"
    _tell(f"forward passes at {args.size}², {what}")
    forward = apart(seconds_of, forward_pass, restoring, args.size, args.rounds, args.device)
    _tell(f"training steps at {args.train_size}², {what}")
    step, after = apart(step_and_warm_seconds, group, warm, args.train_size, args.size, args.rounds, args.device)
    return {"forward": forward, "step": step, "warm": after}


def dispatch_rows(args: argparse.Namespace) -> list[dict[str, object]]:
    """Time of a hard top-1 mixture of three, sparse ÷ dense with masks, at the paper-size decoder's levels."""
    results = []
    for level, channels in ((1, 96), (2, 96), (3, 192)):
        side = max(args.size // 2 ** (level - 1), 1)
        for routing in ("image", "window"):
            actions, x = {}, torch.randn(1, side, side, channels, device=args.device)
            for dispatch in ("sparse", "dense"):
                torch.manual_seed(0)
                options = NetworkOptions(hard_routing=routing, window=32, dispatch=dispatch)
                actions[dispatch] = partial(HardMoE(channels, 2.5, options).eval().to(args.device), x)
            with torch.inference_mode():
                seconds = interleaved(actions, max(args.rounds, DISPATCH_TURNS), args.device)
            ratio = seconds["sparse"] / seconds["dense"]
            results.append({"level": level, "side": side, "channels": channels, "routing": routing, "ratio": ratio})
    return results


def table(results: list[dict[str, object]], args: argparse.Namespace) -> str:
    """The main table in Markdown. Seconds are given for the baseline only; the rest are ratios to it."""

    def ratio(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"

    base = results[0]
    warm = "" if base["warm"] is None else f"warm {base['warm']:.2f} s, "
    head = (
        f"{args.device}, {args.threads} threads; forward at {args.size}², training step at 1×{args.train_size}²; "
        f"÷ {base['network']} in fp32 (forward {base['forward']:.2f} s, {warm}step {base['step']:.2f} s); median of "
        f"{args.rounds} turns\n\n"
        "forward: in a process that runs forward passes only, as restoring images does. warm: in the process that "
        "has run the training steps, whose allocator keeps freed memory: a network with large temporaries is then "
        "spared the mapping of fresh memory. Presets, ablations and other networks run in processes of their own, each "
        "group with the baseline.\n\n"
    )
    titles = ["network", "variant", "params M", f"MACs G at {args.size}²"]
    titles += ["forward ÷", "warm ÷", "training step ÷", "peak memory ÷"]
    rows = []
    for r in results:
        counts = f"{r['parameters'] / 1e6:.2f}", f"{r['multiply_adds'] / 1e9:.1f}"
        ratios = (ratio(r[f"{key}_ratio"]) for key in ("forward", "warm", "step", "memory"))
        rows.append([r["network"], r["variant"], *counts, *ratios])
    return head + markdown_table(titles, rows)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    check(args)
    dispatch = []
    with threads(args.threads):
        networks = measure(args)
        if not args.no_dispatch:
            _tell("sparse and dense mixtures")
            dispatch = apart(dispatch_rows, args)
    sys.stdout.write(table(networks, args))
    if dispatch:
        titles = ["decoder level", "map", "channels", "routed by", "sparse ÷ dense"]
        rows = [(r["level"], f"{r['side']}²", r["channels"], r["routing"], f"{r['ratio']:.2f}") for r in dispatch]
        text = markdown_table(titles, [map(str, row) for row in rows])
        sys.stdout.write(f"\nHard mixture, top-1 of 3, against all experts and masks:\n\n{text}")
    if args.json:
        write_json(args.json, {"networks": networks, "dispatch": dispatch})
    return 0
