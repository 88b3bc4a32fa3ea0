"""The semantic level: the K1 nearest references by L2 distance of their captions' vectors, through FAISS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.errors import DistillError
from unirain_plugin.errors import OptionError
from unirain_plugin.support.packages import require

_SPARE = 16
_ADD_ROWS = 65536
_TRAIN_ROWS = 200_000


def build_index(vectors: np.ndarray, rows: np.ndarray, factory: str) -> Any:
    """Build a FAISS index over the given rows of ``vectors`` (a memory map will do), position i holding ``rows[i]``.

    Raises:
        OptionError: If FAISS does not understand the string or cannot train it on so few vectors.
    """
    faiss = require("faiss", "faiss-cpu", "distill")
    try:
        index = faiss.index_factory(vectors.shape[1], factory)
        if not index.is_trained:
            step = max(1, len(rows) // _TRAIN_ROWS)
            index.train(np.ascontiguousarray(vectors[rows[::step]], np.float32))
        for start in range(0, len(rows), _ADD_ROWS):
            index.add(np.ascontiguousarray(vectors[rows[start : start + _ADD_ROWS]], np.float32))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OptionError(
            f"retrieval.index: FAISS cannot build '{factory}' over {len(rows)} vectors of {vectors.shape[1]} "
            f"dimensions: {reason}"
        ) from error
    return index


def read_index(path: Path, dimensions: int, count: int) -> Any:
    """Read an index file and check that it fits the references.

    Raises:
        OptionError: If it is missing, broken, or made for other vectors.
    """
    faiss = require("faiss", "faiss-cpu", "distill")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise OptionError(f"{path}: FAISS cannot read this index: {str(error).splitlines()[0]}") from error
    if index.d != dimensions or index.ntotal != count:
        raise OptionError(
            f"{path}: the index holds {index.ntotal} vectors of {index.d} dimensions; the text encoder gives {count} "
            f"vectors of {dimensions}. Build it anew from these references."
        )
    return index


class TextIndex:
    """Exact distances and a defined order on top of a FAISS index.

    FAISS's distances carry rounding and its order among equals is its own affair; so some more than K1 are asked for,
    their distances computed in float64, and ties resolved by the references' order. With ``Flat`` the result is that
    of a full search, ties at the border included; with other indexes it is as good as what they find.

    Args:
        index: FAISS index; position i belongs to ``rows[i]``.
        rows: Reference numbers, ascending.
        vectors: Text vectors of all references (n, d), a memory map will do.
        nprobe: Lists to search, for IVF indexes.

    Raises:
        OptionError: If ``nprobe`` is given for another index.
    """

    def __init__(self, index: Any, rows: np.ndarray, vectors: np.ndarray, nprobe: int | None = None) -> None:
        self._index, self._rows, self._vectors = index, rows, vectors
        self._exact = type(index).__name__ in ("IndexFlatL2", "IndexFlat")
        self._scale = float(np.sqrt(_largest_norm2(vectors)))
        if nprobe is not None:
            space = require("faiss", "faiss-cpu", "distill").ParameterSpace()
            try:
                space.set_index_parameter(index, "nprobe", nprobe)
            except RuntimeError as error:
                kind = type(index).__name__
                raise OptionError(f"retrieval.nprobe: is of IVF indexes; the index is a {kind}.") from error

    def nearest(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (n, d) the ``k`` nearest rows and their distances (float64), nearest first.

        Raises:
            DistillError: If the query vectors have another dimension, or an approximate index finds nothing.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.shape[1] != self._index.d:
            raise DistillError(
                f"the index holds vectors of {self._index.d} dimensions, the queries have {queries.shape[1]}."
            )
        results: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(queries)
        pending, count = np.arange(len(queries)), min(len(self._rows), k + _SPARE)
        while len(pending):
            rough, places = self._index.search(queries[pending], count)
            undecided = []
            for query, distances, found in zip(pending, rough, places, strict=True):
                rows, exact = self._rank(queries[query], found[found >= 0])
                if self._border_open(queries[query], distances, exact, k, count):
                    undecided.append(query)
                else:
                    results[query] = rows[:k], np.sqrt(exact[:k])
            pending, count = np.array(undecided, np.int64), min(len(self._rows), 4 * count)
        return results  # type: ignore[return-value]

    def _rank(self, query: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(places):
            raise DistillError("the index finds no neighbour at all for a caption; raise retrieval.nprobe or use Flat.")
        rows = self._rows[np.sort(places)]
        difference = self._vectors[rows].astype(np.float64) - query
        exact = np.einsum("nd,nd->n", difference, difference)
        order = np.argsort(exact, kind="stable")
        return rows[order], exact[order]

    def _border_open(self, query: np.ndarray, rough: np.ndarray, exact: np.ndarray, k: int, count: int) -> bool:
        """Whether a row that FAISS left out could still be as near as the k-th."""
        if not self._exact or count >= len(self._rows) or len(exact) <= k:
            return False
        rounding = 2e-6 * (float(np.linalg.norm(query)) + self._scale) ** 2
        return bool(exact[k - 1] >= float(rough[-1]) - rounding)


def _largest_norm2(vectors: np.ndarray) -> float:
    blocks: Sequence[int] = range(0, len(vectors), _ADD_ROWS)
    return max(
        (float(np.square(vectors[s : s + _ADD_ROWS].astype(np.float64)).sum(1).max()) for s in blocks), default=0.0
    )
