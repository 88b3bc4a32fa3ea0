"""Measures the cost of all networks: each in a process of its own, taking turns so that disturbances meet all alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from unirain_plugin.compare.journal import Journal
from unirain_plugin.compare.network_process import NetworkDied, NetworkError, NetworkProcess, reason
from unirain_plugin.compare.networks import NetworkSpec
from unirain_plugin.compare.options import CostOptions
from unirain_plugin.errors import UniRainError
from unirain_plugin.support.files import canonical_hash

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What one network costs; None where it could not be told.

    Attributes:
        parameters: Number of weights.
        multiply_adds: Of one forward pass.
        latency_ms: Median milliseconds of a restoration.
        peak_memory_mb: MiB by which a restoration raises the memory of its process.
    """

    parameters: int | None = None
    multiply_adds: int | None = None
    latency_ms: float | None = None
    peak_memory_mb: float | None = None


def measure_costs(
    specs: Sequence[NetworkSpec], options: CostOptions, journal: Journal
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure, or take over from the journal if nothing has changed since.

    Returns:
        Network → cost, and network → what went wrong.
    """
    try:
        state = canonical_hash([asdict(options), [[s.options.name, s.device, s.fingerprint()] for s in specs]])
    except (UniRainError, OSError) as error:  # weights that have gone meanwhile
        return {}, {spec.options.name: reason(error) for spec in specs}
    names = [spec.options.name for spec in specs]
    records = {name: journal.get("cost", name) for name in names}
    if all(record is not None and record["state"] == state for record in records.values()):
        return {name: Cost(**record["cost"]) for name, record in records.items()}, {}
    costs, failures = _measure(specs, options)
    for name, cost in costs.items():
        journal.add(("cost", name), {"state": state, "cost": asdict(cost)})
    return costs, failures


def _measure(specs: Sequence[NetworkSpec], options: CostOptions) -> tuple[dict[str, Cost], dict[str, str]]:
    failures: dict[str, str] = {}
    peaks: dict[str, int | None] = {}
    with ExitStack() as stack:
        running: dict[str, NetworkProcess] = {}
        for spec in specs:
            name = spec.options.name
            process = stack.enter_context(NetworkProcess(spec))
            try:
                process.receive()
                peaks[name] = process.call("peak", options.size)
                running[name] = process
            except (NetworkDied, NetworkError) as error:
                failures[name] = reason(error)
        times = _take_turns(running, options, failures)
        costs = {}
        for name, process in running.items():
            try:
                complexity = process.call("complexity", options.multiply_adds_size)
                counts = complexity.parameters, complexity.multiply_adds
            except (NetworkDied, NetworkError) as error:
                counts = None, None
                failures[name] = f"its multiply-adds cannot be counted: {reason(error)}"
            peak, turns = peaks[name], times[name]
            milliseconds = 1000 * statistics.median(turns) if turns else None
            costs[name] = Cost(*counts, milliseconds, None if peak is None else peak / MIB)
    return costs, failures


def _take_turns(
    running: dict[str, NetworkProcess], options: CostOptions, failures: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds of each network and round; the first round, which warms up, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(options.rounds + 1):
        for name in [name for name in running if name not in failures]:
            try:
                seconds = running[name].call("seconds", options.size)
            except (NetworkDied, NetworkError) as error:
                failures[name] = reason(error)
                continue
            times[name] += [seconds] if number else []
    return times
