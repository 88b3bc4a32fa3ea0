"""From a file of weights to a network that is ready to restore."""

import importlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from unirain_plugin.archs.presets import ABLATIONS, PRESETS
from unirain_plugin.archs.pretrained import WEIGHTS as HUB_WEIGHTS
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.checkpoints.weights import WeightsFile, misfits, read_weights, without_prefixes
from unirain_plugin.errors import CheckpointError, OptionError, UniRainError, did_you_mean
from unirain_plugin.support.packages import import_own
from unirain_plugin.support.spec import plain
from unirain_plugin.toolbox import registered

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights" / "UniRain-Tiny.safetensors"
"""The small trained network that the package ships."""

_LISTED = 5


def load(
    weights: str | os.PathLike[str] | None = None,
    network: str | os.PathLike[str] | Mapping[str, object] | None = None,
    device: str | torch.device = "auto",
    param_key: str | None = None,
) -> nn.Module:
    """Load a trained network, ready to restore.

    Which network the weights belong to is told, in this order, by ``network``; by the file itself (safetensors and
    .pth files that ``scripts/export.py`` wrote); by the option file of the experiment in whose folder a checkpoint of a
    training run lies; by the shapes, if they are those of one of our presets.

    Args:
        weights: A .safetensors or .pth file, also a checkpoint of BasicSR, an .onnx file of ``scripts/export.py``, or
            a folder of ``save_pretrained``; None or ``default`` for the weights the package ships.
        network: An option file with a section ``network_g``, or that section itself (``{'type': 'UniRain', …}``).
        device: ``auto`` (CUDA where present), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        param_key: Which part of a .pth file to take; None for ``params_ema`` where it exists, else ``params``, else
            what other programs name so (:data:`~unirain_plugin.checkpoints.weights.WRAPPERS`).

    Returns the network in evaluation mode on ``device``. Its attribute ``architecture`` holds the registered type and
    the arguments it was built from, ``restore_sizes`` and ``restore_context`` what its file names for large images. A
    CheckpointError if the weights are missing, broken, or made for another network (which keys differ is told); an
    OptionError if the network's options or the device are wrong.
    """
    path = weights_path(weights)
    if path.suffix.lower() == ".onnx":
        from unirain_plugin.inference.onnx_network import load_onnx

        return load_onnx(path, network, device, param_key)
    target = choose_device(device)
    file = read_weights(path, param_key)
    architecture = _architecture_of(file, network)
    net = build_network(architecture, str(file.path))
    fill(net, file, str(architecture["type"]))
    net.restore_sizes, net.restore_context = file.sizes, file.context
    return net.eval().requires_grad_(False).to(target)


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device by name; OptionError if there is none of that name here."""
    name = str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device: got '{name}'; expected auto, cpu, cuda, cuda:N or mps.") from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = {"cpu": True, "cuda": (chosen.index or 0) < gpus, "mps": torch.backends.mps.is_available()}
    if not present.get(chosen.type, False):
        raise OptionError(f"device: got '{name}', but this machine has no such device. Use auto or cpu.")
    return chosen


def build_network(architecture: Mapping[str, object], source: str) -> nn.Module:
    """Build ``{'type': name, **arguments}`` with random weights; the OptionError names ``source``, its file."""
    arguments = dict(architecture)
    if "type" not in arguments:
        raise OptionError(f"{source}: expected a network's options with a 'type', found {arguments}.")
    name = arguments.pop("type")
    known = registered("arch")
    if name not in known:  # the toolbox's own networks register when it is imported, which takes seconds
        importlib.import_module("basicsr.archs")
        known = registered("arch")
    if name not in known:
        raise OptionError(
            f"{source}: network type {name!r} is not registered.{did_you_mean(name, known)} The module that registers "
            "one of your own is named by --imports (inference, app, export, adapt, benchmark), or in `imports:` in an "
            "option file."
        )
    try:
        net = known[name](**arguments)
    except UniRainError as error:
        raise OptionError(f"{source}: {error}") from None
    except Exception as error:
        raise OptionError(f"{source}: the network {name} cannot be built from its options: {error}") from error
    net.architecture = {"type": name, **arguments}
    return net


def fill(net: nn.Module, file: WeightsFile, name: str) -> None:
    """Put the weights into the network, all or none; the CheckpointError tells which keys and options differ."""
    state, lines = file.state_for(net.state_dict()), []
    shape = "of another shape or kind of number (file, network)"
    titles = (f"missing in the file, needed by {name}", f"in the file, unknown to {name}", shape)
    for title, keys in zip(titles, misfits(net.state_dict(), state, "{} {}"), strict=True):
        if keys:
            more = f", … ({len(keys)} in all)" if len(keys) > _LISTED else ""
            lines.append(f"  {title}: {', '.join(keys[:_LISTED])}{more}")
    if lines:
        told, built = file.architecture or {}, getattr(net, "architecture", {})
        other = [key for key in {**told, **built} if told.get(key) != built.get(key)] if told else []
        if other:
            texts = (f"{key} {told.get(key, '(default)')} {built.get(key, '(default)')}" for key in other)
            lines.append(f"  other options (file, network): {'; '.join(texts)}")
        if len(file.parts) > 1:
            lines.append(f"  parts of the file ({', '.join(file.parts)}): export.py --param-key takes another")
        raise CheckpointError(f"{file.path}: these weights were made for another network.\n" + "\n".join(lines))
    net.load_state_dict(state)


def weights_path(weights: str | os.PathLike[str] | None) -> Path:
    """The file of weights that is named, or the one that the package ships; CheckpointError if it ships none."""
    if weights not in (None, "default"):
        inside = Path(weights) / HUB_WEIGHTS
        return inside if inside.is_file() else Path(weights)
    if not DEFAULT_WEIGHTS.is_file():
        text = f"No weights were named, and this installation ships none ({DEFAULT_WEIGHTS} is missing)."
        raise CheckpointError(f"{text} Give a .safetensors or .pth file: --weights FILE.")
    return DEFAULT_WEIGHTS


def _architecture_of(file: WeightsFile, network: object) -> dict[str, object]:
    if isinstance(network, Mapping):
        return dict(network)
    if network is not None:
        return network_section(Path(network), with_imports=True)
    found = file.architecture or experiment_network(file.path) or guess_architecture(file.state)
    if found is None:
        raise CheckpointError(
            f"{file.path}: the file does not tell which network its weights belong to (keys: "
            f"{', '.join(list(file.state)[:_LISTED])}, …). Name the option file it was trained with (--network YML), "
            "or export the weights once with scripts/export.py, which stores the network with them."
        )
    return found


def network_section(path: Path, with_imports: bool = False) -> dict[str, object]:
    """The section ``network_g`` of an option file; OptionError if it is broken, has none, or imports fail.

    ``with_imports``: of a file that the user has named, since importing modules runs their code.
    """
    from unirain_plugin.options.yaml_loader import read_option_file

    opt = read_option_file(path).opt
    section = opt.get("network_g")
    if not isinstance(section, Mapping) or "type" not in section:
        raise OptionError(f"{path}: expected a section 'network_g' with a 'type', found {section!r}.")
    if with_imports and opt.get("imports"):
        import_own(opt["imports"], path.parent)
    return plain(section)


def experiment_network(path: Path) -> dict[str, object] | None:
    """The network of the run that saved ``experiments/NAME/models/net_g_ITER.pth``: its folder holds its options.

    None for a file in another folder than ``models/``. A CheckpointError if its option files name different networks.
    """
    if path.resolve().parent.name != "models":
        return None
    found: dict[Path, dict[str, object]] = {}
    for option_file in sorted(path.resolve().parent.parent.glob("*.yml")):
        with suppress(OptionError):
            found[option_file] = network_section(option_file)
    networks = list(found.values())
    if any(network != networks[0] for network in networks):
        files = ", ".join(map(str, found))
        raise CheckpointError(f"{path}: {files} name different networks; say which it is (--network YML).")
    return networks[0] if networks else None


def guess_architecture(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """The preset, or ablation of one, whose parameters have exactly these names and shapes; None if there is none."""
    named = (bare for bare in without_prefixes(state) if "embed.weight" in bare)
    shapes = {name: tuple(tensor.shape) for name, tensor in next(named, {}).items()}
    if not shapes:
        return None
    for arguments in PRESETS.values():
        if shapes["embed.weight"][0] != arguments["dim"]:
            continue
        for changes in ({}, *ABLATIONS.values()):
            with torch.device("meta"):
                net = UniRain(**{**arguments, **changes})
            if {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == shapes:
                return {"type": "UniRain", **arguments, **changes}
    return None
