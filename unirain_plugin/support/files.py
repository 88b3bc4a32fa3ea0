"""Files that appear whole: written beside their name, brought to the disk and moved there. Only this module does so.

A temporary file is locked by the process that writes it; what a killed process has left is deleted by the next one that
writes into the folder. Folders are locked, and strangers' names (LMDB keys, manifests) become safe paths here.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import BinaryIO

import numpy as np

from unirain_plugin.errors import DataError, reason

_ORIGIN_FILE = ".made_from.json"
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.tmp-unirain(\.\w{1,15})?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_swept: set[str] = set()


@contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written (a full disk, say) into a DataError."""
    try:
        yield
    except OSError as error:
        why = f"{error.filename} is no folder" if isinstance(error, FileExistsError) else reason(error)
        raise DataError(f"{os.fspath(path)}: cannot be written: {why}.") from error


@contextmanager
def read_errors(path: str | os.PathLike[str], what: str = "cannot be read") -> Iterator[None]:
    """Turn what the system says of a file that cannot be read, or that is no UTF-8 text, into a DataError."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{os.fspath(path)}: {what}: {reason(error)}.") from error


@contextmanager
def whole_file(path: str | os.PathLike[str], sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a file, in the same folder and with the same suffix, that gets its name when the block ends well.

    Its ``name`` may be given to another program, which must write into the file that is there. The folder is made if
    missing. A name that stands for no file (``/dev/stdout``) is written directly. With ``sync`` it is on the disk
    before, and outlives a power cut. An OSError names ``path``; then nothing is left, and an older file stays.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    folder = os.path.dirname(path) or "."
    file, temporary = None, None
    try:
        os.makedirs(folder, exist_ok=True)
        if folder not in _swept:
            remove_leftovers(folder)
            _swept.add(folder)
        file = _temporary_file(folder, os.path.splitext(path)[1])
        temporary = file.name
        yield file
        file.flush()
        if sync:
            os.fsync(file.fileno())
        else:
            os.close(os.dup(file.fileno()))  # some network disks tell a full disk at a close, and none later
        os.replace(temporary, path)
        temporary = None
        if sync:
            _sync_folder(folder)
    except OSError as error:
        if error.errno and error.filename in (None, temporary):
            error.filename = path
        raise
    finally:
        with suppress(OSError):  # on a full disk its buffer cannot be flushed
            if file is not None:
                file.close()
        with suppress(OSError):
            if temporary is not None:
                os.unlink(temporary)


def put_in_place(finished: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Bring a file that another program has finished to the disk, and give it its name in one step."""
    to_disk(finished)
    os.replace(finished, path)
    _sync_folder(os.path.dirname(os.fspath(path)) or ".")


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview | str, sync: bool = True) -> None:
    """Write a file, whole or not at all (DataError); its folder is made if missing. See :func:`whole_file`.

    Text is written as UTF-8, with undecodable bytes of file names as they were.
    """
    with write_errors(path), whole_file(path, sync) as file:
        file.write(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as JSON for people to read, too, as :func:`write_whole` writes a text."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and see that files can be made in it (else DataError); what killed runs have left goes."""
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
        remove_leftovers(folder)
        with _temporary_file(os.fspath(folder), "") as file:
            os.unlink(file.name)


def is_full(error: BaseException) -> bool:
    """Whether an error was raised because the disk is full or read-only, so that no other file could be written."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files in a folder that no living process writes."""
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name) and entry.is_file()]
    for name in names:
        with suppress(OSError), open(name, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name)


def _temporary_file(folder: str, suffix: str) -> BinaryIO:
    while True:
        name = f".{secrets.token_hex(6)}.tmp-unirain{suffix}"
        file = open(os.path.join(folder, name if _TEMPORARY.fullmatch(name) else name[: -len(suffix)]), "xb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks: its leftovers stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process swept it away before the lock was there


def to_disk(path: str | os.PathLike[str]) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    with suppress(OSError):  # not every file system does this; the rename is atomic all the same
        to_disk(folder)


def claim_folder(folder: str, origin: Mapping[str, str], refusal: str, added: Collection[str] = ()) -> None:
    """Make a folder that notes what it is made of, or take it up again; else DataError ``{folder}: {refusal}``.

    An earlier version has not noted the keys that were ``added`` since.
    """
    path = os.path.join(folder, _ORIGIN_FILE)
    with write_errors(folder):
        os.makedirs(folder, exist_ok=True)
        remove_leftovers(folder)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        if os.listdir(folder):
            raise DataError(f"{folder}: the folder is not empty; choose another.") from None
        write_whole(path, json.dumps(origin, indent=1))
        return
    except ValueError:
        found = None
    if not isinstance(found, dict) or found != {k: v for k, v in origin.items() if k in found or k not in added}:
        raise DataError(f"{folder}: {refusal}")


def canonical_hash(value: object) -> str:
    """SHA-256 (32 hex digits) of a JSON-able value, the order of keys not counting."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def sole_user(folder: str | os.PathLike[str], refusal: str) -> Iterator[None]:
    """Hold a folder's lock (its file ``.lock``), which ends with the process; DataError ``{folder}: {refusal}``."""
    path = os.path.join(folder, ".lock")
    with write_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # for writing, or NFS locks nothing
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{os.fspath(folder)}: {refusal}") from None
        except OSError as error:
            raise DataError(f"{os.fspath(folder)}: cannot be locked: {error.strerror}.") from None
        yield
    finally:
        os.close(handle)


def write_png(path: str | os.PathLike[str], pixels: np.ndarray, level: int | None = None, sync: bool = False) -> None:
    """Write an image: (H, W, 3) BGR or (H, W), uint8 or uint16; its folder is made if missing; else DataError.

    ``level``: compression, 0 to 9 (None: OpenCV's); ``sync``: see :func:`whole_file`.
    """
    import cv2  # most who write files write no images

    parameters = [] if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    write_whole(path, cv2.imencode(".png", np.ascontiguousarray(pixels), parameters)[1].data, sync)


_LONGEST = 200  # bytes of a folder's or file's name; most systems allow 255, and endings are added
_UNSAFE = re.compile("[\\0-\\x1f\\x7f\\ud800-\\udc7f\\udd00-\\udfff]")
_DRIVE = re.compile("^[A-Za-z]:")


def safe_path(name: str) -> str:
    """Return a relative path, without ending as ``name`` is, that stays below the folder that it is put to.

    Usual names come back as they are. What would climb out or be no file's name (``..``, a leading ``/``, empty parts,
    backslashes, drive letters, control characters, too many bytes) is replaced, and a hash of the whole name is added.
    """
    parts = [_safe_part(part) for part in _DRIVE.sub("", name.replace("\\", "/")).split("/")]
    path = "/".join(part for part in parts if part)
    if path == name:
        return path
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{path}-{digest}" if path else digest


def _safe_part(part: str) -> str:
    if part in (".", ".."):
        return ""
    part = _UNSAFE.sub("_", part)
    data = part.encode("utf-8", "surrogateescape")
    return part if len(data) <= _LONGEST else data[:_LONGEST].decode("utf-8", "ignore")
