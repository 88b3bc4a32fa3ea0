"""The constructor arguments of UniRain, checked once (by :mod:`unirain_plugin.support.spec`) and frozen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from unirain_plugin.support.spec import Problem, above, at_least, between

_Channels = Annotated[int, between(1, 4096)]
_Depths = tuple[Annotated[int, at_least(0)], ...]
_Expansion = Annotated[float, above(0)]
_Mixture = Literal["soft", "hard", "none"]


@dataclass(frozen=True)
class NetworkOptions:
    """Every choice of the network. The defaults are the paper's size (24.4 M parameters, 125.2 G multiply-adds).

    What the paper leaves open is our choice, made for speed at that size; see ``presets.py``.
    """

    in_channels: _Channels = 3
    out_channels: _Channels = 3  # equal to ``in_channels`` because the network predicts a correction
    dim: _Channels = 48  # channels of the first level; level l has ``dim · 2**(l-1)``
    # blocks of encoder level 1, 2, … and, last, of the latent level: 2 to 6 entries (the paper's levels: four)
    num_blocks: _Depths = (3, 6, 6, 6)
    decoder_blocks: _Depths = (2, 4, 4)  # of decoder level 1, 2, …; one entry fewer than ``num_blocks``
    refinement_blocks: Annotated[int, between(0, 64)] = 4  # dense blocks after the decoder at full resolution
    heads: _Depths = (2, 2, 4, 8)  # attention heads of each level, a divisor of its channels
    num_experts: Annotated[int, between(1, 64)] = 3  # experts of every mixture (paper, Fig.: 3)
    top_k: Annotated[int, at_least(1)] = 1  # experts that run per routed unit in a hard mixture, ≤ ``num_experts``
    encoder_moe: _Mixture = "soft"  # as in the paper; ``none``: one dense feed-forward of the same cost
    latent_moe: _Mixture = "none"
    decoder_moe: _Mixture = "hard"  # as in the paper
    # hidden width that computes at a pixel ÷ channels; it is shared out among the experts that run, so soft, hard and
    # none cost equally many multiply-adds and only the parameters differ
    encoder_expansion: _Expansion = 5.0
    latent_expansion: _Expansion = 2.0
    decoder_expansion: _Expansion = 2.5
    refinement_expansion: _Expansion = 2.0
    widen_last: bool = True  # level 1 of the decoder and the refinement keep ``2 · dim`` channels, as Restormer's do
    hard_routing: Literal["image", "window"] = "image"  # what is routed as one
    soft_routing: Literal["pixel", "window", "image"] = "pixel"  # where soft weights vary (the paper's ⊗: pixel)
    window: Annotated[int, between(4, 1024)] = 32  # edge of a routing window in pixels of its own level
    router_noise: Annotated[float, at_least(0)] = 0.0  # σ of normal noise on a hard router's logits, in training only
    # ``sparse`` runs the chosen experts only; ``dense`` runs all and masks (the same result, slower: for tests, export)
    dispatch: Literal["sparse", "dense"] = "sparse"
    use_checkpoint: bool = False  # recompute each block in the backward pass: less memory, more time

    def check_channels(self) -> Iterator[Problem]:
        if self.out_channels != self.in_channels:
            what = f"got {self.out_channels} with in_channels {self.in_channels}; the network predicts a correction of "
            yield "out_channels", f"{what}its input, so both must be equal."

    def check_top_k(self) -> Iterator[Problem]:
        if self.top_k > self.num_experts:
            yield "top_k", f"got {self.top_k} with num_experts {self.num_experts}; allowed: 1 to {self.num_experts}."

    def check_levels(self) -> Iterator[Problem]:
        blocks, decoder, heads = list(self.num_blocks), list(self.decoder_blocks), list(self.heads)
        given = f"for the {len(blocks)} levels of num_blocks {blocks}; give"
        if not 2 <= len(blocks) <= 6:
            yield "num_blocks", f"got {len(blocks)} entries {blocks}; allowed: 2 to 6 levels."
            return
        if len(decoder) != len(blocks) - 1:
            text = f"got {len(decoder)} entries {decoder} {given} {len(blocks) - 1} (the latent level has no decoder)."
            yield "decoder_blocks", text
        if len(heads) != len(blocks):
            yield "heads", f"got {len(heads)} entries {heads} {given} one entry a level."
            return
        for level, count in enumerate(heads):
            channels = self.channels(level)
            if count < 1 or channels % count:
                text = f"got {count} for level {level + 1} with {channels} channels (dim {self.dim}); "
                yield "heads", f"{text}allowed: a divisor of {channels}."

    def channels(self, level: int) -> int:
        """Channels of a level, counted from 0."""
        return self.dim * 2**level
