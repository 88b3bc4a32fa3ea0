"""Where pairs come from: folders and manifests on disk, LMDBs in the toolbox's format, mmengine's file backends.

py-lmdb refuses to open one path twice in a process, and environments can neither be used after a fork nor pickled. So
they live in this module, by real path, are closed in a forked child, and never are part of a data set.
"""

import os
import re
import struct
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import lmdb

from unirain_plugin.data.dataset_options import DatasetOptions
from unirain_plugin.data.folders import find_types, scan_rainrag, types_in_order
from unirain_plugin.data.manifest import typed_records
from unirain_plugin.data.pairs import Pair, PairTable, Side, read_file
from unirain_plugin.data.partial_decode import RowIndex
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.support.files import read_errors


class Storage:
    """Reads the bytes of pairs: here from files below one folder, in the classes below from elsewhere."""

    def __init__(self, root: str) -> None:
        self.root = root  # the folder that the pairs' paths are relative to

    def locate(self, pair: Pair, side: Side) -> str:
        """Return the name of the image for the item and for error texts."""
        return os.path.join(self.root, pair.path(side))

    def read(self, pair: Pair, side: Side) -> bytes:
        """Return the encoded image; a DataError names one that is missing."""
        return read_file(self.locate(pair, side))

    def read_part(self, pair: Pair, side: Side) -> tuple[bytes | memoryview, RowIndex | None]:
        """Return the encoded image, and the index of its rows where there is one; then its bytes are not copied."""
        return self.read(pair, side), None


META_FILE = "meta_info.txt"
DATA_FILE = "data.mdb"
_META_LINE = re.compile(r"(?P<key>\S.*)\.\w+ \((\d{1,9}),(\d{1,9}),(\d{1,9})\) -?\d+")

ROWS = b".rows"  # name of the table of row indexes in an LMDB, by the images' keys; none of our keys holds a dot


_opened: dict[str, tuple[lmdb.Environment, Any]] = {}  # by real path, and by the paths that were asked for


def close_environments() -> None:
    """Close all environments of this process: after a fork, or before their files are replaced."""
    for opened, _ in _opened.values():
        opened.close()
    _opened.clear()


os.register_at_fork(after_in_child=close_environments)


_Head = namedtuple("_Head", "flags magic version page_size free_root root last_page transaction")
"""One of the two header pages of a data file, as LMDB 0.9 lays them out on 64-bit machines."""
_HEAD = struct.Struct("<10xH4x II 16x I36xQ 40xQ QQ")
_MAGIC, _VERSION, _META_PAGE, _TREE_PAGE, _NO_PAGE = 0xBEEFC0DE, 1, 0x08, 0x03, 2**64 - 1


def check_file(path: str) -> None:
    """Look at an LMDB's data file before lmdb maps it: on a damaged one lmdb ends the process, without a word.

    A few hundred bytes are read: the two header pages and the heads of the pages that they point at. A DataError says
    what is missing, cut short or damaged.
    """
    name = os.path.join(path, DATA_FILE)
    if not os.path.isfile(name):
        raise DataError(f"{path}: no LMDB (a folder with {DATA_FILE} and {META_FILE}).")
    with read_errors(name), open(name, "rb") as file:
        problem = _file_problem(file.fileno())
    if problem:
        raise DataError(f"{name}: the LMDB is damaged: {problem}. Make it anew, or take a copy that is whole.")


