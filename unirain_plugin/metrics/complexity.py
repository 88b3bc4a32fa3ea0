"""Parameters and multiply-adds of a network, counted with ``mmengine.analysis``."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a network.

    Attributes:
        parameters: Number of trainable and fixed weights.
        multiply_adds: Multiply-adds of one forward pass: convolutions and matrix products (papers call these FLOPs);
            normalisations, activations and sums are left out. Experts that do not run are not counted.
    """

    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} M parameters, {self.multiply_adds / 1e9:.2f} G multiply-adds"


_COUNTED = ("conv", "linear", "matmul", "einsum", "bmm", "mm", "addmm", "baddbmm")


def complexity(network: nn.Module, size: tuple[int, int] = (256, 256), channels: int = 3) -> Complexity:
    """Count on one picture of the given size.

    Args:
        network: Any network of pictures; it is run in evaluation mode and left in the mode it was in.
        size: Height and width of the input in pixels.
        channels: Channels of the input.

    Raises:
        ImportError: If mmengine is missing; names the package to install.
    """
    try:
        from mmengine.analysis import FlopAnalyzer
    except ImportError as error:
        raise ImportError("Counting multiply-adds needs mmengine: pip install mmengine") from error
    picture = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))
    first = next(iter(network.parameters()), picture)
    was_training = network.training
    network.eval()
    logger = logging.getLogger("mmengine")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        analyzer = FlopAnalyzer(network, (picture.to(first),))
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
