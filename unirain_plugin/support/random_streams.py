"""The random streams of a process (Python, NumPy, torch, CUDA): read, restored, or seeded for a moment."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Every global stream's state, of plain types for ``torch.load(weights_only=True)``; ``cuda`` if in use."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_cuda else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set every stream to what :func:`random_state` returned. A CUDA state is left out where CUDA is absent."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def preserved_streams() -> Iterator[None]:
    """Leave the random streams as they were: even making a loader's iterator draws from torch's."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def mixed_seed(*numbers: int) -> int:
    """One well-mixed seed in [0, 2⁶³) from several small non-negative ones: neighbours give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded_streams(*numbers: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU stream from ``numbers``; afterwards they stand where they stood."""
    seed = mixed_seed(*numbers)
    with preserved_streams():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.default_generator.manual_seed(seed)
        yield
