"""From the data set's options to its table of pairs and the storage that holds their bytes."""

from __future__ import annotations

import os

from unirain_plugin.data.dataset_options import DatasetOptions
from unirain_plugin.data.pair_table import PairTable
from unirain_plugin.data.rainrag_folder import find_types, scan_rainrag
from unirain_plugin.data.storage import DiskStorage, Storage


def open_source(options: DatasetOptions) -> tuple[PairTable, Storage, tuple[str, ...]]:
    """List the pairs that the options name.

    Returns:
        The pairs, their storage, and the rain types in the order of their labels.

    Raises:
        DataError: If folders, files or pairs are missing.
    """
    root = os.path.expanduser(options.dataroot)
    types = find_types(root, options.rain_types)
    return scan_rainrag(root, types), DiskStorage(root), tuple(types)
