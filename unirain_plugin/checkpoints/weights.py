"""Files of trained weights: ``.safetensors`` and ``.pth``, with the network's options stored inside.

A safetensors file of ours names its network in the file's metadata (``architecture``, JSON) and, because spandrel drops
metadata, in a uint8 tensor ``architecture`` with the same JSON. A ``.pth`` file of ours is
``{'params': {…}, 'architecture': JSON}``, which BasicSR reads as one of its own. Beside the architecture a file may
hold ``sizes``, JSON such as ``[640, 427]``: the smaller sizes at which the network restores large pictures as well.
Nothing stored in a file is executed.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference.sizes import check_sizes
from unirain_plugin.support.writing import umask

ARCHITECTURE = "architecture"
"""Key of the network's options: in a safetensors file's metadata and tensors, and beside ``params`` in a .pth file."""
SIZES = "sizes"
"""Key of the smaller sizes, in a safetensors file's metadata and beside ``params`` in a .pth file."""

SUFFIXES = (".safetensors", ".pth")
_PARAMETER_KEYS = ("params_ema", "params", "state_dict")
_FOREIGN_PREFIX = "module."


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        path: The file.
        state: Parameter name → tensor, on the CPU.
        architecture: ``{'type': registered class, **its arguments}``, or None where the file does not tell.
        sizes: Longer edges at which larger pictures are to be restored as well; none where the file does not tell.
    """

    path: Path
    state: dict[str, Tensor]
    architecture: dict[str, object] | None
    sizes: tuple[int, ...] = ()


def read_weights(path: str | os.PathLike[str], param_key: str | None = None) -> WeightsFile:
    """Read a safetensors file, a .pth file of ours, or a checkpoint of BasicSR (``params_ema`` before ``params``).

    Args:
        path: The file.
        param_key: Which part of a .pth file to take, such as ``params``; None for the first that it has.

    Raises:
        CheckpointError: If the file is missing, broken, or holds no parameters.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no such file of weights{' (it is a folder)' if path.is_dir() else ''}."
        )
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(f"{path}: is a network for other programs; expected weights (.safetensors, .pth).")
    if path.suffix.lower() == ".safetensors":
        state, notes = _read_safetensors(path)
    else:
        state, notes = _read_torch(path, param_key)
    embedded = notes.get(ARCHITECTURE, state.pop(ARCHITECTURE, None))
    architecture = None if embedded is None else unpack_architecture(embedded, str(path))
    if all(name.startswith(_FOREIGN_PREFIX) for name in state):
        state = {name.removeprefix(_FOREIGN_PREFIX): tensor for name, tensor in state.items()}
    return WeightsFile(path, state, architecture, unpack_sizes(notes.get(SIZES, "[]"), str(path)))


def write_weights(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    architecture: Mapping[str, object],
    sizes: Sequence[int] = (),
) -> None:
    """Write weights with their architecture (and sizes, if any), atomically; the suffix chooses the format.

    Raises:
        OptionError: If a size is not allowed.
        CheckpointError: If the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: weights are written as {' or '.join(SUFFIXES)}, found '{path.suffix}'.")
    text = json.dumps(dict(architecture))
    notes = {ARCHITECTURE: text} | ({SIZES: json.dumps(check_sizes(sizes))} if sizes else {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".safetensors":
            save_file = _safetensors("torch").save_file
            # Shared storage is refused by the format, so every tensor is a copy of its own.
            tensors = {name: tensor.clone() for name, tensor in tensors.items()} | {
                ARCHITECTURE: pack_architecture(text)
            }
            save_file(tensors, str(temporary), metadata={"format": "pt", **notes})
            temporary.chmod(0o666 & ~umask())  # it makes them readable by their owner only
        else:
            torch.save({"params": tensors, **notes}, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def pack_architecture(text: str) -> Tensor:
    """JSON as a uint8 tensor."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def unpack_architecture(value: object, source: str) -> dict[str, object]:
    """The architecture from JSON text or its uint8 tensor.

    Raises:
        CheckpointError: If it is no JSON object with a ``type``.
    """
    try:
        text = bytes(value.tolist()).decode() if isinstance(value, Tensor) else value
        architecture = json.loads(text)
        if not isinstance(architecture, dict) or not isinstance(architecture.get("type"), str):
            raise ValueError("no object with a type")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: the stored architecture cannot be read ({error}); expected JSON such as "
            '{"type": "UniRain", "dim": 16, …}.'
        ) from None
    return architecture


def unpack_sizes(text: str, source: str) -> tuple[int, ...]:
    """Longer edges from JSON text.

    Raises:
        CheckpointError: If it is no JSON list of sizes that are allowed.
    """
    try:
        sizes = json.loads(text)
        if not isinstance(sizes, list):
            raise ValueError("no list")
        return check_sizes(sizes)
    except (ValueError, OptionError) as error:
        raise CheckpointError(
            f"{source}: the stored sizes cannot be read ({error}): {text!r}; expected such as [640, 427]."
        ) from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what the file notes beside them."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{path}: this is no whole safetensors file: {error}") from None
    return state, metadata


def _read_torch(path: Path, param_key: str | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what the file notes beside them."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: cannot be read as weights: it is something else, damaged, or holds more than tensors and plain "
            "values, which might be code."
        ) from None
    except Exception as error:
        raise CheckpointError(f"{path}: this is no file of weights, or it is truncated: {error}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a mapping of parameters, found {type(content).__name__}.")
    parts = [key for key in _PARAMETER_KEYS if isinstance(content.get(key), Mapping)]
    if param_key is not None and not isinstance(content.get(param_key), Mapping):
        raise CheckpointError(f"{path}: there is no part '{param_key}'; the file has {', '.join(map(str, content))}.")
    part = param_key or (parts[0] if parts else None)
    state = {str(k): v for k, v in (content[part] if part else content).items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(
            f"{path}: it holds no parameters; found the keys {', '.join(map(str, list(content)[:8]))}. "
            "(A training state, ITER.state, is no network: take models/net_g_ITER.pth.)"
        )
    return state, {key: text for key, text in content.items() if isinstance(text, str)}


def _safetensors(part: str = "") -> object:
    try:
        import importlib

        return importlib.import_module("safetensors" + (f".{part}" if part else ""))
    except ImportError:
        raise CheckpointError("safetensors files need the package safetensors: pip install safetensors.") from None