def _file_problem(file: int) -> str | None:
    size = os.fstat(file).st_size
    if not size:
        return "the file is empty"
    heads: list[_Head] = []
    for number in (0, 1):
        data = os.pread(file, _HEAD.size, heads[0].page_size if heads else 0)
        if len(data) < _HEAD.size:
            return f"its {size} bytes are too few for a header"
        head = _Head(*_HEAD.unpack(data))
        if head.magic != _MAGIC or not head.flags & _META_PAGE:
            return f"header page {number} holds no LMDB header"
        if head.version != _VERSION:
            return f"header page {number} names version {head.version} of the format, expected {_VERSION}"
        if head.page_size.bit_count() != 1 or not 256 <= head.page_size <= 65536:
            return f"header page {number} names pages of {head.page_size} bytes"
        heads.append(head)
    if heads[0].page_size != heads[1].page_size:
        return f"its headers name pages of {heads[0].page_size} and of {heads[1].page_size} bytes"
    head = max(heads, key=lambda each: each.transaction)
    expected = (head.last_page + 1) * head.page_size
    if size < expected:
        return f"it is cut short: found {size} bytes, expected {expected}"
    for root in {head.free_root, head.root} - {_NO_PAGE}:
        start = os.pread(file, 12, root * head.page_size) if root <= head.last_page else bytes(12)
        page, flags = struct.unpack("<Q2xH", start)
        if page != root or not flags & _TREE_PAGE:
            return f"its header points at page {root}, which is no page of the index"
    return None


def environment(path: str) -> lmdb.Environment:
    """The process's read-only environment of an LMDB, opened when first asked for; else DataError."""
    return _open(path)[0]


def _open(path: str) -> tuple[lmdb.Environment, Any]:
    """An LMDB's environment, and the handle of its table of row indexes, None where it has none."""
    if path not in _opened:
        real = os.path.realpath(path)
        if real not in _opened:
            check_file(path)
            rows, how = None, dict(readonly=True, lock=False, readahead=False, meminit=False, max_dbs=1)
            try:
                found = lmdb.open(os.fsencode(real), **how)
                with suppress(lmdb.NotFoundError):
                    rows = found.open_db(ROWS, create=False)
            except lmdb.Error as error:
                raise DataError(f"{path}: the LMDB cannot be opened: {error}.") from None
            _opened[real] = found, rows
        _opened[path] = _opened[real]
    return _opened[path]


def count_entries(opened: lmdb.Environment) -> int:
    with opened.begin() as transaction:
        return transaction.stat()["entries"] - (transaction.get(ROWS) is not None)


def read_value(path: str, key: str) -> bytes:
    """The bytes stored under a key; a DataError names the LMDB and the key."""
    return bytes(_view(path, key, with_index=False)[0])


def read_seekable(path: str, key: str) -> tuple[bytes | memoryview, RowIndex | None]:
    """The bytes stored under a key, and the index of their rows if there is one; else DataError.

    With an index the bytes are a view of the file, of which only what is looked at is read, until
    :func:`close_environments`.
    """
    value, index = _view(path, key)
    if index is None:
        return bytes(value), None
    return value, RowIndex.from_bytes(index, f"{path}/{key}")


def _view(path: str, key: str, with_index: bool = True) -> tuple[memoryview, memoryview | None]:
    (opened, rows), name = _open(path), key.encode("utf-8")
    try:
        with opened.begin(buffers=True) as transaction:
            value = transaction.get(name)
            index = transaction.get(name, db=rows) if with_index and rows is not None else None
    except lmdb.Error as error:
        raise DataError(f"{path}: key '{key}' cannot be read: {error}.") from None
    if value is None:
        hint = "create-lmdb with all manifests and the same --output adds what is missing."
        raise DataError(f"{path}: the LMDB has no key '{key}'; {hint}")
    return value, index


class MetaEntry(NamedTuple):
    key: str
    height: int
    width: int
    channels: int


