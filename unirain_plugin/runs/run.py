"""What the train and the test program share: the command line, checked options, remedies around the pipeline."""

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import unirain_plugin
from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.runs.remedies import (
    archive_folder,
    explain_building_errors,
    explain_loading_errors,
    forward_loader_errors,
    name_batches,
    name_images,
    name_items,
    unused_path,
)
from unirain_plugin.support.files import write_errors
from unirain_plugin.support.processes import end_with_parent
from unirain_plugin.toolbox import replaced


@dataclass(frozen=True)
class RunArguments:
    """The command line of a run."""

    option_file: Path  # the YAML file
    # absolute folder below which ``experiments/``, ``results/`` and ``tb_logger/`` are written and looked up
    root: Path
    launcher: str = "none"  # ``none``, ``pytorch`` (torchrun) or ``slurm``
    auto_resume: bool = False  # go on from the newest complete checkpoint, if there is one
    debug: bool = False  # the toolbox's debug mode
    overrides: tuple[str, ...] = ()  # ``a:b=value`` entries of ``--force_yml``


def parse_arguments(argv: Sequence[str], is_train: bool) -> RunArguments:
    """Parse the toolbox's flags and ``--root``; an OptionError if the option file or the root is none."""
    command = "train" if is_train else "test"
    parser = argparse.ArgumentParser(prog=f"python -m unirain_plugin.{command}", allow_abbrev=False)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest complete checkpoint")
    parser.add_argument("--debug", action="store_true", help="the toolbox's debug mode: prints and validates often")
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options, e.g. train:ema_decay=0.999"
    )
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="where experiments/, results/ and tb_logger/ are (default: here)"
    )
    # Old launchers pass it; torchrun's environment says the same.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    option_file = Path(args.opt)
    if not option_file.is_file():
        reason = "this is a folder; expected a YAML file" if option_file.is_dir() else "there is no such file"
        raise OptionError(f"-opt {args.opt}: {reason} (working directory: {Path.cwd()}).")
    root = Path(args.root).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise OptionError(f"--root {args.root}: this is a file; expected a folder.")
    return RunArguments(option_file, root, args.launcher, args.auto_resume, args.debug, tuple(args.force_yml))


