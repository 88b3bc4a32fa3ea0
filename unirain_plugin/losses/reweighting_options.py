"""The options of the reweighting, checked once and then frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from unirain_plugin.errors import OptionError, did_you_mean

MODES = ("paper", "coba", "released", "equal", "dwa", "uncertainty", "rlw", "famo")
"""The ways to weight the rain types; see :mod:`unirain_plugin.losses.reweighting`."""

SOURCES = ("train", "val")
"""Where the per-type losses come from: means over the training interval, or the validation."""


@dataclass(frozen=True)
class ReweightingOptions:
    """What a user may set. Every option is accepted in every mode, so that modes can be compared by one key.

    Attributes:
        num_types: K, the number of rain types (at least 1).
        mode: One of :data:`MODES`.
        window: N, the number of losses a slope is fitted to and of slopes that TSS sums (at least 2; the published
            script's 10).
        tau: τ of the Adaptivity Factor (0 or more; 5 in CoBa and in the published script). 0 keeps AF at 1.
        warmup: Number of first updates that return equal weights (0 or more; the published script's 20).
        update_freq: Iterations between two updates (at least 1). Used by the loss, not by the pure maths. Our
            choice of 100: often enough to follow a 300 k run, rare enough for a mean over many crops.
        source: ``train`` (mean over the interval) or ``val`` (the validation's losses). Used by the loss.
        floor: Smallest weight, 0 to 1/K. None: what the mode's origin uses (paper 0, coba 1/(10K), released 0.1 or
            1/K if that is smaller, baselines 0).
        ema: Share of the past in an exponential moving average of the losses before anything else looks at them
            (0 up to but not including 1). 0, the default, leaves them as they are. Our addition, against the noise
            of random crops.
        temperature: T of ``dwa`` (above 0; 2 in its paper).
        seed: Seed of ``rlw`` (0 or more).
        lr: Step size of ``famo`` (β; 0.025 in its paper's code) and of ``uncertainty`` outside a training loop.
        gamma: Decay of ``famo``'s logits (γ, 0 or more; 0.01 in its paper).
    """

    num_types: int
    mode: str = "paper"
    window: int = 10
    tau: float = 5.0
    warmup: int = 20
    update_freq: int = 100
    source: str = "train"
    floor: float | None = None
    ema: float = 0.0
    temperature: float = 2.0
    seed: int = 0
    lr: float = 0.025
    gamma: float = 0.01

    def __post_init__(self) -> None:
        _integer("num_types", self.num_types, 1)
        _choice("mode", self.mode, MODES)
        _integer("window", self.window, 2)
        _number("tau", self.tau, 0.0)
        _integer("warmup", self.warmup, 0)
        _integer("update_freq", self.update_freq, 1)
        _choice("source", self.source, SOURCES)
        if self.floor is not None:
            _number("floor", self.floor, 0.0, 1.0 / self.num_types, f"0 to 1/num_types = {1 / self.num_types:.6g}")
        _number("ema", self.ema, 0.0, math.nextafter(1.0, 0.0), "0 up to but not including 1")
        _number("temperature", self.temperature, math.nextafter(0.0, 1.0), text="above 0")
        _integer("seed", self.seed, 0)
        _number("lr", self.lr, math.nextafter(0.0, 1.0), text="above 0")
        _number("gamma", self.gamma, 0.0)


OPTION_NAMES = tuple(field.name for field in fields(ReweightingOptions))
"""The names of all options, in their order."""


def parse_options(mode: str, num_types: int, more: dict[str, object]) -> ReweightingOptions:
    """Check the options and freeze them.

    Raises:
        OptionError: For an unknown name (the nearest valid one is named), a wrong type or a value out of range.
    """
    for name in more:
        if name not in OPTION_NAMES:
            raise OptionError(
                f"{name}: unknown reweighting option; expected one of {', '.join(OPTION_NAMES)}."
                + did_you_mean(name, OPTION_NAMES)
            )
    return ReweightingOptions(num_types=num_types, mode=mode, **more)


def _integer(name: str, value: object, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise OptionError(f"{name}: found {value!r}; expected an integer, {lowest} or more.")


def _number(name: str, value: object, lowest: float, highest: float = math.inf, text: str | None = None) -> None:
    expected = f"expected a number, {text or f'{lowest:g} or more'}."
    if isinstance(value, str):
        expected += " It is text: YAML reads 1e-4 as text, write 1.0e-4."
    wrong_type = isinstance(value, bool) or not isinstance(value, (int, float))
    if wrong_type or not math.isfinite(value) or not lowest <= value <= highest:
        raise OptionError(f"{name}: found {value!r}; {expected}")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name}: found {value!r}; expected {' | '.join(choices)}." + did_you_mean(value, choices))
