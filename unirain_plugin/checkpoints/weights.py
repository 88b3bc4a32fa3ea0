"""Files of trained weights: ``.safetensors`` and ``.pth``, with the network's options stored inside.

A safetensors file of ours names its network in the metadata (``architecture``, JSON) and, because spandrel drops these,
in a uint8 tensor of this name. A ``.pth`` file of ours is ``{'params': {…}, 'architecture': JSON}``, which BasicSR
reads. Beside it a file may hold ``sizes``, JSON such as ``[640, 427]``: the smaller sizes at which the network restores
large images as well; and ``context``, such as ``384``: the edge of the parts in which it restores them. Nothing stored
in a file is executed.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from unirain_plugin.checkpoints.states import check_sums, saved, unread_reason
from unirain_plugin.errors import CheckpointError, DataError, OptionError
from unirain_plugin.support.files import write_whole

ARCHITECTURE = "architecture"
"""Key of the network's options: in a safetensors file's metadata and tensors, and beside ``params`` in a .pth file."""
SIZES = "sizes"
"""Key of the smaller sizes, in a safetensors file's metadata and beside ``params`` in a .pth file."""
CONTEXT = "context"
"""Key of the edge of an image's parts, likewise."""

SUFFIXES = (".safetensors", ".pth")

WRAPPERS = (
    "params_ema", "params", "state_dict_ema", "ema_state_dict", "model_ema", "net_g_ema", "g_ema", "ema",
    "state_dict", "model_state_dict", "net_g", "netG", "generator", "model", "network", "net",
)  # fmt: skip
"""Names under which training programs keep a network's parameters, averaged ones first. One may hold another."""
PREFIXES = ("module.", "_orig_mod.", "ema_model.", "net_g.", "netG.", "generator.", "model.", "network.", "net.")
"""What wrappers (parallel training, compilation, averaging, Lightning) put before the names of parameters."""
LEAST_SIZE = 64
"""Options and weights files that name an edge of fewer pixels are refused."""


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    path: Path  # the file
    state: dict[str, Tensor]  # parameter name → tensor, on the CPU
    # ``{'type': registered class, **its arguments}``, or None where the file does not tell
    architecture: dict[str, object] | None
    # longer edges at which larger images are to be restored as well; none where the file does not tell
    sizes: tuple[int, ...] = ()
    context: int = 0  # edge of the parts in which larger images are to be restored; 0: as a whole
    parts: tuple[str, ...] = ()  # the parts of the file that may be chosen

    def state_for(self, names: Collection[str]) -> dict[str, Tensor]:
        """The parameters without the wrappers' :data:`PREFIXES` that a network with these parameter names lacks."""
        return max(without_prefixes(self.state), key=lambda state: len(state.keys() & set(names)))


_MISTAKEN = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file (`git lfs pull` fetches it)",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}


def read_weights(path: str | os.PathLike[str], param_key: str | None = None) -> WeightsFile:
    """Read a safetensors file, a .pth file of ours, or a checkpoint of another program (see :data:`WRAPPERS`).

    ``param_key`` is the part of a .pth file to take, such as ``params``; None for the first that it has. A
    CheckpointError if the file is missing or broken, or holds no parameters or NaN.
    """
    path = Path(path)
    if not path.is_file():
        folder = " (it is a folder)" if path.is_dir() else ""
        raise CheckpointError(f"{path}: there is no such file of weights{folder}.")
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(f"{path}: is a network for other programs; expected weights (.safetensors, .pth).")
    with path.open("rb") as file:
        beginning = file.read(64)
    head = beginning.lstrip().lower()
    for mark, what in _MISTAKEN.items():
        if head.startswith(mark):
            raise CheckpointError(f"{path}: is {what}; expected weights (.safetensors, .pth).")
    parts: tuple[str, ...] = ()
    if beginning[8:9] == b"{" or path.suffix.lower() == ".safetensors":  # whatever a file is named
        state, notes = _read_safetensors(path)
    else:
        state, notes, parts = _read_torch(path, param_key)
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise CheckpointError(f"{path}: '{name}' is sparse or without values; expected plain tensors.")
        if value.is_floating_point() and value.float().isnan().any():
            raise CheckpointError(f"{path}: '{name}' holds NaN: the training that wrote these weights had diverged.")
    embedded = notes.get(ARCHITECTURE, state.pop(ARCHITECTURE, None))
    architecture = None if embedded is None else unpack_architecture(embedded, str(path))
    sizes, context = (unpack_edges(notes, key, str(path)) for key in (SIZES, CONTEXT))
    return WeightsFile(path, state, architecture, sizes, context, parts)


