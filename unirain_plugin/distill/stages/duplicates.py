"""Finds repeated pairs: the same rainy image with the same ground truth, copied or coded anew.

Pairs that share a scene but not the rain (14 rains on one clean image in Rain1400, frames of one video in SPA-Data) are
no duplicates; so the rain layer, lq − gt, is compared with as much care as the scene. Three steps, each for fewer
pairs, so that the time grows with the number of candidates and not with its square: equal bands of a hash → coarse
planes alike → the files themselves alike.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from unirain_plugin.distill.job import Context, Stage
from unirain_plugin.distill.records import Candidate, luminance, shared_luminance, thumbnail
from unirain_plugin.distill.workspace import load_rows, row_blocks, save_rows

SIDE = 32
_BANDS, _BITS = 10, 12
"""12 bits of the scene and 12 of the rain a band: 2 M candidates share a band by chance 0.1 times."""
_LEADERS = 16
_PROJECTIONS = np.random.default_rng(20260303).choice([-1.0, 1.0], (_BANDS * _BITS, SIDE * SIDE)).astype(np.float32)


def pair_planes(candidate: Candidate) -> np.ndarray:
    """The scene and the rain of a pair, coarsely: int8 (2, 32, 32), gt − 128 and (lq − gt) / 2."""
    lq, gt = (thumbnail(shared_luminance(image), SIDE).astype(np.int16) for image in (candidate.lq, candidate.gt))
    return np.stack([gt - 128, (lq - gt) // 2]).astype(np.int8)


def band_keys(planes: np.ndarray) -> np.ndarray:
    """Similarity hashes: int8 (n, 2, 32, 32) → uint32 (n, 10); pairs alike agree in some band almost surely."""
    flat = planes.reshape(len(planes), 2, -1).astype(np.float32)
    flat -= flat.mean(axis=2, keepdims=True)
    signs = (flat @ _PROJECTIONS.T > 0).reshape(len(planes), 2, _BANDS, _BITS)
    weights = 1 << np.arange(_BITS, dtype=np.uint32)
    scene, rain = ((signs[:, which] * weights).sum(axis=2, dtype=np.uint32) for which in (0, 1))
    return scene << np.uint32(_BITS) | rain


def find_duplicates(
    keys: np.ndarray,
    digests: np.ndarray,
    planes: Callable[[int], np.ndarray],
    load: Callable[[int], Candidate],
    release: bool = True,
) -> np.ndarray:
    """For each candidate the first one that it repeats, or −1: int64 (n,).

    ``keys``: :func:`band_keys`, uint32 (n, 10); ``digests``: a hash of each pair's two files, uint64 (n, 2), of which
    equal ones are duplicates without a further look; ``planes``: number → :func:`pair_planes`; ``load``: number →
    candidate; ``release``: drop the images of candidates after comparing them.
    """
    original = np.full(len(keys), -1, np.int64)
    for group in _groups(digests[:, 0] ^ (digests[:, 1] << np.uint64(1))):
        same = group[(digests[group] == digests[group[0]]).all(axis=1)]
        original[same[1:]] = same[0]
    pairs = np.unique(np.concatenate([_neighbours(keys[:, band], original) for band in range(keys.shape[1])]), axis=0)
    for later, earlier in (pair.tolist() for pair in pairs):
        if original[later] >= 0 or original[earlier] >= 0:
            continue
        if _planes_alike(planes(earlier), planes(later)) and files_alike(load(earlier), load(later), release):
            original[later] = earlier
    return original


def find_duplicates_among(candidates: Sequence[Candidate]) -> list[int]:
    """The same for candidates in memory or on disk: for each the position of the one that it repeats, or −1."""
    planes = np.stack([pair_planes(candidate) for candidate in candidates])
    digests = np.stack([content_digest(candidate.lq.tobytes(), candidate.gt.tobytes()) for candidate in candidates])
    return find_duplicates(band_keys(planes), digests, planes.__getitem__, candidates.__getitem__, False).tolist()


def content_digest(*contents: bytes) -> np.ndarray:
    """One 64-bit hash for each content, uint64 (n,)."""
    return np.frombuffer(b"".join(hashlib.sha256(c).digest()[:8] for c in contents), np.uint64)


def _groups(values: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of equal values, in ascending order, where there are at least two."""
    order = np.argsort(values, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values[order])) + 1, [len(order)]])
    for place in np.flatnonzero(np.diff(starts) > 1):
        yield order[starts[place] : starts[place + 1]]


