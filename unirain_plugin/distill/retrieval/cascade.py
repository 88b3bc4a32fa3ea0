"""The cascade: semantic, visual, structural (paper §2), for a batch of queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unirain_plugin.distill.retrieval.ssim import ssim_of_pairs
from unirain_plugin.distill.retrieval.text_index import TextIndex

_BLOCK = 256
"""Queries that go through the levels together: their SSIM terms take 75 MB at 128²."""


@dataclass(frozen=True)
class ReferenceArrays:
    """What is known of all references, row by row; memory maps will do.

    Attributes:
        text: φ_T(T_r), float32 (n, d_t).
        visual: f_r, float32 (n, d_v).
        thumbnails: I_r at the working size, uint8 luma (n, S, S).
    """

    text: np.ndarray
    visual: np.ndarray
    thumbnails: np.ndarray


class Cascade:
    """Three levels, each over what the one before has left: K1 ≥ K2 ≥ K3.

    Ties are resolved by the references' order at every level, so the result is defined to the last row. Fewer
    references than K1, K2 or K3 are all kept.
    """

    def __init__(self, index: TextIndex, references: ReferenceArrays, k1: int, k2: int, k3: int) -> None:
        if not k1 >= k2 >= k3 >= 1:
            raise ValueError(f"the cascade narrows: expected k1 ≥ k2 ≥ k3 ≥ 1, got {k1}, {k2}, {k3}.")
        self._index, self._references = index, references
        self._k1, self._k2, self._k3 = k1, k2, k3

    def retrieve(self, text: np.ndarray, visual: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Retrieve S(q) for a batch.

        Args:
            text: φ_T(T_q), (n, d_t).
            visual: f_q, (n, d_v).
            thumbnails: I_q, uint8 (n, S, S).

        Returns:
            Reference rows, int64 (n, K3), best first, −1 where there are fewer; and s_txt, s_vis, s_perc of each,
            float64 (n, K3, 3).
        """
        rows = np.full((len(text), self._k3), -1, np.int64)
        similarities = np.zeros((len(text), self._k3, 3))
        for start in range(0, len(text), _BLOCK):
            block = slice(start, start + _BLOCK)
            levels = [
                self._visual(query, *found)
                for query, found in zip(visual[block], self._semantic(text[block]), strict=True)
            ]
            structural = ssim_of_pairs(
                thumbnails[block], [c2 for c2, _ in levels], self._references.thumbnails.__getitem__
            )
            for i, ((c2, first_two), s_perc) in enumerate(zip(levels, structural, strict=True), start):
                best = np.lexsort((c2, -s_perc))[: self._k3]
                rows[i, : len(best)] = c2[best]
                similarities[i, : len(best)] = np.column_stack([first_two[best], s_perc[best]])
        return rows, similarities

    def _semantic(self, text: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._index.nearest(text, self._k1)

    def _visual(self, query: np.ndarray, c1: np.ndarray, s_txt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of C2, most similar first, and their s_txt and s_vis (k2, 2)."""
        s_vis = cosine(query, self._references.visual[c1])
        keep = np.lexsort((c1, -s_vis))[: self._k2]
        return c1[keep], np.column_stack([s_txt[keep], s_vis[keep]])


def cosine(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosine of a vector (d,) with each row (n, d) in float64; 0 where a vector is zero (our choice)."""
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.divide(rows @ query, norms, out=np.zeros(len(rows)), where=norms > 0)
