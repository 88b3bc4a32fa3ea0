"""Where the bytes of a pair lie: on disk, in LMDBs, or behind one of mmengine's file backends."""

from __future__ import annotations

import os
from typing import Literal, Protocol

from unirain_plugin.data.pair_files import read_file
from unirain_plugin.data.pair_table import Pair

Side = Literal["lq", "gt"]


class Storage(Protocol):
    """Reads the bytes of one side of a pair."""

    def locate(self, pair: Pair, side: Side) -> str:
        """Return the name of the image for the item and for error texts."""
        ...

    def read(self, pair: Pair, side: Side) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: If there is none, naming it.
        """
        ...


class DiskStorage:
    """Files below one folder."""

    def __init__(self, root: str) -> None:
        """Take the folder that the pairs' paths are relative to."""
        self.root = root

    def locate(self, pair: Pair, side: Side) -> str:
        """See :class:`Storage`."""
        return os.path.join(self.root, pair.lq if side == "lq" else pair.gt)

    def read(self, pair: Pair, side: Side) -> bytes:
        """See :class:`Storage`."""
        return read_file(self.locate(pair, side))