def _neighbours(values: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Pairs (later, earlier) to compare, int32 (n, 2): in a crowded band only the first few members stand for it."""
    fresh = np.flatnonzero(original < 0).astype(np.int32)
    found = [np.zeros((0, 2), np.int32)]
    for group in _groups(values[fresh]):
        members = fresh[group]
        for place, leader in enumerate(members[: min(_LEADERS, len(members) - 1)], 1):
            found.append(np.stack([members[place:], np.full(len(members) - place, leader, np.int32)], axis=1))
    return np.concatenate(found)


def _planes_alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether scenes agree to 4 grey levels and rain layers to a sixth of their energy (coding noise: half a level)."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    if np.abs(first[0] - second[0]).mean() > 4:
        return False
    energy = (np.square(first[1]).mean() + np.square(second[1]).mean()) / 2
    return bool(np.square(first[1] - second[1]).mean() <= energy / 6 + 0.25)


def files_alike(first: Candidate, second: Candidate, release: bool = True) -> bool:
    """Whether both images of two pairs agree but for coding: one moved by a pixel, blurred or brightened does not."""
    try:
        return all(_images_alike(a, b) for a, b in ((first.gt, second.gt), (first.lq, second.lq)))
    finally:
        if release:
            first.release()
            second.release()


def _images_alike(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = luminance(first), luminance(second)
    if first.shape != second.shape:
        size = (min(first.shape[1], second.shape[1]), min(first.shape[0], second.shape[0]))
        first, second = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (first, second))
    first, second = cv2.blur(first, (3, 3)), cv2.blur(second, (3, 3))  # takes coding noise, leaves shifts
    shift = cv2.absdiff(first[:, 1:], first[:, :-1]).mean() if first.shape[1] > 1 else 0.0
    return bool(cv2.absdiff(first, second).mean() <= 0.35 * shift + 0.5)


class FindDuplicates(Stage):
    """Writes, for each candidate, the number of the one that it repeats, or −1."""

    name = "duplicates"
    whole = True
    title = "find duplicates"
    upstream = ("candidates",)

    @classmethod
    def depends_on(cls, context: Context) -> dict[str, Any]:
        return {"format": 1, "duplicates": context.options.duplicates}

    def run(self, shard: int) -> None:
        context, job = self.context, self.context.job
        original = np.full(job.candidates, -1, np.int64)
        if context.options.duplicates == "reject":
            shards = job.shards(job.candidates)
            digests = np.concatenate(list(row_blocks(context.workspace, "candidates", "digests", shards)))
            blocks = row_blocks(context.workspace, "candidates", "planes", shards)
            keys = np.concatenate([band_keys(np.asarray(block)) for block in blocks])
            rows = np.flatnonzero(digests.any(axis=1))  # the others could not be read
            size = context.options.shard_size
            opened = lru_cache(maxsize=256)(lambda s: load_rows(context.workspace.shard("candidates", s), "planes"))
            found = find_duplicates(
                keys[rows],
                digests[rows],
                planes=lambda i: opened(int(rows[i]) // size)[rows[i] % size],
                load=lambda i: context.candidate(int(rows[i])),
            )
            original[rows] = np.where(found >= 0, rows[np.maximum(found, 0)], -1) if len(rows) else original[rows]
        with context.workspace.writing(self.name, shard) as folder:
            save_rows(folder, "original", original)
