"""The constructor arguments of UniRain, checked once and frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from unirain_plugin.errors import OptionError, did_you_mean

MOE_KINDS = ("soft", "hard", "none")
HARD_ROUTING = ("image", "window")
SOFT_ROUTING = ("pixel", "window", "image")
MAX_LEVELS = 6


@dataclass(frozen=True)
class NetworkOptions:
    """Every choice of the network. The defaults are the paper's size (24.4 M parameters, 125.2 G multiply-adds).

    What the paper leaves open is our choice, made for speed at that size; see ``presets.py``.

    Attributes:
        in_channels: Channels of the input picture, ≥ 1.
        out_channels: Channels of the output; equal to ``in_channels`` because the network predicts a correction.
        dim: Channels of the first level, ≥ 1; level l has ``dim · 2**(l-1)``.
        num_blocks: Blocks of encoder level 1, 2, … and, last, of the latent level; 2 to 6 entries, each ≥ 0
            (the paper's four levels: four entries).
        decoder_blocks: Blocks of decoder level 1, 2, …; one entry fewer than ``num_blocks``.
        refinement_blocks: Dense blocks after the decoder at full resolution, ≥ 0.
        heads: Attention heads of each level; as many entries as ``num_blocks``, each dividing its level's channels.
        num_experts: Experts of every mixture, 1 to 64 (paper, Fig.: 3).
        top_k: Experts that run per routed unit in a hard mixture, 1 to ``num_experts``.
        encoder_moe: ``soft`` (paper), ``hard`` or ``none`` (one dense feed-forward of the same cost).
        latent_moe: The same for the latent level.
        decoder_moe: The same for the decoder (paper: ``hard``).
        encoder_expansion: Hidden width that computes at a pixel ÷ channels, > 0. It is shared out among the experts
            that run, so soft, hard and none cost equally many multiply-adds and only the parameters differ.
        latent_expansion: The same for the latent level.
        decoder_expansion: The same for the decoder.
        refinement_expansion: The same for the refinement.
        widen_last: Level 1 of the decoder (and the refinement) keeps ``2 · dim`` channels, as Restormer's does.
        hard_routing: What is routed as one: ``image`` or ``window``.
        soft_routing: Where soft weights vary: per ``pixel`` (the paper's ⊗), per ``window`` or per ``image``.
        window: Edge of a routing window in pixels of its own level, 4 to 1024.
        router_noise: Standard deviation of normal noise on a hard router's logits in training, ≥ 0; never at
            evaluation.
        dispatch: ``sparse`` runs the chosen experts only; ``dense`` runs all and masks (the same result, slower: for
            tests and export).
        use_checkpoint: Recompute each block in the backward pass: less memory, more time.
    """

    in_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    num_blocks: Sequence[int] = (3, 6, 6, 6)
    decoder_blocks: Sequence[int] = (2, 4, 4)
    refinement_blocks: int = 4
    heads: Sequence[int] = (2, 2, 4, 8)
    num_experts: int = 3
    top_k: int = 1
    encoder_moe: str = "soft"
    latent_moe: str = "none"
    decoder_moe: str = "hard"
    encoder_expansion: float = 5.0
    latent_expansion: float = 2.0
    decoder_expansion: float = 2.5
    refinement_expansion: float = 2.0
    widen_last: bool = True
    hard_routing: str = "image"
    soft_routing: str = "pixel"
    window: int = 32
    router_noise: float = 0.0
    dispatch: str = "sparse"
    use_checkpoint: bool = False

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "dim"):
            self._integer(name, 1, 4096)
        self._integer("refinement_blocks", 0, 64)
        self._integer("num_experts", 1, 64)
        self._integer("top_k", 1, None)
        self._integer("window", 4, 1024)
        if self.out_channels != self.in_channels:
            raise OptionError(
                f"out_channels: got {self.out_channels} with in_channels {self.in_channels}; the network predicts a "
                "correction of its input, so both must be equal."
            )
        if self.top_k > self.num_experts:
            raise OptionError(
                f"top_k: got {self.top_k} with num_experts {self.num_experts}; allowed: 1 to {self.num_experts}."
            )
        for name in ("encoder_moe", "latent_moe", "decoder_moe"):
            self._choice(name, MOE_KINDS)
        self._choice("hard_routing", HARD_ROUTING)
        self._choice("soft_routing", SOFT_ROUTING)
        self._choice("dispatch", ("sparse", "dense"))
        for name in ("widen_last", "use_checkpoint"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name}: got {getattr(self, name)!r}; allowed: true or false.")
        for name in ("encoder_expansion", "latent_expansion", "decoder_expansion", "refinement_expansion"):
            self._number(name, positive=True)
        self._number("router_noise", positive=False)
        self._levels()

    def _levels(self) -> None:
        blocks = self._depths("num_blocks")
        decoder = self._depths("decoder_blocks")
        heads = self._depths("heads")
        if not 2 <= len(blocks) <= MAX_LEVELS:
            raise OptionError(f"num_blocks: got {len(blocks)} entries {blocks}; allowed: 2 to {MAX_LEVELS} levels.")
        if len(heads) != len(blocks):
            raise OptionError(
                f"heads: got {len(heads)} entries {heads} for the {len(blocks)} levels of num_blocks {blocks}; "
                "give one entry a level."
            )
        if len(decoder) != len(blocks) - 1:
            raise OptionError(
                f"decoder_blocks: got {len(decoder)} entries {decoder} for the {len(blocks)} levels of num_blocks "
                f"{blocks}; give {len(blocks) - 1} (the latent level has no decoder)."
            )
        for level, count in enumerate(heads):
            channels = self.channels(level)
            if count < 1 or channels % count:
                raise OptionError(
                    f"heads: got {count} for level {level + 1} with {channels} channels (dim {self.dim}); "
                    f"allowed: a divisor of {channels}."
                )

    def channels(self, level: int) -> int:
        """Channels of a level, counted from 0."""
        return self.dim * 2**level

    def _depths(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(_is_int(v) and v >= 0 for v in value):
            raise OptionError(f"{name}: got {value!r}; allowed: a list of integers ≥ 0, one a level.")
        object.__setattr__(self, name, tuple(value))
        return tuple(value)

    def _integer(self, name: str, low: int, high: int | None) -> None:
        value = getattr(self, name)
        if not _is_int(value) or value < low or (high is not None and value > high):
            span = f"an integer ≥ {low}" if high is None else f"an integer from {low} to {high}"
            raise OptionError(f"{name}: got {value!r}; allowed: {span}.")

    def _number(self, name: str, positive: bool) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (positive and value == 0):
            raise OptionError(f"{name}: got {value!r}; allowed: a number {'>' if positive else '≥'} 0.")

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise OptionError(f"{name}: got {value!r}; allowed: {', '.join(allowed)}.{did_you_mean(value, allowed)}")

    @classmethod
    def parse(cls, arguments: dict[str, object]) -> NetworkOptions:
        """Build from keyword arguments; an unknown key is an error that names the nearest known one."""
        names = [field.name for field in fields(cls)]
        for key in arguments:
            if key not in names:
                raise OptionError(
                    f"UniRain: unknown option '{key}'.{did_you_mean(key, names)} Known: {', '.join(names)}."
                )
        return cls(**arguments)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
