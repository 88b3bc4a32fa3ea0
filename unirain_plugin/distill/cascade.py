"""The retrieval cascade (paper §2): semantic, visual, structural, for a batch of queries.

SSIM has the values of the toolbox's ``calculate_ssim`` (to 1e-5) at a fraction of its time: float32 around each image's
mean (which keeps the variances from cancelling), the Gaussian as two one-dimensional passes, what belongs to one image
computed once an image instead of once a pair, and arrays so small that they stay in the processor's cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unirain_plugin.distill.records import DistillError
from unirain_plugin.errors import OptionError, reason
from unirain_plugin.support.packages import require

_WINDOW, _SIGMA = 11, 1.5  # the toolbox's (and the SSIM paper's) Gaussian window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MARGIN = _WINDOW // 2
_KERNEL = cv2.getGaussianKernel(_WINDOW, _SIGMA).astype(np.float32)
MIN_SIZE = _WINDOW  # smallest side for which a window fits


@dataclass(frozen=True, slots=True)
class SsimTerms:
    """What SSIM needs of one image: float32 planes; the local ones have the H − 10 rows in which the window fits.

    They keep all W columns, so that they lie in memory without gaps; the outer five on either side do not count.
    """

    centred: np.ndarray  # pixels minus the image's mean, (H, W)
    mean: np.ndarray  # local mean of the centred pixels
    bright: np.ndarray  # local mean of the pixels
    bright2: np.ndarray  # its square + C1 / 2
    variance: np.ndarray  # local variance + C2 / 2


def ssim_terms(plane: np.ndarray) -> SsimTerms:
    """Prepare a uint8 plane (H, W), H and W ≥ 11."""
    centre = np.float32(cv2.mean(plane)[0])
    centred = np.subtract(plane, centre, dtype=np.float32)
    mean = _blur(centred)
    bright = mean + centre
    bright2 = bright * bright
    bright2 += np.float32(_C1 / 2)
    variance = _blur(centred * centred, _C2 / 2)
    variance -= mean * mean
    return SsimTerms(centred, mean, bright, bright2, variance)


def ssim_one_to_many(query: SsimTerms, others: Sequence[SsimTerms]) -> np.ndarray:
    """SSIM of a plane with each of ``others`` (all of one size, else ValueError), float64 (n,)."""
    if any(other.centred.shape != query.centred.shape for other in others):
        raise ValueError("SSIM needs planes of one size.")
    # In the notation of the SSIM paper, x: query, y: other, everything doubled once per query:
    twice, twice_mean, twice_bright = 2 * query.centred, 2 * query.mean, 2 * query.bright
    product, filtered = np.empty_like(query.centred), np.empty_like(query.centred)
    top = filtered[_MARGIN:-_MARGIN]
    term, low = np.empty_like(query.mean), np.empty_like(query.mean)
    counted = top[:, _MARGIN:-_MARGIN]
    values = np.empty(len(others), np.float64)
    for i, other in enumerate(others):
        np.multiply(twice, other.centred, out=product)
        cv2.sepFilter2D(product, -1, _KERNEL, _KERNEL, filtered, delta=_C2)
        np.multiply(twice_mean, other.mean, out=term)
        np.subtract(top, term, out=top)  # 2 σ_xy + C2
        np.multiply(twice_bright, other.bright, out=term)
        np.add(term, _C1, out=term)  # 2 μ_x μ_y + C1
        np.multiply(top, term, out=top)
        np.add(query.bright2, other.bright2, out=term)
        np.add(query.variance, other.variance, out=low)
        np.multiply(low, term, out=low)
        np.divide(top, low, out=top)
        values[i] = cv2.sumElems(counted)[0]
    return values / counted.size


def ssim_of_pairs(
    queries: np.ndarray, rows: Sequence[np.ndarray], load: Callable[[int], np.ndarray]
) -> list[np.ndarray]:
    """SSIM of each query (n, S, S) with references of its own, by their numbers ``rows``, in that order; float64.

    Each reference, a uint8 plane (S, S) that ``load`` gives, is prepared once however many queries share it.
    """
    terms = [ssim_terms(np.asarray(query)) for query in queries]
    values = [np.empty(len(numbers), np.float64) for numbers in rows]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for query, numbers in enumerate(rows):
        for place, number in enumerate(numbers.tolist()):
            wanted.setdefault(number, []).append((query, place))
    for number in sorted(wanted):  # in the order of the file
        pairs = wanted[number]
        found = ssim_one_to_many(ssim_terms(np.asarray(load(number))), [terms[query] for query, _ in pairs])
        for (query, place), value in zip(pairs, found, strict=True):
            values[query][place] = value
    return values


def _blur(plane: np.ndarray, more: float = 0.0) -> np.ndarray:
    """Gaussian window in the rows where it fits whole, (H − 10, W), plus a constant."""
    return cv2.sepFilter2D(plane, -1, _KERNEL, _KERNEL, delta=more)[_MARGIN:-_MARGIN]


_SPARE = 16
_ADD_ROWS = 65536
_TRAIN_ROWS = 200_000


def check_index(factory: str, file: Path | None) -> None:
    """See, before there are vectors, whether FAISS knows the index and the file is there; else OptionError."""
    faiss = require("faiss", "faiss-cpu", "distill")
    if file is not None and not file.is_file():
        raise OptionError(f"retrieval.index_file: there is no file {file}.")
    try:
        faiss.index_factory(64, factory)
    except RuntimeError as error:  # of 64 dimensions there need not be one
        if "could not parse" in str(error):
            raise OptionError(f"retrieval.index: FAISS knows no index '{factory}'; Flat, say, is one.") from None


def build_index(vectors: np.ndarray, rows: np.ndarray, factory: str) -> Any:
    """A FAISS index, position i holding ``vectors[rows[i]]``; OptionError if FAISS cannot make it of so few vectors."""
    faiss = require("faiss", "faiss-cpu", "distill")
    try:
        index = faiss.index_factory(vectors.shape[1], factory)
        if not index.is_trained:
            step = max(1, len(rows) // _TRAIN_ROWS)
            index.train(np.ascontiguousarray(vectors[rows[::step]], np.float32))
        for start in range(0, len(rows), _ADD_ROWS):
            index.add(np.ascontiguousarray(vectors[rows[start : start + _ADD_ROWS]], np.float32))
    except (RuntimeError, AssertionError) as error:
        over = f"{len(rows)} vectors of {vectors.shape[1]} dimensions: {reason(error).splitlines()[0]}"
        raise OptionError(f"retrieval.index: FAISS cannot build '{factory}' over {over}") from error
    return index


def read_index(path: Path, dimensions: int, count: int) -> Any:
    """Read an index file; OptionError if it is missing, broken, or made for other vectors than the references'."""
    faiss = require("faiss", "faiss-cpu", "distill")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise OptionError(f"{path}: FAISS cannot read this index: {str(error).splitlines()[0]}") from error
    if index.d != dimensions or index.ntotal != count:
        found, given = f"{index.ntotal} vectors of {index.d} dimensions", f"{count} vectors of {dimensions}"
        told = f"the index holds {found}; the text encoder gives {given}"
        raise OptionError(f"{path}: {told}. Build it anew from these references.")
    return index


