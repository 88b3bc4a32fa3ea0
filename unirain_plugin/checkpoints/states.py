"""Checkpoint files: written all or not at all, and the newest complete set found again."""

import io
import os
import pickle
import re
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from unirain_plugin.errors import CheckpointError
from unirain_plugin.support.files import whole_file

_STATE = re.compile(r"(\d+)\.state")
_NETWORK = re.compile(r"net_\w+?_(\d+)\.pth")
_ATTEMPTS = 3


def saved(content: object) -> memoryview:
    """What ``torch.save`` writes; into a file on a full disk it would raise an error of its own, or abort."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def atomic_save(content: object, path: str | os.PathLike[str]) -> None:
    """``torch.save``, whole or not at all; a write that fails three times, a second apart, is a CheckpointError."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            data = saved(content)
            with whole_file(path) as file:
                file.write(data)
            return
        except OSError as error:
            if attempt == _ATTEMPTS:
                message = f"{path}: cannot be written after {_ATTEMPTS} attempts: {error.strerror}"
                raise CheckpointError(message) from error
            time.sleep(1)


def broken_reason(path: Path) -> str | None:
    """Why a file of ``torch.save`` cannot be used, in words, or None where it is whole (checksums are compared)."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size == 0:
        return "is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            has_checksums = any(entry.CRC for entry in archive.infolist())  # torch can be told to write none
            record = archive.testzip() if has_checksums else None
        return None if record is None else f"is damaged (record {record})"
    except (zipfile.BadZipFile, OSError, EOFError):
        return "is truncated or no checkpoint"


def check_sums(path: str | os.PathLike[str]) -> None:
    """Compare the checksums of a file of ``torch.save``, which torch does not; a wrong one is a CheckpointError."""
    reason = broken_reason(Path(path)) if zipfile.is_zipfile(path) else None  # other formats have none
    if reason is not None:
        raise CheckpointError(f"{path}: the file of weights {reason}.")


def unread_reason(error: Exception) -> str:
    """Why ``torch.load(weights_only=True)`` failed, in one line and without its advice to load the file unsafely."""
    if isinstance(error, (pickle.UnpicklingError, EOFError)) or "weights_only" in str(error):
        return "it is something else, damaged, or holds more than tensors and plain values, which might be code"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def read_state(path: Path) -> dict[str, Any]:
    """Load a training state onto the CPU, executing nothing; a CheckpointError if it cannot be read or is none."""
    reason = broken_reason(path)
    if reason is not None:
        raise CheckpointError(f"{path}: the training state {reason}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: the training state cannot be read: {unread_reason(error)}.") from None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: this is no training state; expected a mapping, found {type(state).__name__}.")
    missing = [key for key in ("epoch", "iter", "optimizers", "schedulers") if key not in state]
    if missing:
        raise CheckpointError(f"{path}: this is no training state; it lacks {', '.join(missing)}.")
    return state


def read_checkpoint(state_path: Path, models: Path, labels: Iterable[str]) -> dict[str, Any]:
    """Load a training state whose networks, ``net_LABEL_ITER.pth``, lie whole in ``models``; else CheckpointError."""
    state = read_state(state_path)
    for label in labels:
        network = models / f"net_{label}_{state['iter']}.pth"
        reason = broken_reason(network)
        if reason is not None:
            raise CheckpointError(f"{network}: the network that belongs to {state_path} {reason}.")
    return state


def newest_checkpoint(states: Path, models: Path, labels: Iterable[str]) -> tuple[Path | None, list[str]]:
    """The state of the newest complete checkpoint of a run, and a message for each newer one that is passed over.

    A CheckpointError if all that there are are broken.
    """
    labels, problems = list(labels), []
    for _, path in sorted(_numbered(states, _STATE), reverse=True):
        try:
            read_checkpoint(path, models, labels)
            return path, problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        advice = "Run without --auto_resume to begin anew; the old run is archived, not deleted."
        raise CheckpointError("\n  ".join(["None of the saved checkpoints can be resumed:", *problems]) + f"\n{advice}")
    return None, []


def prune_checkpoints(states: Path, models: Path, keep: int, newest: int) -> None:
    """Delete all but the last ``keep`` checkpoints up to iteration ``newest``; later ones, latest and best stay.

    A state goes before its networks, so that a kill in between leaves no state without networks.
    """
    saved = sorted(pair for pair in _numbered(states, _STATE) if pair[0] <= newest)
    for _, path in saved[:-keep]:
        path.unlink(missing_ok=True)
    oldest = saved[-keep:][0][0] if saved else 0
    for number, path in _numbered(models, _NETWORK):
        if number < oldest:
            path.unlink(missing_ok=True)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((pattern.fullmatch(path.name), path) for path in folder.iterdir())
    return [(int(match[1]), path) for match, path in matches if match]
