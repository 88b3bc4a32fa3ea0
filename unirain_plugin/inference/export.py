"""``scripts/export.py``: weights with their network's options (safetensors, pth), or the network itself (onnx, pt2,
torchscript), for other programs.
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unirain_plugin.checkpoints.weights import ARCHITECTURE, CONTEXT, SIZES, check_context, check_sizes, write_weights
from unirain_plugin.errors import CheckpointError, OptionError, UniRainError
from unirain_plugin.inference.loading import DEFAULT_WEIGHTS, build_network, load
from unirain_plugin.inference.onnx_network import INPUT, MULTIPLE, OUTPUT, OnnxNetwork, onnx_runtime
from unirain_plugin.support.files import write_whole
from unirain_plugin.support.packages import add_network_arguments, import_named
from unirain_plugin.support.tiling import checked_output

_EXAMPLE, _OTHER_SIZE = (61, 45), (48, 72)
_TOLERANCE = 1e-3


def export_weights(net: nn.Module, path: Path) -> str:
    """Write weights and architecture as ``.safetensors`` or ``.pth``; returns what to say of the file."""
    write_weights(path, net.state_dict(), net.architecture, net.restore_sizes, net.restore_context)
    module = type(net).__module__
    ours = module.partition(".")[0] in ("unirain_plugin", "basicsr")
    use = "--weights alone suffices" if ours else f"its code is to be named as well: --imports {module}"
    return f"weights with their architecture; {use}"


def export_onnx(net: nn.Module, path: Path) -> str:
    """Write an ONNX model: input ``lq`` (N, 3, H, W) in [0, 1], output ``restored``, any N, H and W ≥ 9.

    The experts of a hard mixture all run and are masked: the same result, more time. Networks that pad their input to
    a multiple m of pixels (UniRain: 8) take H and W > m. A CheckpointError if a package is missing, or the written
    model does not agree with the network.
    """
    runtime = onnx_runtime("--format onnx", ("onnx", "onnxscript"))
    multiple = net.stride if net.architecture["type"] == "UniRain" else 1
    edges = (torch.export.Dim(name, min=max(multiple, 8) + 1) for name in ("height", "width"))
    any_size = {0: torch.export.Dim("n", max=64), **dict(zip((2, 3), edges, strict=True))}

    def make() -> bytes:
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                _without_branches(net),
                (_example(*_EXAMPLE, images=2),),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(any_size,),
            )
        edges = {SIZES: list(net.restore_sizes), CONTEXT: net.restore_context}
        notes = {ARCHITECTURE: net.architecture, **edges, MULTIPLE: multiple}
        program.model.metadata_props.update({key: json.dumps(value) for key, value in notes.items()})
        return program.model_proto.SerializeToString()

    def load(data: bytes) -> Callable[[Tensor], Tensor]:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(np.asarray(session.run(None, {INPUT: x.numpy()})[0]))

    return _write_checked(net, path, make, load)


def export_pt2(net: nn.Module, path: Path) -> str:
    """Write a program of ``torch.export``; input, output and errors are as for :func:`export_onnx`."""
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)

    def make() -> bytes:
        example = _example(*_EXAMPLE, images=2)
        program = torch.export.export(_without_branches(net), (example,), dynamic_shapes=(any_size,))
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={ARCHITECTURE: json.dumps(net.architecture)})
        return buffer.getvalue()

    return _write_checked(net, path, make, lambda data: torch.export.load(io.BytesIO(data)).module())


def export_torchscript(net: nn.Module, path: Path) -> str:
    """Write a TorchScript model; input, output and errors are as for :func:`export_onnx`."""

    def make() -> bytes:
        # A warning for each branch on a shape (the comparison at another size decides), and of TorchScript's end.
        traced = torch.jit.trace(_without_branches(net), _example(*_EXAMPLE), check_trace=False)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files={ARCHITECTURE: json.dumps(net.architecture)})
        return buffer.getvalue()

    remark = _write_checked(net, path, make, lambda data: torch.jit.load(io.BytesIO(data)))
    return f"{remark}; TorchScript is ending, as torch 2.13 and later warn: --format pt2 takes its place"


EXPORTERS: dict[str, tuple[str, Callable[[nn.Module, Path], str]]] = {
    "safetensors": (".safetensors", export_weights),
    "pth": (".pth", export_weights),
    "onnx": (".onnx", export_onnx),
    "pt2": (".pt2", export_pt2),
    "torchscript": (".pt", export_torchscript),
}
"""Format → (suffix, function)."""
_WITH_SIZES = ("safetensors", "pth", "onnx")


def _write_checked(
    net: nn.Module, path: Path, make: Callable[[], bytes], load: Callable[[bytes], Callable[[Tensor], Tensor]]
) -> str:
    """Make the file's contents, compare them with the network at two sizes, and only then write them."""
    worst, before = 0.0, logging.root.manager.disable
    try:
        with torch.no_grad():
            examples = [_example(*size) for size in (_EXAMPLE, _OTHER_SIZE)]
            expected = [_restored(net.cpu(), x) for x in examples]
            logging.disable(logging.ERROR)  # torch's log tells of every attempt: what counts is in the error
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = make()
                run = load(data)
                for x, y in zip(examples, expected, strict=True):
                    worst = max(worst, (run(x) - y).abs().max().item())
        if not worst <= _TOLERANCE:
            raise CheckpointError(f"{path}: the exported model differs from the network by {worst:.1e}; not written.")
    except UniRainError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: {net.architecture['type']} cannot be exported: {_root(error)}") from error
    finally:
        logging.disable(before)
    write_whole(path, data)
    return f"compared with the network at two sizes: largest difference {worst:.1e}"


