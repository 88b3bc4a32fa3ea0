"""``scripts/app.py``: restore images in the browser."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from unirain_plugin.errors import DataError, OptionError, UniRainError
from unirain_plugin.support.packages import add_network_arguments, import_named, require


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="app",
        description="Restore images in the browser: drop one, drag the slider, download the result. The server "
        "listens on this machine only, unless --host or --share says otherwise, and asks nothing of any other.",
    )
    add = p.add_argument
    add("--weights", nargs="+", type=Path, metavar="FILE", help=".safetensors or .pth files to choose from, or folders "
        "of them (default: the small network that is shipped)")  # fmt: skip
    add_network_arguments(p)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: 127.0.0.1)")
    add("--port", type=int, help="port (default: the first free one from 7860)")
    add("--share", action="store_true", help="also a public address, through gradio's servers")
    add("--open", action="store_true", help="open the page in the browser")
    add("--max-megapixels", type=float, default=100, help="refuse larger images (default: 100)")
    add("--tile", type=int, default=512, help="edge of what is computed at a time, at first (default: 512)")
    add("--precision", default="fp32", help="fp32, bf16, fp16 or auto, at first (default: fp32)")
    add("--device", default="auto", help="auto, cpu, cuda:0, mps, at first (default: auto)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; UniRainError if gradio is missing, or weights or address cannot be used."""
    args = parser().parse_args(argv)
    if args.max_megapixels <= 0:
        raise OptionError(f"--max-megapixels: got {args.max_megapixels:g}; expected more than 0.")
    with tempfile.TemporaryDirectory(prefix="unirain-app-") as folder:
        set_environment(Path(folder))
        require("gradio", "gradio", "app")
        from unirain_plugin.app.interface import fetches_nothing
        from unirain_plugin.app.restoration import Restorer
        from unirain_plugin.inference.restoring import RestoreOptions

        import_named(args)
        results = Path(folder, "results")
        results.mkdir()
        restorer = Restorer(find_weights(args.weights), args.network, int(args.max_megapixels * 1e6), results)
        net = restorer.net(str(restorer.weights[0]), args.device)  # what is wrong with it is said before the start
        defaults = RestoreOptions(args.tile, precision=args.precision, sizes=net.restore_sizes)
        defaults.check_network(net)
        with fetches_nothing():
            serve(args, restorer, defaults)
    return 0


def set_environment(folder: Path) -> None:
    """What gradio reads when it is imported: where uploads go, and that nobody is to be told of its use."""
    no_telling = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), **no_telling}


def find_weights(paths: list[Path] | None) -> list[Path]:
    """The files of weights, those in folders included; an error if a folder holds none, or nothing is there at all."""
    from unirain_plugin.checkpoints.weights import SUFFIXES
    from unirain_plugin.inference.loading import weights_path

    if not paths:
        return [weights_path(None)]
    found: list[Path] = []
    for path in paths:
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise DataError(f"--weights {path}: the folder holds no {' or '.join(SUFFIXES)} file.")
        found += files
    return list(dict.fromkeys(found))


def serve(args: argparse.Namespace, restorer: object, defaults: object) -> None:
    """Start the server and wait until it is interrupted; a UniRainError if the address is taken or not ours."""
    from unirain_plugin.app.interface import build, theme

    blocks = build(restorer, defaults, args.device)
    try:
        _, url, shared = blocks.queue(max_size=32).launch(
            server_name=args.host,
            server_port=args.port,
            share=args.share,
            inbrowser=args.open,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size="512mb",
            theme=theme(),
        )
    except (OSError, ValueError) as error:
        raise UniRainError(f"--host {args.host} --port {args.port}: cannot be served there: {error}") from None
    sys.stdout.write(f"Serving at {url}" + (f" and {shared}" if shared else "") + " (Ctrl+C ends it)\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder of uploads goes, too
    try:
        blocks.block_thread()
    finally:
        blocks.close()
