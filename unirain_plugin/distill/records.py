"""What passes through the pipeline: references, candidates, retrieved references, votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.distill.images import check_same_size, read_rgb


@dataclass(slots=True)
class Reference:
    """A real rainy image without label or ground truth (the paper's r ∈ D_r).

    Attributes:
        id: Unique name within the reference set; in ties the reference that is listed first wins.
        path: Image file.
        rain_type: Its type where known (measures retrieval; no decision uses it).
        caption: T_r, once the describing stage is done.
        measurements: Voter name → what that voter's ``measure_reference`` found.
    """

    id: str
    path: Path
    rain_type: str | None = None
    caption: str | None = None
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    _image: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> np.ndarray:
        """The rainy image, uint8 RGB (H, W, 3); read on first use.

        Raises:
            UnreadableImageError: If the file is missing or no image.
        """
        if self._image is None:
            self._image = read_rgb(self.path)
        return self._image

    def release(self) -> None:
        """Drop the image from memory; it is read again when asked for."""
        self._image = None


@dataclass(slots=True)
class Candidate:
    """A labelled pair of a public data set (the paper's q with its ground truth).

    Attributes:
        id: Unique name within the candidate manifest.
        lq_path: Rainy image.
        gt_path: Clean image of the same size.
        rain_type: One of the rain types, ``drs`` for example.
        source: Name of the data set it comes from.
        caption: T_q, once the describing stage is done.
        convert: Kinds of images to accept with a conversion.
    """

    id: str
    lq_path: Path
    gt_path: Path
    rain_type: str
    source: str
    caption: str | None = None
    convert: tuple[str, ...] = ()
    _lq: np.ndarray | None = field(default=None, repr=False, compare=False)
    _gt: np.ndarray | None = field(default=None, repr=False, compare=False)
    _derived: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lq(self) -> np.ndarray:
        """The rainy image, uint8 RGB (H, W, 3); read on first use.

        Raises:
            UnreadableImageError: If the file is missing, no image, or of a kind that is not accepted.
        """
        if self._lq is None:
            self._lq = read_rgb(self.lq_path, self.convert)
        return self._lq

    @property
    def gt(self) -> np.ndarray:
        """The clean image, uint8 RGB (H, W, 3), of the size of ``lq``; read on first use.

        Raises:
            UnreadableImageError: If the file is missing, no image, or of another size than ``lq``.
        """
        if self._gt is None:
            image = read_rgb(self.gt_path, self.convert)
            check_same_size(self.lq, image, self.lq_path, self.gt_path)
            self._gt = image
        return self._gt

    def preload(self, lq: np.ndarray, gt: np.ndarray) -> None:
        """Take images that were read elsewhere, so that they are not read again."""
        self._lq, self._gt = lq, gt

    def derived(self, key: str, compute: Callable[[Candidate], Any]) -> Any:
        """A result shared by several parts (luminance planes, say): computed once, dropped by :meth:`release`."""
        if key not in self._derived:
            self._derived[key] = compute(self)
        return self._derived[key]

    def release(self) -> None:
        """Drop images and derived results from memory; they are read again when asked for."""
        self._lq = self._gt = None
        self._derived.clear()


@dataclass(slots=True)
class Retrieved:
    """A reference that the cascade returned, with the similarities of the three levels (paper §2).

    Attributes:
        reference: The reference.
        s_txt: ‖φ_T(T_q) − φ_T(T_r)‖₂, smaller is nearer.
        s_vis: Cosine of the visual features, −1 to 1.
        s_perc: SSIM at the working size, −1 to 1; the list is sorted by it, best first.
    """

    reference: Reference
    s_txt: float
    s_vis: float
    s_perc: float


@dataclass(slots=True)
class VoteTask:
    """One question to a voter: the candidate, its retrieved references S(q), and what was measured before.

    Attributes:
        candidate: The pair; its images are read only if the voter touches them.
        retrieved: S(q), best first; never empty.
        measurements: Voter name → what that voter's ``measure`` found on this candidate. A voter may also read the
            others' measurements.
    """

    candidate: Candidate
    retrieved: list[Retrieved]
    measurements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Vote:
    """A voter's answer R^i.

    Attributes:
        voter: The voter's name.
        verdict: True: a realistic, useful training sample; False: not; None: the voter abstains or failed.
        reason: Why, in words.
        details: Whatever JSON can hold: the figures behind the verdict, a model's raw reply, ``failure`` after one.
    """

    voter: str
    verdict: bool | None
    reason: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The vote as it is written to the manifest."""
        return {"voter": self.voter, "verdict": self.verdict, "reason": self.reason, "details": self.details}