def read_meta(path: str) -> Iterator[MetaEntry]:
    """Yield the entries of an LMDB's ``meta_info.txt`` (``key.png (h,w,c) level`` a line).

    The key ends at the last suffix; the toolbox cuts at the first dot, where two may collide. A DataError tells
    ``file:line`` of what is malformed or listed twice, or what of the LMDB is damaged.
    """
    check_file(path)
    meta = os.path.join(path, META_FILE)
    seen: set[str] = set()
    if os.path.exists(meta) and not os.path.isfile(meta):
        raise DataError(f"{meta}: cannot be read: it is no file.")
    try:
        with open(meta, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                match = _META_LINE.fullmatch(line.rstrip("\n"))
                if match is None:
                    raise DataError(f"{meta}:{number}: expected 'key.png (height,width,channels) level', "
                                    f"found {line.rstrip()[:80]!r}.")  # fmt: skip
                key, *shape = match.groups()
                if key in seen:
                    raise DataError(f"{meta}:{number}: the key '{key}' is listed twice.")
                seen.add(key)
                yield MetaEntry(key, *map(int, shape))
    except UnicodeDecodeError:
        raise DataError(f"{meta}: not UTF-8.") from None
    except OSError as error:
        raise DataError(f"{meta}: cannot be read: {error.strerror}; an LMDB without it is incomplete.") from None


class LmdbStorage(Storage):
    """The LMDBs ``{root}/{type}/lq.lmdb`` and ``{root}/{type}/gt.lmdb``; the pairs' paths are keys."""

    def _path(self, pair: Pair, side: Side) -> str:
        return os.path.join(self.root, pair.rain_type, f"{side}.lmdb")

    def locate(self, pair: Pair, side: Side) -> str:
        return f"{self._path(pair, side)}/{pair.path(side)}"

    def read(self, pair: Pair, side: Side) -> bytes:
        return read_value(self._path(pair, side), pair.path(side))

    def read_part(self, pair: Pair, side: Side) -> tuple[bytes | memoryview, RowIndex | None]:
        return read_seekable(self._path(pair, side), pair.path(side))


def scan_lmdb(root: str, rain_type: str) -> Iterator[Pair]:
    """Yield the pairs of one type, by key in order; DataError if keys or sizes of the sides differ."""
    folder = os.path.join(root, rain_type)
    lq, gt = ({e.key: e for e in read_meta(os.path.join(folder, f"{side}.lmdb"))} for side in ("lq", "gt"))
    only = sorted(lq.keys() ^ gt.keys())
    if only:
        raise DataError(f"{folder}: {len(only)} key(s) are in only one of lq.lmdb and gt.lmdb: {', '.join(only[:3])}.")
    if not lq:
        raise DataError(f"{folder}: the LMDBs are empty.")
    for key in sorted(lq):
        size = lq[key].height, lq[key].width
        if size != (gt[key].height, gt[key].width):
            raise DataError(f"{folder}: key '{key}' is {size[0]}×{size[1]} in lq.lmdb, but "
                            f"{gt[key].height}×{gt[key].width} in gt.lmdb; expected equal sizes.")  # fmt: skip
        yield Pair(key, key, rain_type, size=size)


_clients: dict[tuple[tuple[str, str], ...], Any] = {}
# shared by all data sets of a process (an LMDB cannot be opened twice), given up in a forked child
os.register_at_fork(after_in_child=_clients.clear)


class MmengineStorage(Storage):
    """Reads through ``mmengine.fileio``: ``io_backend: {type: mmengine, backend: local}``, and what the backend takes.

    Texts may hold ``{rain_type}`` and ``{side}`` (``lq`` or ``gt``): ``backend: lmdb`` with ``db_path:
    /data/{rain_type}/{side}.lmdb`` reads our LMDBs.
    """

    def __init__(self, root: str, backend_args: Mapping[str, Any]) -> None:
        """Take the prefix of the paths (empty: none) and the backend's arguments, else OptionError."""
        super().__init__(root)
        self._arguments = {key: value for key, value in backend_args.items() if key != "type"}
        if not isinstance(self._arguments.get("backend"), str):
            raise OptionError("io_backend: mmengine needs the key backend, such as local, lmdb, http or petrel.")
        self.client(Pair("", "", "drs"), "lq")

    def client(self, pair: Pair, side: Side) -> Any:
        """This process's backend for one side of a pair, made when first asked for."""
        values = {"rain_type": pair.rain_type, "side": side}
        texts = {key: value.format(**values) for key, value in self._arguments.items() if isinstance(value, str)}
        arguments = {**self._arguments, **texts}
        identity = tuple(sorted((key, str(value)) for key, value in arguments.items()))
        if identity not in _clients:
            from mmengine.fileio import get_file_backend

            path = str(arguments.get("db_path"))
            if arguments["backend"] == "lmdb" and os.path.isdir(path):
                check_file(path)
            try:
                _clients[identity] = get_file_backend(backend_args=arguments)
            except (AssertionError, KeyError, TypeError, ValueError) as error:
                raise OptionError(f"io_backend: mmengine refuses {arguments}: {error}.") from None
        return _clients[identity]

    def locate(self, pair: Pair, side: Side) -> str:
        return f"{self.root.rstrip('/')}/{pair.path(side)}" if self.root else pair.path(side)

    def read(self, pair: Pair, side: Side) -> bytes:
        """Return what the backend has under the path, or for LMDBs under the key; else DataError."""
        name = self.locate(pair, side)
        key = pair.path(side) if self._arguments["backend"] == "lmdb" else name
        try:
            value = self.client(pair, side).get(key)
        except ImportError:
            raise
        except Exception as error:  # every backend has its own exceptions
            raise DataError(f"{name}: cannot be read through mmengine: {error}.") from None
        if value is None:
            raise DataError(f"{name}: mmengine's backend '{self._arguments['backend']}' has no such entry.")
        return bytes(value)


def open_source(options: DatasetOptions) -> tuple[PairTable, Storage, tuple[str, ...]]:
    """List the pairs that the options name: these, their storage, the rain types in the order of their labels."""
    if options.manifest is not None:
        return _from_manifest(options)
    root = os.path.expanduser(options.dataroot)
    if options.io_backend["type"] != "lmdb":
        types = find_types(root, options.rain_types)
        return scan_rainrag(root, types), _storage(options, root), tuple(types)
    types = find_types(root, options.rain_types, ("lq.lmdb", "gt.lmdb"))
    table = PairTable()
    for rain_type in types:
        for pair in scan_lmdb(root, rain_type):
            table.append(pair)
    return table, LmdbStorage(root), tuple(types)


def _from_manifest(options: DatasetOptions) -> tuple[PairTable, Storage, tuple[str, ...]]:
    given = [options.manifest] if isinstance(options.manifest, str) else options.manifest
    manifests = _there([os.path.expanduser(path) for path in given], options)
    table, seen = PairTable(), set()
    for record in typed_records(manifests, options.rain_types, options.dataroot is None):
        seen.add(record.rain_type)
        kept = record.keep is not False
        if kept or options.pyramid is not None:
            table.append(Pair(record.lq, record.gt, record.rain_type, record.source, kept, record.size))
    if not len(table):
        names = ", ".join(manifests)
        raise DataError(f"{names}: distillation has rejected every pair of these rain types (keep: false), and no "
                        "pyramid gives the rest a share.")  # fmt: skip
    root = os.path.dirname(os.path.abspath(manifests[0])) if options.dataroot is None else options.dataroot
    return table, _storage(options, os.path.expanduser(root)), tuple(options.rain_types or types_in_order(seen))


def _there(manifests: list[str], options: DatasetOptions) -> list[str]:
    missing = [path for path in manifests if not os.path.isfile(path)]
    if options.missing_manifests == "stop" or not missing:
        return manifests
    if len(missing) == len(manifests):
        raise DataError(f"{options.name}: none of the {len(missing)} manifests is there: {', '.join(missing)}.")
    from basicsr.utils import get_root_logger

    text = f"{len(missing)} of {len(manifests)} manifests are missing and left out: {', '.join(missing)}."
    get_root_logger().warning(f"{options.name}: {text}")
    return [path for path in manifests if path not in missing]


def _storage(options: DatasetOptions, root: str) -> Storage:
    kind = options.io_backend["type"]
    if kind == "lmdb":
        return LmdbStorage(root)
    return MmengineStorage(root, options.io_backend) if kind == "mmengine" else Storage(root)
