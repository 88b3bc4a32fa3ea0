"""One run of the grid in a process of its own: trains through the project's runner, then writes what came out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unirain_plugin.errors import TrainingError, UniRainError
from unirain_plugin.runs.run import RunArguments
from unirain_plugin.runs.training import TrainingRun
from unirain_plugin.study.files import CURVE, RESULT, write_json
from unirain_plugin.study.plan import VAL_NAME
from unirain_plugin.support.files import write_png
from unirain_plugin.support.processes import end_with_parent
from unirain_plugin.support.provenance import commit, now


class RecordedRun(TrainingRun):
    """A training run that keeps the figures of every validation in ``curve.jsonl`` of its experiment."""

    def hooked_model(self, build_model: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        """See :class:`~unirain_plugin.runs.training.TrainingRun`."""
        build = super().hooked_model(build_model)

        def wrapper(opt: dict[str, Any]) -> Any:
            model = build(opt)
            validation = model.validation

            def recorded(dataloader: Any, current_iter: int, *args: object, **kwargs: object) -> None:
                before = model.validation_results.get(VAL_NAME)
                validation(dataloader, current_iter, *args, **kwargs)
                if model.validation_results.get(VAL_NAME) is not before:
                    line = {"iteration": current_iter, **self.figures(), "loss_weights": self.loss_weights()}
                    with (self.folder / CURVE).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")

            model.validation = recorded
            return model

        return wrapper

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return Path(self.model.opt["path"]["experiments_root"])

    def figures(self) -> dict[str, dict[str, float]]:
        """Metric → rain type → mean of the held-out pictures, as last validated."""
        result = self.model.validation_results[VAL_NAME]
        return {metric: result.by_type(metric) for metric in ("psnr", "ssim")}

    def loss_weights(self) -> dict[str, float]:
        """Rain type → weight in the loss."""
        loss = self.model.cri_pix
        return dict(zip(loss.labels.names, loss.weights.tolist(), strict=True))


def work(option_file: Path, root: Path, log: Path, threads: int) -> None:
    """A run's process: everything it says goes into a log; it dies with the process that started it.

    Args:
        option_file: The run's options.
        root: The output folder.
        log: File for standard output and error.
        threads: CPU threads.
    """
    import cv2
    import torch

    end_with_parent()
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        train_and_evaluate(option_file, root)
    except UniRainError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def train_and_evaluate(option_file: Path, root: Path) -> None:
    """Train, going on from the newest checkpoint if there is one; evaluate; write the result and pictures.

    Raises:
        UniRainError: As the runner; TrainingError if the figures are not finite.
    """
    import torch

    started = time.monotonic()
    run = RecordedRun(RunArguments(option_file, root, auto_resume=True))
    run.start()
    figures = run.figures()
    if any(value != value for types in figures.values() for value in types.values()):
        raise TrainingError(f"{run.folder.name}: the figures are not finite: {figures}.")
    write_pictures(run.model, run.val_loaders[0], run.folder / "pictures")
    routing = run.model.validation_results[VAL_NAME].routing()
    write_json(
        run.folder / RESULT,
        {
            "iterations": int(run.model.opt["train"]["total_iter"]),
            "resumed_from": run.resume_state["iter"] if run.resume_state else 0,
            "device": torch.cuda.get_device_name() if run.model.device.type == "cuda" else "cpu",
            "commit": commit(),
            "ended": now(),
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time(), 1),
            **figures,
            "loss_weights": run.loss_weights(),
            "routing": {t: {layer: share.tolist() for layer, share in s.items()} for t, s in routing.items()},
        },
    )


def write_pictures(model: Any, loader: Any, folder: Path) -> None:
    """Restore the first held-out picture of every rain type; write it with its input and its clean picture."""
    from basicsr.utils import tensor2img

    names = {label: name for name, label in loader.dataset.rain_types.items()}
    for data in loader:
        label = int(data["rain_type"][0])
        if label not in names:
            continue
        name = names.pop(label)
        model.feed_data(data)
        model.test()
        for kind, tensor in (("rainy", model.lq), ("restored", model.output), ("clean", model.gt)):
            write_png(folder / f"{name}_{kind}.png", tensor2img([tensor]))
        model.forget_data()
