"""``scripts/export.py``: write trained weights for other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unirain_plugin.errors import OptionError

WITH_SIZES = ("safetensors", "pth")
FORMATS = (*WITH_SIZES, "onnx", "torchscript")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="export",
        description="Write trained weights as one file that tells its network: safetensors or pth for --weights, "
        "BasicSR and spandrel; onnx or torchscript to run elsewhere (each is compared with the network first).",
    )
    p.add_argument(
        "--weights", metavar="FILE", help="weights or checkpoint (default: the small network that is shipped)"
    )
    p.add_argument("--network", metavar="YML", help="option file with network_g, for weights that do not tell it")
    p.add_argument("--param-key", metavar="KEY", help="part of a .pth file (default: params_ema where it exists)")
    p.add_argument("--format", choices=FORMATS, default="safetensors", help="default: safetensors")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: beside the weights, with the new suffix")
    p.add_argument(
        "--sizes",
        type=int,
        nargs="*",
        metavar="PX",
        help="safetensors and pth: name these longer edges for inference.py's --sizes (default: as the weights' file)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parser().parse_args(argv)
    from unirain_plugin.inference.export_formats import EXPORTERS  # torch and BasicSR take seconds to import
    from unirain_plugin.inference.loading import DEFAULT_WEIGHTS, load
    from unirain_plugin.inference.restoring import RestoreOptions

    suffix, export = EXPORTERS[args.format]
    source = DEFAULT_WEIGHTS if args.weights in (None, "default") else Path(args.weights)
    output = args.output or source.with_suffix(suffix)
    if output.suffix.lower() != suffix:
        raise OptionError(f"-o {output}: a file of format {args.format} ends with '{suffix}'.")
    if output.exists() and not args.overwrite:
        raise OptionError(f"-o {output}: this file exists; give another name with -o, or --overwrite.")
    if args.sizes is not None and args.format not in WITH_SIZES:
        raise OptionError(f"--sizes: a file of format {args.format} cannot name them; {' or '.join(WITH_SIZES)} can.")
    net = load(args.weights, args.network, "cpu", args.param_key)
    if args.sizes is not None:
        net.restore_sizes = RestoreOptions(sizes=tuple(args.sizes)).sizes
    remark = export(net, output)
    sys.stdout.write(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {remark}\n")
    return 0
