"""Whether the parts that are compared do anything: do experts divide the work, do the loss weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Routing = Mapping[str, Mapping[str, Sequence[float]]]
"""Rain type → layer → share of each expert."""


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """How experts are used, means over layers; with n experts each is from 1/n to 1.

    Attributes:
        overall: Share of a layer's most used expert over all rain types: 1 is a collapse onto one.
        by_type: The same within one rain type, mean over types: well above ``overall`` where types have experts of
            their own.
    """

    overall: float
    by_type: float


def expert_use(routing: Routing) -> ExpertUse | None:
    """Summarise the routing of one run; None for a network without experts."""
    layers = list(next(iter(routing.values()), {}))
    if not layers:
        return None
    overall, by_type = [], []
    for layer in layers:
        shares = [list(of_type[layer]) for of_type in routing.values()]
        overall.append(max(fmean(expert) for expert in zip(*shares, strict=True)))
        by_type.append(fmean(max(share) for share in shares))
    return ExpertUse(fmean(overall), fmean(by_type))


def expert_lines(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Cells of a table: variant and its experts' use, means over seeds; encoder and latent apart from the decoder.

    Args:
        results: Variant's name → results of its finished runs.
    """
    lines = [("variant", "encoder: overall", "within a type", "decoder: overall", "within a type")]
    for name, runs in results.items():
        cells = []
        for decoder in (False, True):
            parts = [expert_use(_layers(run["routing"], decoder)) for run in runs]
            uses = [use for use in parts if use is not None]
            cells += (
                [f"{fmean(u.overall for u in uses):.2f}", f"{fmean(u.by_type for u in uses):.2f}"] if uses else ["", ""]
            )
        if any(cells):
            lines.append((name, *cells))
    return lines


def _layers(routing: Routing, decoder: bool) -> Routing:
    return {
        rain_type: {layer: shares for layer, shares in layers.items() if layer.startswith("decoder") == decoder}
        for rain_type, layers in routing.items()
    }


def weight_lines(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Cells of a table: mode and the rain types' weights in the loss at the end, lowest to highest over the seeds."""
    types = list(next(iter(results.values()))[0]["loss_weights"])
    lines = [("mode", *types)]
    for name, runs in results.items():
        ranges = [[run["loss_weights"][t] for run in runs] for t in types]
        lines.append((name, *(f"{min(values):.2f} to {max(values):.2f}" for values in ranges)))
    return lines
