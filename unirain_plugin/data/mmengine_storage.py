"""mmengine's file backends (local disk, HTTP, object stores, LMDB, …) as storage of pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from unirain_plugin.data.lmdb import check_file
from unirain_plugin.data.pair_table import Pair
from unirain_plugin.data.storage import Side
from unirain_plugin.errors import DataError, OptionError

_clients: dict[tuple[tuple[str, str], ...], Any] = {}
# shared by all data sets of a process (an LMDB cannot be opened twice), given up in a forked child
os.register_at_fork(after_in_child=_clients.clear)


class MmengineStorage:
    """Reads through ``mmengine.fileio``.

    ``io_backend: {type: mmengine, backend: local}`` and what else the backend's constructor takes. The text values may
    hold ``{rain_type}`` and ``{side}`` (``lq`` or ``gt``), so that ``backend: lmdb`` with
    ``db_path: /data/{rain_type}/{side}.lmdb`` reads our LMDBs.
    """

    def __init__(self, root: str, backend_args: Mapping[str, Any]) -> None:
        """Take the prefix of the paths (empty: none) and the backend's arguments.

        Raises:
            OptionError: If the backend is unknown or refuses its arguments.
        """
        self.root = root
        self._arguments = {key: value for key, value in backend_args.items() if key != "type"}
        if not isinstance(self._arguments.get("backend"), str):
            raise OptionError("io_backend: mmengine needs the key backend, such as local, lmdb, http or petrel.")
        self.client(Pair("", "", "drs"), "lq")

    def client(self, pair: Pair, side: Side) -> Any:
        """Return this process's backend for one side of a pair, made when first asked for."""
        arguments = {
            key: value.format(rain_type=pair.rain_type, side=side) if isinstance(value, str) else value
            for key, value in self._arguments.items()
        }
        identity = tuple(sorted((key, str(value)) for key, value in arguments.items()))
        if identity not in _clients:
            try:
                from mmengine.fileio import get_file_backend
            except ImportError as error:
                raise ImportError("io_backend mmengine needs the package mmengine: pip install mmengine") from error
            path = str(arguments.get("db_path"))
            if arguments["backend"] == "lmdb" and os.path.isdir(path):
                check_file(path)
            try:
                _clients[identity] = get_file_backend(backend_args=arguments)
            except (AssertionError, KeyError, TypeError, ValueError) as error:
                raise OptionError(f"io_backend: mmengine refuses {arguments}: {error}.") from None
        return _clients[identity]

    def locate(self, pair: Pair, side: Side) -> str:
        """See :class:`unirain_plugin.data.storage.Storage`."""
        path = pair.lq if side == "lq" else pair.gt
        return f"{self.root.rstrip('/')}/{path}" if self.root else path

    def read(self, pair: Pair, side: Side) -> bytes:
        """See :class:`unirain_plugin.data.storage.Storage`."""
        name = self.locate(pair, side)
        key = (pair.lq if side == "lq" else pair.gt) if self._arguments["backend"] == "lmdb" else name
        try:
            value = self.client(pair, side).get(key)
        except ImportError:
            raise
        except Exception as error:  # every backend has its own exceptions
            raise DataError(f"{name}: cannot be read through mmengine: {error}.") from None
        if value is None:
            raise DataError(f"{name}: mmengine's backend '{self._arguments['backend']}' has no such entry.")
        return bytes(value)
