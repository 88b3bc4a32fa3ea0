"""Measures what networks cost: each in a process of its own, taking turns so that disturbances meet all alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from unirain_plugin.compare.networks import NetworkDied, NetworkError, NetworkProcess, NetworkSpec
from unirain_plugin.compare.options import CostOptions
from unirain_plugin.errors import UniRainError, reason
from unirain_plugin.support.files import canonical_hash
from unirain_plugin.support.journal import Journal

MIB = 2**20

Costs = dict[str, dict[str, float | None]]  # network → the fields of ModelRow that tell its cost


def measure_costs(specs: Sequence[NetworkSpec], options: CostOptions, journal: Journal) -> tuple[Costs, dict[str, str]]:
    """Measure, or take over from the journal if nothing has changed since: costs, and network → what went wrong."""
    try:
        state = canonical_hash([asdict(options), [[s.options.name, s.device, s.fingerprint()] for s in specs]])
    except (UniRainError, OSError) as error:  # weights that have gone meanwhile
        return {}, {spec.options.name: reason(error) for spec in specs}
    records = {spec.options.name: journal.get("cost", spec.options.name) for spec in specs}
    if all(record is not None and record["state"] == state for record in records.values()):
        return {name: record["cost"] for name, record in records.items()}, {}
    failures: dict[str, str] = {}
    costs = _measure(specs, options, failures)
    for name, cost in costs.items():
        journal.add(("cost", name), {"state": state, "cost": cost})
    return costs, failures


def _measure(specs: Sequence[NetworkSpec], options: CostOptions, failures: dict[str, str]) -> Costs:
    costs: Costs = {}
    with ExitStack() as stack:
        running: dict[str, NetworkProcess] = {}
        for spec in specs:
            name = spec.options.name
            process = stack.enter_context(NetworkProcess(spec))
            with _noted(failures, name):
                process.receive()
                peak = process.call("peak", options.size)
                costs[name] = {"peak_memory_mb": None if peak is None else peak / MIB}
                running[name] = process
        times = _take_turns(running, options, failures)
        for name, process in running.items():
            counts = None, None
            with _noted(failures, name, "its multiply-adds cannot be counted: "):
                complexity = process.call("complexity", options.multiply_adds_size)
                counts = complexity.parameters, complexity.multiply_adds
            latency = 1000 * statistics.median(times[name]) if times[name] else None
            costs[name] |= {"parameters": counts[0], "multiply_adds": counts[1], "latency_ms": latency}
    return costs


@contextmanager
def _noted(failures: dict[str, str], name: str, text: str = "") -> Iterator[None]:
    """What a network's process says or leaves unsaid does not concern the others."""
    try:
        yield
    except (NetworkDied, NetworkError) as error:
        failures[name] = f"{text}{reason(error)}"


def _take_turns(
    running: dict[str, NetworkProcess], options: CostOptions, failures: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds of each network and round; the first round, which warms up, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(options.rounds + 1):
        for name in [name for name in running if name not in failures]:
            with _noted(failures, name):
                seconds = running[name].call("seconds", options.size)
                times[name] += [seconds] if number else []
    return times
