"""The sections ``test_sets`` of a comparison's option file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unirain_plugin.rain_types import RAIN_TYPES


@dataclass(frozen=True)
class SynthesizeOptions:
    """A test set rendered with ``synthesize-rain`` into the output folder; the same settings give the same pictures.

    Attributes:
        input: Folder of clean photographs; null for those that scikit-image installs.
        split: Without ``input``: ``held-out``, ``train`` or ``all``.
        rain_types: What is rendered onto each photograph.
        per_image: Pairs for each photograph and type.
        size: Side of the pictures, or [height, width]; null for whole photographs.
        seed: Of the rain.
    """

    input: Path | None = None
    split: Literal["held-out", "train", "all"] = "held-out"
    rain_types: list[str] = field(default_factory=lambda: list(RAIN_TYPES))
    per_image: int = 1
    size: int | list[int] | None = 256
    seed: int = 0


@dataclass(frozen=True)
class SetOptions:
    """One test set: exactly one of ``lq``, ``dataroot``, ``manifest`` and ``synthesize``.

    Attributes:
        name: Its name in tables.
        lq: Folder of rainy pictures, or an LMDB of them.
        gt: Folder (LMDB) of the clean pictures with the same names; null where there are none.
        rain_type: The rain type of the pictures in ``lq``, if they have one.
        dataroot: Folder ``{type}/{input,target}`` (RainRAG's layout), or of LMDBs ``{type}/{lq,gt}.lmdb``; with
            ``manifest``: the folder that its paths are relative to.
        rain_types: Which types of ``dataroot`` or ``manifest``; null for all.
        manifest: JSON lines of pairs.
        rejected: Take also the pairs that distillation has rejected.
        synthesize: Renders a test set.
        limit: At most so many pictures of each rain type, the first ones.
    """

    name: str
    lq: Path | None = None
    gt: Path | None = None
    rain_type: str | None = None
    dataroot: Path | None = None
    rain_types: list[str] | None = None
    manifest: Path | None = None
    rejected: bool = False
    synthesize: SynthesizeOptions | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        root = self.dataroot if self.manifest is None else None
        if sum(source is not None for source in (self.lq, root, self.manifest, self.synthesize)) != 1:
            raise ValueError("give exactly one of `lq`, `dataroot`, `manifest` and `synthesize`.")
        for key, owner in (("gt", "lq"), ("rain_type", "lq"), ("rejected", "manifest")):
            if getattr(self, key) and getattr(self, owner) is None:
                raise ValueError(f"`{key}` goes with `{owner}`.")
        if self.rain_types is not None and root is None and self.manifest is None:
            raise ValueError("`rain_types` goes with `dataroot` or `manifest`.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected at least 1, got {self.limit}.")


def check_name(name: str) -> None:
    """Refuse what cannot name a folder.

    Raises:
        ValueError: Telling what is allowed.
    """
    if not name.strip() or re.search(r'[/\\\0<>:"|?*\n]', name) or name.startswith("."):
        raise ValueError(f'name: got {name!r}; it names a folder: no slashes, no < > : " | ? *, no leading dot.')
