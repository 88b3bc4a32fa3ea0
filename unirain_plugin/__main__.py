"""``python -m unirain_plugin COMMAND``: every command of the package, for those who installed a wheel."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from unirain_plugin.errors import UniRainError, did_you_mean
from unirain_plugin.support.interruptions import tell, terminable
from unirain_plugin.version import __version__

_PREPARATION = "unirain_plugin.preparation.command"
COMMANDS = {
    "train": ("unirain_plugin.train", "train a model: -opt FILE, and the toolbox's flags"),
    "test": ("unirain_plugin.test", "test a trained model: -opt FILE"),
    "inference": ("unirain_plugin.inference.command", "restore images, folders and videos: -i PATH -o DIR"),
    "app": ("unirain_plugin.app.command", "restore images in the browser: drop one, drag the slider"),
    "compare": ("unirain_plugin.compare.command", "compare models on test sets, with tables and page: -opt FILE"),
    "export": ("unirain_plugin.inference.export", "weights as safetensors, pth, onnx, pt2 or torchscript"),
    "distill": ("unirain_plugin.distill.command", "choose training pairs by retrieval and votes: -opt FILE"),
    "demo": ("unirain_plugin.study.demo", "the main job end to end on embedded photographs, with table and image"),
    "reproduce": ("unirain_plugin.study.command", "test the paper's claims in miniature: -opt FILE"),
    "adapt": ("unirain_plugin.study.adapt", "fit the weights to your own rain: --rainy DIR --clean DIR, --pairs DIR"),
    "synthesize-rain": ("unirain_plugin.rain.command", "render rain, snow or haze onto clean photographs"),
    "create-lmdb": (f"{_PREPARATION}:create_lmdb", "put pairs into LMDBs that BasicSR reads"),
    "index-dataset": (f"{_PREPARATION}:index_dataset", "make a manifest of a public data set's pairs"),
    "extract-subimages": (f"{_PREPARATION}:extract_subimages", "cut pairs into sub-images"),
    "generate-meta-info": (f"{_PREPARATION}:generate_meta_info", "meta_info_file of pairs, or back"),
    "benchmark": (
        "unirain_plugin.study.benchmarks.cli",
        "measure: arch, data, distill, metrics, runtimes, startup, weights, …",
    ),
}
"""Command name → (module, or ``module:function``; the default is ``main(argv) -> int | None``), one line of help."""


def usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        f"unirain_plugin {__version__}: UniRain for the BasicSR toolbox\n\n"
        f"usage: python -m unirain_plugin COMMAND [options]\n\n{rows}\n\n"
        "COMMAND --help tells a command's own options.\n"
    )


def entry(command: str, commands: Mapping[str, tuple[str, str]] = COMMANDS) -> Callable[[list[str]], int | None]:
    module, _, function = commands[command][0].partition(":")
    return getattr(importlib.import_module(module), function or "main")


def run(command: str, argv: list[str]) -> int:
    """Run one command; a user's mistake or a refusal of the system is one message and status 2, a signal 130, 143."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be text of the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            status = entry(command)(argv) or 0
            sys.stdout.flush()
            return status
    except KeyboardInterrupt as end:
        return tell(end)
    except UniRainError as error:
        message = str(error)
    except Exception as error:
        from unirain_plugin.support.packages import own_place

        if isinstance(error, OSError) and error.errno is not None:
            message = f"{error.filename or command}: {error.strerror}"
        elif place := own_place(error):
            message = f"{type(error).__name__}: {error}{place}"
        else:  # ours, or a library's own error
            raise
    with suppress(OSError):
        sys.stderr.write(f"error: {message}\n")
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it or its disk is full; the interpreter would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 2


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m unirain_plugin`` and of the ``unirain`` console script."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if argv[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    if argv[0] not in COMMANDS:
        sys.stderr.write(f"error: unknown command '{argv[0]}'.{did_you_mean(argv[0], COMMANDS)} See --help.\n")
        return 2
    return run(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main())
