"""Which pair the n-th sample of an epoch is: mixing by rain type, source and tier.

An epoch is a fixed list of slots, so any sampler that permutes ``range(len(dataset))`` gives the wanted mixture. Pairs
are grouped by (type, source, tier); a group with share w has w·N of the N slots. N is the least number with which every
pair is met at least once an epoch, but at most :data:`MAX_EPOCHS` times the number of pairs; a group that is larger
than its slots then has a pair drawn at random for each slot.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from unirain_plugin.data.pairs import PairTable
from unirain_plugin.errors import OptionError, did_you_mean

MAX_EPOCHS = 8  # our choice: an epoch has at most this many times as many samples as there are pairs

TIERS = ("distilled", "rest")
MODES = ("balanced", "natural")
_Weights = Mapping[str, float]  # by name
_Group = tuple[str, str, str]  # type, source, tier


class SamplePlan:
    """Maps slots to pairs.

    ``sampling``: ``balanced`` (equal shares of the types), ``natural`` (every pair equally often), weights of the types
    (``{drs: 2, nrd: 1}``), or ``{types: …, sources: …}`` with one of these for the types and one for the sources within
    each type (default: natural). ``pyramid``: weights of the tiers ``distilled`` and ``rest`` within each type and
    source (paper.md §2; the shares are our choice); None leaves out what distillation has rejected. A wrong weight, or
    a name that is missing or unknown, is an OptionError.
    """

    def __init__(
        self, table: PairTable, sampling: str | Mapping[str, Any] = "natural", pyramid: _Weights | None = None
    ) -> None:
        tiers = _tier_shares(pyramid)
        groups = _group(table, tiers)
        types, sources = _split(sampling)
        shares = _shares(groups, types, sources, tiers)
        used = [(members, share) for members, share in zip(groups.values(), shares, strict=True) if share > 0]
        counts = _slots([len(members) for members, _ in used], [share for _, share in used])
        self._members = [members for members, _ in used]
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pair_number(self, slot: int, rng: np.random.Generator | None) -> int:
        """Return the number of the pair of a slot; ``rng`` serves the groups that an epoch does not exhaust."""
        if not 0 <= slot < len(self):
            raise IndexError(f"sample {slot} of {len(self)}")
        group = int(np.searchsorted(self._starts, slot, side="right")) - 1
        members, position = self._members[group], slot - int(self._starts[group])
        if rng is not None and self._starts[group + 1] - self._starts[group] < len(members):
            position = int(rng.integers(len(members)))
        return int(members[position % len(members)])


def check_sampling(sampling: str | Mapping[str, Any], pyramid: _Weights | None) -> None:
    """Check what can be checked without the pairs; OptionError as of :class:`SamplePlan`."""
    _split(sampling)
    _tier_shares(pyramid)


def _group(table: PairTable, tiers: _Weights) -> dict[_Group, np.ndarray]:
    """Split the numbers of the pairs by (type, source, tier); tiers of share 0 are left out."""
    tier = np.where(table.kept, 0, 1)
    code = (table.types.astype(np.int64) * len(table.source_names) + table.sources) * 2 + tier
    order = np.argsort(code, kind="stable").astype(np.uint32)
    values, starts = np.unique(code[order], return_index=True)
    groups = {}
    for value, members in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
        pair, tier_number = divmod(value, 2)
        type_number, source_number = divmod(pair, len(table.source_names))
        if tiers[TIERS[tier_number]] > 0:
            groups[table.type_names[type_number], table.source_names[source_number], TIERS[tier_number]] = members
    if not groups:
        raise OptionError("sampling: no pair is left: distillation has rejected all of them (keep: false) and the "
                          "pyramid gives the rest no share.")  # fmt: skip
    return groups


def _split(sampling: str | Mapping[str, Any]) -> tuple[str | _Weights, str | _Weights]:
    if isinstance(sampling, Mapping) and sampling.keys() & {"types", "sources"}:
        for key in sampling:
            if key not in ("types", "sources"):
                hint = did_you_mean(key, ["types", "sources"])
                raise OptionError(f"sampling: unknown key '{key}'; expected types and sources.{hint}")
        return _mode(sampling.get("types", "balanced"), "types"), _mode(sampling.get("sources", "natural"), "sources")
    return _mode(sampling, ""), "natural"


def _mode(value: object, key: str) -> str | _Weights:
    where = f"sampling{': ' if key else ''}{key}"
    if isinstance(value, Mapping):
        return {str(name): _weight(weight, f"{where}: {name}") for name, weight in value.items()}
    if value not in MODES:
        raise OptionError(f"{where}: expected balanced, natural or weights by name, found {value!r}."
                          f"{did_you_mean(value, MODES)}")  # fmt: skip
    return str(value)


def _weight(value: object, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise OptionError(f"{where}: expected a weight of 0 or more, found {value!r}.")
    return float(value)


def _tier_shares(pyramid: _Weights | None) -> dict[str, float]:
    if pyramid is None:
        return {"distilled": 1.0, "rest": 0.0}
    if not isinstance(pyramid, Mapping):
        raise OptionError(f"pyramid: expected weights such as {{distilled: 0.8, rest: 0.2}}, found {pyramid!r}.")
    for name in pyramid:
        if name not in TIERS:
            hint = did_you_mean(name, TIERS)
            raise OptionError(f"pyramid: unknown tier '{name}'; expected distilled and rest.{hint}")
    shares = {name: _weight(pyramid.get(name, 0.0), f"pyramid: {name}") for name in TIERS}
    if not sum(shares.values()):
        raise OptionError("pyramid: all weights are 0.")
    return shares


def _weights(mode: str | _Weights, sizes: Mapping[str, int], what: str, where: str) -> dict[str, float]:
    """Turn a mode into shares that sum to 1 over the names present."""
    weights = {"balanced": dict.fromkeys(sizes, 1.0), "natural": sizes}[mode] if isinstance(mode, str) else mode
    weights = {name: weights[name] for name in sizes}
    total = sum(weights.values())
    if not total:
        raise OptionError(f"sampling: {what}: all weights{where} are 0.")
    return {name: weight / total for name, weight in weights.items()}


def _check_names(mode: str | _Weights, names: list[str], what: str) -> None:
    if isinstance(mode, str):
        return
    for name in mode:
        if name not in names:
            raise OptionError(f"sampling: {what}: no pair is of '{name}'; found {names}.{did_you_mean(name, names)}")
    for name in names:
        if name not in mode:
            raise OptionError(f"sampling: {what}: '{name}' has no weight; give it one, 0 to leave it out.")


def _shares(
    groups: Mapping[_Group, np.ndarray], types: str | _Weights, sources: str | _Weights, tiers: _Weights
) -> list[float]:
    """Return the share of every group: its type's × its source's within the type × its tier's within both."""
    sizes: dict[str, Counter[str]] = {}
    for (rain_type, source, _), members in groups.items():
        sizes.setdefault(rain_type, Counter())[source] += len(members)
    _check_names(types, list(sizes), "types")
    _check_names(sources, sorted(set().union(*sizes.values())), "sources")
    type_shares = _weights(types, {name: found.total() for name, found in sizes.items()}, "types", "")
    shares = []
    for rain_type, source, tier in groups:
        share = type_shares[rain_type]
        if share:
            share *= _weights(sources, sizes[rain_type], "sources", f" of type '{rain_type}'")[source]
        present = [name for name in TIERS if (rain_type, source, name) in groups]
        shares.append(share * tiers[tier] / sum(tiers[name] for name in present))
    return shares


def _slots(sizes: list[int], shares: list[float]) -> np.ndarray:
    """Divide an epoch: the nearest whole numbers to share × N with the sum N (largest remainders), each at least 1."""
    total = math.ceil(max(size / share for size, share in zip(sizes, shares, strict=True)) - 1e-6)
    total = min(total, MAX_EPOCHS * sum(sizes))
    exact = np.array(shares) * total
    counts = np.floor(exact + 1e-6).astype(np.int64)
    short = max(0, total - int(counts.sum()))
    counts[np.argsort(-(exact - counts), kind="stable")[:short]] += 1
    return np.maximum(counts, 1)