class Run:
    """One run of the toolbox's pipeline with our remedies around it. Nothing of installed BasicSR is edited."""

    def __init__(self, arguments: RunArguments, is_train: bool) -> None:
        from unirain_plugin.options import checked_loader

        end_with_parent()
        unirain_plugin.register()
        self.arguments = arguments
        self.is_train = is_train
        self.notes: list[str] = []
        """Warnings from before the toolbox's logger was there to log them."""
        with warnings_collected(self.notes):
            self.loader = checked_loader(arguments.option_file, arguments.overrides, is_train)
        self.option_text = arguments.option_file.read_text(encoding="utf-8")
        # The loader yields the checked options whatever it is given to read.
        self.options: dict[str, Any] = yaml.load("", Loader=self.loader)

    def start(self) -> None:
        from unirain_plugin.runs.distributed import fork_workers, leave_process_group

        module = importlib.import_module(f"basicsr.{'train' if self.is_train else 'test'}")
        fork_workers()
        try:
            with replaced(*self.replacements(module)):
                (module.train_pipeline if self.is_train else module.test_pipeline)(str(self.arguments.root))
        except UniRainError as error:
            raise without_worker_traceback(error) from error
        leave_process_group()  # not after an error: other ranks may be in a collective that would never end

    def replacements(self, module: Any) -> list[tuple[object, str, object]]:
        from basicsr.models.base_model import BaseModel
        from basicsr.utils import misc

        from unirain_plugin.models.validating import path_in_saved_names
        from unirain_plugin.runs.distributed import model_to_device

        build_loader, build_model = module.build_dataloader, module.build_model
        return [
            (module, "parse_options", self.parse_options),
            (module, "get_root_logger", self.logged_notes(module.get_root_logger)),
            (misc, "mkdir_and_rename", self.archive),
            (BaseModel, "model_to_device", model_to_device),
            forward_loader_errors(),
            explain_loading_errors(),
            *explain_building_errors(),
            *name_items(section["type"] for section in self.options["datasets"].values()),
            (module, "build_dataloader", lambda *args, **kwargs: name_batches(build_loader(*args, **kwargs))),
            (module, "build_model", lambda opt: name_images(build_model(opt))),
            path_in_saved_names(),
        ]

    def parse_options(self, root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        """The toolbox's ``parse_options`` with our loader, our process group and one seed for all ranks."""
        from basicsr.utils import options, set_random_seed

        from unirain_plugin.runs.distributed import agreed

        given = self.arguments  # but for the overrides, which the toolbox would execute as code
        argv = ["-opt", str(given.option_file), "--launcher", given.launcher]
        argv += ["--auto_resume"] * given.auto_resume + ["--debug"] * given.debug
        with replaced(
            (sys, "argv", [sys.argv[0], *argv]),
            (options, "ordered_yaml", lambda: (self.loader, yaml.SafeDumper)),
            (options, "init_dist", self.init_dist),
        ):
            opt, args = options.parse_options(root_path, is_train)
        # Without manual_seed each rank draws one of its own, and the data order must be common to all.
        opt["manual_seed"] = agreed(opt["manual_seed"])
        set_random_seed(opt["manual_seed"] + opt["rank"])
        return opt, args

    def init_dist(self, launcher: str, backend: str = "nccl", port: int | str | None = None, **unknown: object) -> None:
        """Replaces the toolbox's ``init_dist``; the backend follows from where the run computes.

        An OptionError if ``dist_params`` has unknown keys, or this process was not started by the launcher.
        """
        import torch

        from unirain_plugin.runs.distributed import init_process_group

        if unknown:
            raise OptionError(f"dist_params: found {', '.join(unknown)}; expected only backend and port.")
        init_process_group(launcher, torch.cuda.is_available() and self.options.get("num_gpu") != 0, port)

    def archive(self, path: str) -> None:
        """Make a folder anew; what was there is archived, and that is said in the log."""
        target = archive_folder(path)
        if target is not None:
            self.notes.append(f"{path} was there already: the old folder is now {target}.")

    def logged_notes(self, get_root_logger: Callable[..., Any]) -> Callable[..., Any]:
        """``get_root_logger`` that begins a log of its own for this run, with the notes from before.

        The toolbox sets its logger up once: if anything had asked for it before there would be no log file. And it
        would overwrite the log of a run that began within the same second.
        """
        from basicsr.utils import logger as toolbox_logger

        def wrapper(logger_name: str = "basicsr", **kwargs: object) -> Any:
            if "log_file" in kwargs:
                kwargs["log_file"] = str(unused_path(Path(kwargs["log_file"])))
                toolbox_logger.initialized_logger.pop(logger_name, None)
                for handler in list(logging.getLogger(logger_name).handlers):
                    logging.getLogger(logger_name).removeHandler(handler)
                    handler.close()
            logger = get_root_logger(logger_name, **kwargs)
            for handler in logger.handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handleError = partial(log_not_written, handler)
            while self.notes:
                logger.warning(self.notes.pop(0))
            return logger

        return wrapper


def log_not_written(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """End a run whose log cannot be written (DataError); logging would print a traceback at every line."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
        return
    with suppress(OSError):  # what it could not write it would try again at the end
        handler.close()
    with write_errors(handler.baseFilename):
        raise error


def without_worker_traceback(error: UniRainError) -> UniRainError:
    """The error as it was raised in a loader worker; torch puts the worker's traceback into its message."""
    _, found, message = str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return type(error)(message.rstrip()) if found else error


@contextmanager
def warnings_collected(notes: list[str]) -> Iterator[None]:
    """Keep the toolbox's logger silent and collect its warnings, for a log that does not exist yet."""

    def take(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            notes.append(record.getMessage())
        return False

    logger = logging.getLogger("basicsr")
    logger.addFilter(take)
    try:
        yield
    finally:
        logger.removeFilter(take)
