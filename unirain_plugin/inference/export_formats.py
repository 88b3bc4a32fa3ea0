"""The formats: weights with their network's options (safetensors, pth), and the network itself (onnx, torchscript)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unirain_plugin.checkpoints.weights import ARCHITECTURE, write_weights
from unirain_plugin.errors import CheckpointError, UniRainError
from unirain_plugin.inference.loading import build_network
from unirain_plugin.toolbox import replaced

_EXAMPLE, _OTHER_SIZE = (61, 45), (48, 72)
_TOLERANCE = 1e-3


def export_weights(net: nn.Module, path: Path) -> str:
    """Write weights and architecture as ``.safetensors`` or ``.pth``.

    Returns:
        What to say of the file.
    """
    write_weights(path, net.state_dict(), net.architecture, net.restore_sizes)
    return "weights with their architecture; --weights alone suffices"


def export_onnx(net: nn.Module, path: Path) -> str:
    """Write an ONNX model: input ``lq`` (N, 3, H, W) in [0, 1], output ``restored``, any N, H and W ≥ 9.

    The experts of a hard mixture all run and are masked: the same result, more time.

    Raises:
        CheckpointError: If a package is missing, or the written model does not agree with the network.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    any_size = {
        0: torch.export.Dim("n", max=64),
        2: torch.export.Dim("height", min=9),
        3: torch.export.Dim("width", min=9),
    }

    def write(temporary: Path) -> None:
        with _exportable(net) as dense, contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                dense,
                (_example(*_EXAMPLE, pictures=2),),
                dynamo=True,
                verbose=False,
                input_names=["lq"],
                output_names=["restored"],
                dynamic_shapes=(any_size,),
            )
        program.model.metadata_props[ARCHITECTURE] = json.dumps(net.architecture)
        program.save(str(temporary))

    def run(temporary: Path, x: Tensor) -> Tensor:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        return torch.from_numpy(np.asarray(session.run(None, {"lq": x.numpy()})[0]))

    return _write_checked(net, path, write, run)


def export_torchscript(net: nn.Module, path: Path) -> str:
    """Write a TorchScript model: (N, 3, H, W) in [0, 1] to the same shape, any N and H, W ≥ 9.

    Raises:
        CheckpointError: If the written model does not agree with the network.
    """

    def write(temporary: Path) -> None:
        with _exportable(net) as dense, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each branch on a shape; the comparison at another size decides
            traced = torch.jit.trace(dense, _example(*_EXAMPLE), check_trace=False)
        traced.save(str(temporary), _extra_files={ARCHITECTURE: json.dumps(net.architecture)})

    def run(temporary: Path, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(temporary))(x)

    return _write_checked(net, path, write, run)


EXPORTERS: dict[str, tuple[str, Callable[[nn.Module, Path], str]]] = {
    "safetensors": (".safetensors", export_weights),
    "pth": (".pth", export_weights),
    "onnx": (".onnx", export_onnx),
    "torchscript": (".pt", export_torchscript),
}
"""Format → (suffix, function)."""


def _write_checked(
    net: nn.Module, path: Path, write: Callable[[Path], None], run: Callable[[Path, Tensor], Tensor]
) -> str:
    """Write to a temporary file, compare with the network at two sizes, and only then put it in place."""
    temporary = path.with_name(f".{path.stem}.tmp-{os.getpid()}{path.suffix}")
    worst = 0.0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            write(temporary)
            for size in (_EXAMPLE, _OTHER_SIZE):
                x = _example(*size)
                worst = max(worst, (run(temporary, x) - net.cpu()(x)).abs().max().item())
        if not worst <= _TOLERANCE:
            raise CheckpointError(f"{path}: the exported model differs from the network by {worst:.1e}; not written.")
        os.replace(temporary, path)
    except UniRainError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: the network cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return f"compared with the network at two sizes: largest difference {worst:.1e}"


@contextlib.contextmanager
def _exportable(net: nn.Module) -> Iterator[nn.Module]:
    """A copy of the network without branches on values: mixtures masked, ties and padding as ONNX can tell them."""
    architecture = dict(net.architecture)
    if architecture["type"] != "UniRain":
        yield net.cpu()
        return
    from unirain_plugin.archs import moe, unirain_arch

    dense = build_network({**architecture, "dispatch": "dense"}, "export")
    dense.load_state_dict(net.state_dict())
    with replaced((unirain_arch, "pad_to_multiple", _pad_to_multiple), (moe, "choose_top_k", _choose_top_k)):
        yield dense.eval().requires_grad_(False)


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """The network's own padding, for pictures larger than it, in whole numbers ≥ 0 (ONNX divides towards zero)."""
    for axis in (2, 3):
        size = x.shape[axis]
        index = torch.arange((size + multiple - 1) // multiple * multiple, device=x.device)
        x = x.index_select(axis, torch.minimum(index, 2 * (size - 1) - index))
    return x


def _choose_top_k(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The network's own choice without its gradient; ONNX has no stable sort, and its TopK breaks ties the same way."""
    probabilities = logits.softmax(-1)
    chosen = logits.topk(top_k, dim=-1).indices
    picked = probabilities.gather(-1, chosen)
    return chosen, torch.ones_like(picked) if top_k == 1 else picked / picked.sum(-1, keepdim=True), probabilities


def _example(height: int, width: int, pictures: int = 1) -> Tensor:
    return torch.rand(pictures, 3, height, width, generator=torch.Generator().manual_seed(0))


def _require(*packages: str) -> None:
    missing = []
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise CheckpointError(f"--format onnx needs {', '.join(missing)}: pip install 'unirain_plugin[export]'.")
