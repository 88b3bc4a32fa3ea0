"""``benchmark startup``: whole processes that do next to nothing, against ``import torch`` alone.

Each is run once uncounted, then in turns: one 640×480 image restored by the command and by the Python call, one
iteration of training and the distillation of one pair. Memory is the peak of the largest process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from unirain_plugin.compare.report import markdown_table
from unirain_plugin.errors import UniRainError
from unirain_plugin.study.benchmarks.cli import expect_least, tell, work_folder
from unirain_plugin.support.files import write_whole

Measure = tuple[float, float, float]  # seconds that pass, processor seconds, peak memory in KiB
BASELINE = "import torch"
MODULE = ("-m", "unirain_plugin")

_TRAINING = """
{name: startup, model_type: UniRainModel, scale: 1, num_gpu: 0, manual_seed: 0,
 datasets: {train: {name: pair, type: PairedImageDataset, dataroot_gt: target, dataroot_lq: input,
   io_backend: {type: disk}, gt_size: 64, use_hflip: true, use_rot: true, num_worker_per_gpu: 0,
   batch_size_per_gpu: 1, dataset_enlarge_ratio: 1}},
 network_g: {type: UniRain, dim: 8, num_blocks: [1, 0], decoder_blocks: [1], refinement_blocks: 0, heads: [1, 1]},
 path: {pretrain_network_g: null, strict_load_g: true, resume_state: null},
 train: {optim_g: {type: AdamW, lr: 0.001}, scheduler: {type: MultiStepLR, milestones: [9]}, total_iter: 1,
   warmup_iter: -1, pixel_opt: {type: L1Loss}},
 logger: {print_freq: 1, save_checkpoint_freq: 9, use_tb_logger: false}, dist_params: {backend: gloo}}
"""
_DISTILLATION = """
{name: startup, references: {images: target}, candidates: {manifest: pair.jsonl}, engine: {type: local, workers: 1},
 retrieval: {k1: 1, k2: 1, k3: 1}, output: distilled}
"""
PROGRAMS: dict[str, tuple[str, ...]] = {
    BASELINE: ("-c", "import torch"),
    "inference of one image": (*MODULE, "inference", "-i", "input", "-o", "restored", "--overwrite", "--quiet"),
    "load and restore": ("-c", "from unirain_plugin import load, restore; restore(load(), 'input/a.png')"),
    "training, one iteration": (*MODULE, "train", "-opt", "train.yml"),
    "distillation of one pair": (*MODULE, "distill", "-opt", "distill.yml", "--quiet"),
}
"""Row → arguments of Python, in a folder that holds what they read."""


def run(arguments: tuple[str, ...], folder: Path) -> Measure:
    """Run Python in a folder to its end. A UniRainError if it failed, with the end of what it said."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-2000:]
            raise UniRainError(f"python {' '.join(arguments)} failed ({process.returncode}):\n{end}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="benchmark startup", description=__doc__)
    p.add_argument("--rounds", type=int, default=5, help="counted turns; medians are reported (default: 5)")
    args = p.parse_args(argv)
    expect_least(args, 1, "rounds")
    measures: dict[str, list[Measure]] = {name: [] for name in PROGRAMS}
    with work_folder(None) as folder:
        from PIL import Image

        for name in ("input", "target"):
            (folder / name).mkdir()
            Image.effect_noise((640, 480), 60).convert("RGB").save(folder / name / "a.png")
        write_whole(folder / "pair.jsonl", '{"lq": "input/a.png", "gt": "target/a.png", "rain_type": "drs"}\n')
        write_whole(folder / "train.yml", _TRAINING)
        write_whole(folder / "distill.yml", _DISTILLATION)
        for turn in range(args.rounds + 1):
            tell("startup", f"turn {turn} of {args.rounds}")
            for name, arguments in PROGRAMS.items():
                measures[name].append(run(arguments, folder))
    middle = {name: [median(each) for each in zip(*turns[1:], strict=True)] for name, turns in measures.items()}
    titles = ["whole process", "time ÷", "processor time ÷", "peak memory ÷"]
    rows = [[name, *(f"{a / b:.2f}" for a, b in zip(v, middle[BASELINE], strict=True))] for name, v in middle.items()]
    sys.stdout.write(
        f"÷ {BASELINE} ({middle[BASELINE][0]:.2f} s, {middle[BASELINE][2] / 1024:.0f} MiB); "
        f"median of {args.rounds} turns\n\n{markdown_table(titles, rows)}"
    )
    return 0
