"""ONNX files that ``scripts/export.py`` wrote, as networks that restore: computed by onnxruntime."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from unirain_plugin.archs.blocks import pad_to_multiple
from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.checkpoints.weights import ARCHITECTURE, CONTEXT, SIZES, unpack_architecture, unpack_edges
from unirain_plugin.errors import CheckpointError, OptionError, UniRainError
from unirain_plugin.support.spec import parse_section

INPUT, OUTPUT = "lq", "restored"
MULTIPLE = "multiple"
"""Names in our files: of the tensors, and of the note to what multiple of pixels the network pads its input."""


def onnx_runtime(purpose: str, packages: Iterable[str] = ()) -> ModuleType:
    """The package onnxruntime, without telemetry; a CheckpointError names what is missing for the ``purpose``."""
    missing = [name for name in (*packages, "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(f"{purpose} needs {', '.join(missing)}: pip install 'unirain_plugin[export]'.")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it is imported
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


class OnnxNetwork(nn.Module):
    """Restores ``(N, 3, H, W)`` in [0, 1], of any H, W ≥ 1, on the CPU, with as many threads as torch has now.

    Its only parameter is the SHA-256 of the file, by which results are told from those of other weights. A
    CheckpointError if onnxruntime is missing, or the file is damaged or another program's network.
    """

    precision = "fp32"

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file of weights.")
        runtime = onnx_runtime(f"{path}: an ONNX network")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised as well
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no base of their own
            raise CheckpointError(f"{path}: onnxruntime cannot read this network: {_first_line(error)}") from None
        ends = [(e.name, e.type, e.shape) for e in (*session.get_inputs(), *session.get_outputs())]
        given = [(name, kind, [size if isinstance(size, int) else 0 for size in shape]) for name, kind, shape in ends]
        if given != [(name, "tensor(float)", [0, 3, 0, 0]) for name in (INPUT, OUTPUT)]:
            found = ", ".join(f"'{name}' {kind} {shape}" for name, kind, shape in ends)
            raise CheckpointError(
                f"{path}: this network has other inputs and outputs: {found}; expected those of scripts/export.py, one "
                f"input '{INPUT}' and one output '{OUTPUT}', float (N, 3, height, width) of any size."
            )
        notes = session.get_modelmeta().custom_metadata_map
        self.path, self._session = path, session
        self.architecture = unpack_architecture(notes.get(ARCHITECTURE), str(path))
        self.restore_sizes, self.restore_context = (unpack_edges(notes, key, str(path)) for key in (SIZES, CONTEXT))
        self.multiple = int(notes.get(MULTIPLE, 1))
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.digest = nn.Parameter(torch.tensor(list(digest), dtype=torch.float32), requires_grad=False)

    def bytes_a_pixel(self) -> int | None:
        """About how much memory an image takes, fitted to two networks; None for other than UniRain."""
        kind, arguments = self.architecture["type"], {k: v for k, v in self.architecture.items() if k != "type"}
        if kind != "UniRain":
            return None
        options = parse_section(NetworkOptions, arguments, str(self.path))
        channels = options.dim * (1 + options.widen_last)
        last = options.refinement_expansion * channels if options.refinement_blocks else 0
        hidden = max(options.encoder_expansion * options.dim, options.decoder_expansion * channels, last)
        return round(4 * (32 * options.dim + 9 * max(3 * channels, 2 * hidden)))

    def forward(self, lq: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` float32 to the same shape.

        An OptionError under autocast, a UniRainError where traced or counted or onnxruntime fails, or a MemoryError.
        """
        if torch.is_autocast_enabled("cpu"):
            raise OptionError(f"precision: {self.path} computes in {self.precision} only.")
        if torch.jit.is_tracing():
            raise UniRainError(f"{self.path}: what an ONNX network computes cannot be traced or counted.")
        height, width = lq.shape[2:]
        padded = pad_to_multiple(lq, self.multiple).contiguous().numpy()
        try:
            restored = self._session.run([OUTPUT], {INPUT: padded})[0]
        except Exception as error:  # as above
            reason = _first_line(error)
            kind = MemoryError if "allocate memory" in reason else UniRainError
            raise kind(f"{self.path}: onnxruntime failed on {width}×{height} pixels: {reason}") from None
        return torch.from_numpy(restored)[..., :height, :width]


def load_onnx(path: Path, network: object, device: str | torch.device, param_key: str | None) -> OnnxNetwork:
    """An ONNX file's network; an OptionError for another device than the CPU, and for what the file itself tells."""
    if str(device) not in ("auto", "cpu"):
        raise OptionError(f"device: got '{device}', but {path} runs on the CPU only. Use auto or cpu.")
    for option, value in (("network", network), ("param_key", param_key)):
        if value is not None:
            raise OptionError(f"{option}: {path} is an ONNX file, which holds its network; leave this option out.")
    return OnnxNetwork(path).eval()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
