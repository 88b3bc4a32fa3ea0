"""Multiply-adds of every network of the grid: they must agree, or the comparison would be of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.complexity import Complexity, complexity
from unirain_plugin.study.options import ReproduceOptions
from unirain_plugin.study.plan import Variant, network_section, variants_of


@dataclass(frozen=True, slots=True)
class Costs:
    """What the networks cost on one picture of the held-out size.

    Attributes:
        networks: Variant's name → parameters and multiply-adds.
        tolerance: Largest relative difference to the baseline that is allowed.
        largest: Largest relative difference that there is.
    """

    networks: dict[str, Complexity]
    tolerance: float
    largest: float


def measure_costs(options: ReproduceOptions, training: Mapping[str, Any]) -> Costs:
    """Count, and check that all are equal within the tolerance.

    Raises:
        OptionError: Naming every network that costs more or less.
    """
    baseline = Variant(**options.baseline)
    variants = {baseline.name: baseline}
    variants |= {v.name: v for question in options.questions for v in variants_of(options, question).values()}
    counted: dict[str, Complexity] = {}
    networks = {}
    for name, variant in variants.items():
        section = network_section(options, training, variant)
        if (key := repr(sorted(section.items()))) not in counted:
            counted[key] = _count(section, options.data.val_size, variant.name)
        networks[name] = counted[key]
    expected = networks[baseline.name].multiply_adds
    off = {name: cost.multiply_adds / expected - 1 for name, cost in networks.items()}
    wrong = [f"{name}: {networks[name]} ({d:+.1%})" for name, d in off.items() if abs(d) > options.tolerance]
    if wrong:
        raise OptionError(
            f"networks: expected the multiply-adds of {baseline.name} ({networks[baseline.name]}) within "
            f"{options.tolerance:.0%} (key 'tolerance'), found " + "; ".join(wrong) + ". Change their sizes."
        )
    return Costs(networks, options.tolerance, max(map(abs, off.values())))


def _count(section: Mapping[str, Any], size: int, name: str) -> Complexity:
    from unirain_plugin.toolbox import prepare_import

    prepare_import()
    from basicsr.archs import build_network

    try:
        network = build_network(deepcopy(dict(section)))
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"networks: {name} cannot be built: {type(error).__name__}: {error}") from None
    return complexity(network, (size, size))