def _restored(net: nn.Module, x: Tensor) -> Tensor:
    try:
        output = net(x)
    except Exception as error:
        size = "×".join(map(str, x.shape[2:]))
        raise CheckpointError(
            f"{net.architecture['type']} cannot be exported for images of any size: it fails on one of {size} pixels "
            f"(height × width): {_root(error)}"
        ) from error
    return checked_output(output)


def _root(error: BaseException) -> str:
    """What went wrong first, in a line: torch wraps it in several errors, advice and colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"


def _without_branches(net: nn.Module) -> nn.Module:
    """The network, or UniRain with all experts run and masked: no branches on values."""
    net = net.cpu()
    if net.architecture["type"] != "UniRain":
        return net
    dense = build_network({**net.architecture, "dispatch": "dense"}, "export")
    dense.load_state_dict(net.state_dict())
    return dense.eval().requires_grad_(False)


def _example(height: int, width: int, images: int = 1) -> Tensor:
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(0))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="export",
        description="Write trained weights as one file that tells its network: safetensors or pth for --weights, "
        "BasicSR and spandrel; onnx, pt2 or torchscript (ending since torch 2.13) to run elsewhere (each is compared "
        "with the network first).",
    )
    add = p.add_argument
    add("--weights", metavar="FILE", help="weights or checkpoint (default: the small network that is shipped)")
    add_network_arguments(p)
    add("--param-key", metavar="KEY", help="part of a .pth file (default: params_ema where it exists)")
    add("--format", choices=EXPORTERS, default="safetensors", help="default: safetensors")
    add("-o", "--output", type=Path, metavar="FILE", help="default: beside the weights, with the new suffix")
    add("--sizes", type=int, nargs="*", metavar="PX", help=f"{', '.join(_WITH_SIZES)}: name these longer edges for "
        "inference.py's --sizes (default: as the weights)")  # fmt: skip
    add("--context", type=int, metavar="PX", help="likewise, for inference.py's --context")
    add("--overwrite", action="store_true", help="replace the output file if it exists")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    suffix, export = EXPORTERS[args.format]
    source = DEFAULT_WEIGHTS if args.weights in (None, "default") else Path(args.weights)
    output = args.output or source.with_suffix(suffix)
    if output.suffix.lower() != suffix:
        raise OptionError(f"-o {output}: a file of format {args.format} ends with '{suffix}'.")
    if output.exists() and not args.overwrite:
        raise OptionError(f"-o {output}: this file exists; give another name with -o, or --overwrite.")
    for key in (SIZES, CONTEXT):
        if getattr(args, key) is not None and args.format not in _WITH_SIZES:
            able = ", ".join(_WITH_SIZES)
            raise OptionError(f"--{key}: a file of format {args.format} cannot name them; {able} can.")
    import_named(args)
    net = load(args.weights, args.network, "cpu", args.param_key)
    if isinstance(net, OnnxNetwork):
        raise OptionError(f"--weights {source}: an ONNX file is exported already; give the weights it was made from.")
    if args.sizes is not None:
        net.restore_sizes = check_sizes(args.sizes)
    if args.context is not None:
        net.restore_context = check_context(args.context)
    remark = export(net, output)
    sys.stdout.write(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {remark}\n")
    return 0
