"""Which label is which rain type: checks labels and names that reach the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unirain_plugin.errors import CheckpointError, DataError, OptionError, did_you_mean
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids


class RainLabels:
    """The rain types of a loss, in their order, with the integer label of each.

    Args:
        rain_types: Names; their labels come from :func:`~unirain_plugin.rain_types.rain_type_ids`.
        num_types: Instead: labels 0 to num_types − 1, named drs, drd, nrs, nrd, type4, type5, …. Both None: the four.

    Raises:
        OptionError: If a name is malformed, the number is no positive integer, or both are given and disagree.
    """

    def __init__(self, rain_types: Sequence[str] | None = None, num_types: int | None = None) -> None:
        if num_types is not None and (isinstance(num_types, bool) or not isinstance(num_types, int) or num_types < 1):
            raise OptionError(f"num_types: found {num_types!r}; expected an integer, 1 or more.")
        if rain_types is None:
            count = len(RAIN_TYPES) if num_types is None else num_types
            rain_types = [RAIN_TYPES[i] if i < len(RAIN_TYPES) else f"type{i}" for i in range(count)]
        elif isinstance(rain_types, str):
            raise OptionError(f"rain_types: found the text {rain_types!r}; expected a list such as [drs, drd].")
        ids = rain_type_ids(rain_types)
        if num_types is not None and num_types != len(ids):
            raise OptionError(f"num_types: found {num_types}, but rain_types lists {len(ids)}; give one of the two.")
        self.names: tuple[str, ...] = tuple(ids)
        self._position = {label: position for position, label in enumerate(ids.values())}

    def indices(self, rain_type: Tensor | Sequence[int], batch: int) -> Tensor:
        """Positions (N,), int64 on the CPU, of the labels (N,) among this loss's types.

        Raises:
            DataError: If the labels are not N integers, or one is none of this loss's types.
        """
        labels = rain_type if isinstance(rain_type, Tensor) else torch.as_tensor(rain_type)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != batch or labels.dim() > 1:
            raise DataError(
                f"rain_type: found shape {tuple(labels.shape)} of {labels.dtype}; expected ({batch},) integers, one "
                "a sample."
            )
        found = labels.reshape(-1).tolist()
        unknown = sorted(set(found) - set(self._position))
        if unknown:
            raise DataError(
                f"rain_type: label {unknown[0]} is none of the loss's rain types "
                f"({', '.join(f'{name} = {label}' for name, label in zip(self.names, self._position, strict=True))}); "
                "the data set's and the loss's rain_types must agree."
            )
        return torch.tensor([self._position[label] for label in found], dtype=torch.int64)

    def ordered(self, values: Mapping[str, float]) -> list[float | None]:
        """Values by name, in the order of the types; None for those left out.

        Raises:
            DataError: If a name is none of this loss's types.
        """
        for name in values:
            if name not in self.names:
                raise DataError(
                    f"{name!r} is none of the loss's rain types ({', '.join(self.names)})."
                    + did_you_mean(name, self.names)
                )
        return [values.get(name) for name in self.names]

    def check_same(self, names: object) -> None:
        """Raise CheckpointError unless ``names``, from a checkpoint, are this loss's."""
        if list(names or ()) != list(self.names):
            raise CheckpointError(
                f"loss state: it was saved for the rain types {names}, but this run has {list(self.names)}."
            )