class TextIndex:
    """Exact distances and a defined order on top of a FAISS index, whose position i belongs to ``rows[i]`` (ascending).

    FAISS's distances carry rounding and its order among equals is its own affair; so some more than K1 are asked for,
    their distances to ``vectors`` (n, d) computed in float64, and ties resolved by the references' order. With ``Flat``
    the result is that of a full search, ties at the border included; with other indexes it is as good as what they
    find. ``nprobe``: lists to search, for IVF indexes; OptionError for another index.
    """

    def __init__(self, index: Any, rows: np.ndarray, vectors: np.ndarray, nprobe: int | None = None) -> None:
        self._index, self._rows, self._vectors = index, rows, vectors
        self._exact = type(index).__name__ in ("IndexFlatL2", "IndexFlat")
        blocks = (vectors[start : start + _ADD_ROWS] for start in range(0, len(vectors), _ADD_ROWS))
        largest = max((np.square(block.astype(np.float64)).sum(1).max() for block in blocks), default=0.0)
        self._scale = float(np.sqrt(largest))
        if nprobe is not None:
            space = require("faiss", "faiss-cpu", "distill").ParameterSpace()
            try:
                space.set_index_parameter(index, "nprobe", nprobe)
            except RuntimeError as error:
                kind = type(index).__name__
                raise OptionError(f"retrieval.nprobe: is of IVF indexes; the index is a {kind}.") from error

    def nearest(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (n, d) the ``k`` nearest rows and their distances (float64), nearest first.

        A DistillError if the query vectors have another dimension, or an approximate index finds nothing.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.shape[1] != self._index.d:
            found = f"vectors of {self._index.d} dimensions, the queries have {queries.shape[1]}"
            raise DistillError(f"the index holds {found}.")
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


_BLOCK = 256  # queries that go through the levels together: their SSIM terms take 75 MB at 128²


@dataclass(frozen=True)
class ReferenceArrays:
    """What is known of all references, row by row; memory maps will do."""

    text: np.ndarray  # φ_T(T_r), float32 (n, d_t)
    visual: np.ndarray  # f_r, float32 (n, d_v)
    thumbnails: np.ndarray  # I_r at the working size, uint8 luma (n, S, S)


class Cascade:
    """Three levels, each over what the one before left: K1 ≥ K2 ≥ K3 (of fewer, all); ties by the references' order."""

    def __init__(self, index: TextIndex, references: ReferenceArrays, k1: int, k2: int, k3: int) -> None:
        if not k1 >= k2 >= k3 >= 1:
            raise ValueError(f"the cascade narrows: expected k1 ≥ k2 ≥ k3 ≥ 1, got {k1}, {k2}, {k3}.")
        self._index, self._references = index, references
        self._k1, self._k2, self._k3 = k1, k2, k3

    def retrieve(self, text: np.ndarray, visual: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Retrieve S(q) for a batch: φ_T(T_q) (n, d_t), f_q (n, d_v) and I_q, uint8 (n, S, S).

        Returns reference rows, int64 (n, K3), best first, −1 where there are fewer; and s_txt, s_vis, s_perc of each,
        float64 (n, K3, 3).
        """
        rows = np.full((len(text), self._k3), -1, np.int64)
        similarities = np.zeros((len(text), self._k3, 3))
        for start in range(0, len(text), _BLOCK):
            block = slice(start, start + _BLOCK)
            levels = []  # the rows of C2, most similar first, and their s_txt and s_vis
            for query, (c1, s_txt) in zip(visual[block], self._index.nearest(text[block], self._k1), strict=True):
                s_vis = cosine(query, self._references.visual[c1])
                keep = np.lexsort((c1, -s_vis))[: self._k2]
                levels.append((c1[keep], s_txt[keep], s_vis[keep]))
            structural = ssim_of_pairs(
                thumbnails[block], [c2 for c2, *_ in levels], self._references.thumbnails.__getitem__
            )
            for i, ((c2, s_txt, s_vis), s_perc) in enumerate(zip(levels, structural, strict=True), start):
                best = np.lexsort((c2, -s_perc))[: self._k3]
                rows[i, : len(best)] = c2[best]
                similarities[i, : len(best)] = np.column_stack([s_txt[best], s_vis[best], s_perc[best]])
        return rows, similarities


def cosine(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosine of a vector (d,) with each row (n, d) in float64; 0 where a vector is zero (our choice)."""
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.divide(rows @ query, norms, out=np.zeros(len(rows)), where=norms > 0)