def without_prefixes(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The parameters as they are, then those behind each of :data:`PREFIXES` (and behind one more, and so on)."""
    yield dict(state)
    for prefix in PREFIXES:
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if inner:
            yield from without_prefixes(inner)


def write_weights(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    architecture: Mapping[str, object],
    sizes: Sequence[int] = (),
    context: int = 0,
) -> None:
    """Write weights with their architecture (sizes and context, if any), atomically; the suffix chooses the format.

    An OptionError if a size is not allowed, a CheckpointError for another suffix or a file that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: weights are written as {' or '.join(SUFFIXES)}, found '{path.suffix}'.")
    text = json.dumps(dict(architecture))
    edges = {SIZES: check_sizes(sizes), CONTEXT: check_context(context)}
    notes = {ARCHITECTURE: text} | {key: json.dumps(value) for key, value in edges.items() if value}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if suffix == ".safetensors":
        import safetensors.torch

        # Shared storage is refused by the format, so every tensor is a copy of its own.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors[ARCHITECTURE] = torch.tensor(list(text.encode()), dtype=torch.uint8)
        data = safetensors.torch.save(tensors, metadata={"format": "pt", **notes})
    else:
        data = saved({"params": tensors, **notes})
    try:
        write_whole(path, data)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def unpack_architecture(value: object, source: str) -> dict[str, object]:
    """The architecture from JSON text or its uint8 tensor; a CheckpointError if it is no object with a ``type``."""
    try:
        text = bytes(value.tolist()).decode() if isinstance(value, Tensor) else value
        architecture = json.loads(text)
        if not isinstance(architecture, dict) or not isinstance(architecture.get("type"), str):
            raise ValueError("no object with a type")
    except (TypeError, ValueError) as error:
        expected = 'expected JSON such as {"type": "UniRain", "dim": 16, …}.'
        raise CheckpointError(f"{source}: the stored architecture cannot be read ({error}); {expected}") from None
    return architecture


def unpack_edges(notes: Mapping[str, str], key: str, source: str) -> tuple[int, ...] | int:
    """What a file notes under :data:`SIZES` or :data:`CONTEXT`; a CheckpointError if that is not allowed."""
    check, nothing, example = {SIZES: (check_sizes, "[]", "[640, 427]"), CONTEXT: (check_context, "0", "384")}[key]
    text = notes.get(key, nothing)
    try:
        value = json.loads(text)
        if isinstance(value, list) != (key == SIZES):
            raise ValueError(f"it is {'no' if key == SIZES else 'a'} list")
        return check(value)
    except (ValueError, OptionError) as error:
        what = f"the stored {key} cannot be read ({error}): {text!r}; expected such as {example}."
        raise CheckpointError(f"{source}: {what}") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{path}: this is no whole safetensors file: {error}") from None
    return state, metadata


def _read_torch(path: Path, param_key: str | None) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    check_sums(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if zipfile.is_zipfile(path) and any(f"/extra/{ARCHITECTURE}" in n for n in zipfile.ZipFile(path).namelist()):
            text = "an exported program (pt2, torchscript) for other programs; give the weights that it was made from"
            raise CheckpointError(f"{path}: {text}, or their file of --format onnx.") from None
        pickled = isinstance(error, pickle.UnpicklingError)
        what = "cannot be read as weights" if pickled else "this is no file of weights, or it is truncated"
        raise CheckpointError(f"{path}: {what}: {unread_reason(error)}.") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a mapping of parameters, found {type(content).__name__}.")
    parts = _parts(content)
    if param_key is not None and param_key not in parts:
        if not isinstance(content.get(param_key), Mapping):
            names = ", ".join(dict.fromkeys([*map(str, content), *parts]))
            raise CheckpointError(f"{path}: there is no part '{param_key}'; the file has {names}.")
        chosen = next(iter(_parts(content[param_key]).values()), content[param_key])
    else:
        chosen = parts[param_key] if param_key else next(iter(parts.values()), content)
    state = {str(k): v for k, v in chosen.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(
            f"{path}: it holds no parameters; found the keys {', '.join(map(str, list(content)[:8]))}. "
            "(A training state, ITER.state, is no network: take models/net_g_ITER.pth.)"
        )
    return state, {key: text for key, text in content.items() if isinstance(text, str)}, tuple(parts)


def _parts(content: Mapping) -> dict[str, Mapping]:
    """The parts of a checkpoint by name, such as ``params`` or ``model.state_dict``, in the order of the wrappers."""
    found: dict[str, Mapping] = {}
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            deeper = {f"{key}.{name}": part for name, part in _parts(inner).items()}
            holds = any(isinstance(value, Tensor) for value in inner.values())  # "model" may be a configuration
            found |= deeper or ({key: inner} if holds else {})
    return found


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Longer edges as a tuple; an OptionError if one is no whole number of at least :data:`LEAST_SIZE` pixels."""
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < LEAST_SIZE:
            raise OptionError(f"sizes: got {size!r}; expected longer edges of at least {LEAST_SIZE} pixels.")
    return tuple(map(int, sizes))


def check_context(context: int) -> int:
    """The edge of an image's parts; an OptionError if it is no whole number, 0 or at least :data:`LEAST_SIZE`."""
    if isinstance(context, bool) or not isinstance(context, Integral) or 0 != context < LEAST_SIZE:
        raise OptionError(f"context: got {context!r}; expected 0 (the whole image) or at least {LEAST_SIZE} pixels.")
    return int(context)


_SHOWN = 5


def convert(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Weights for ``load_state_dict`` from what ``torch.load`` returned, without wrappers and prefixes."""
    state = dict(next(iter(_parts(checkpoint).values()), checkpoint))
    return [inner for inner in without_prefixes(state) if len(inner) == len(state)][-1]


def describe(state: Mapping[str, object]) -> dict[str, object]:
    """The options of UniRain that the shapes of its weights tell; ``soft`` and ``hard`` mixtures have the same."""
    found: dict[str, object] = {}
    shapes = {key: tuple(value.shape) for key, value in state.items() if hasattr(value, "shape")}
    if len(shapes.get("embed.weight", ())) == 4:
        found["dim"], found["in_channels"] = shapes["embed.weight"][:2]
    for option, stage in (("num_blocks", "encoder"), ("decoder_blocks", "decoder")):
        numbers = [re.match(rf"{stage}\.(\d+)\.(\d+)\.", key) for key in shapes]
        pairs = {(int(m[1]), int(m[2])) for m in numbers if m}
        if pairs:
            levels = max(level for level, _ in pairs) + 1
            found[option] = [sum(level == wanted for level, _ in pairs) for wanted in range(levels)]
    refinement = {m[1] for m in (re.match(r"refinement\.(\d+)\.", key) for key in shapes) if m}
    found["refinement_blocks"] = len(refinement)
    experts = [shape[0] for key, shape in shapes.items() if key.endswith("feed_forward.experts.expand")]
    if experts:
        found["num_experts"] = experts[0]
    return found


def misfits(
    own: Mapping[str, Tensor], state: Mapping[str, object], shapes: str
) -> tuple[list[str], list[str], list[str]]:
    """Keys that the state lacks, keys that the network lacks, and those of another shape or kind of number."""
    both = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if hasattr(state.get(key), "shape")}
    other = [f"{key} {shapes.format(*pair)}" for key, pair in both.items() if pair[0] != pair[1]]
    kinds = {key: (state[key].dtype, own[key].dtype) for key in both if isinstance(state[key], Tensor)}
    other += [f"{key} {shapes.format(*pair)}" for key, pair in kinds.items()
              if pair[0].is_floating_point != pair[1].is_floating_point]  # fmt: skip
    return [key for key in own if key not in state], [key for key in state if key not in own], other


def check_fit(network: nn.Module, state: Mapping[str, object], strict: bool = True) -> None:
    """Raise a CheckpointError if ``state`` cannot be loaded (``strict``: entirely): which keys, and what to do."""
    own = network.state_dict()
    missing, unexpected, misshaped = misfits(own, state, "(checkpoint {}, network {})")
    if not strict:
        missing = unexpected = []
    if not (missing or unexpected or misshaped):
        return
    lines = [f"The checkpoint does not fit this {type(network).__name__}."]
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshaped)):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            lines.append(f"  {len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}")
    raise CheckpointError("\n".join([*lines, f"  What to do: {_advice(own, state)}"]))


_CONVERT = "load unirain_plugin.checkpoints.weights.convert(checkpoint)"


def _advice(own: Mapping[str, Tensor], state: Mapping[str, object]) -> str:
    for name in WRAPPERS:
        if isinstance(state.get(name), Mapping):
            return f"the weights lie under '{name}'; set path.param_key_g: {name}, or {_CONVERT}."
    if set(convert(state)) != set(state):
        return f"the keys carry a prefix of another program; {_CONVERT}."
    if not set(own) & set(state):
        return "no key agrees: this is the checkpoint of another network; check path.pretrain_network_g."
    mine, theirs = describe(own), describe(state)
    other = [f"{key}: {value}" for key, value in theirs.items() if mine.get(key) != value]
    if other:
        return f"set in network_g what the checkpoint was made with: {'; '.join(other)}."
    return (
        "it was made with other options of network_g (encoder_moe, latent_moe, decoder_moe, the expansions, heads or "
        "top_k); use the option file it was trained with."
    )
