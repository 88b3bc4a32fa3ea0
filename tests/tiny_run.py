"""Small data and option files for tests that run something."""

from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.rain_types import RAIN_TYPES


def run_on_ranks(worker, folder: Path, ranks: int = 2):
    """Processes of the fork server that each call ``worker(rank, folder)``."""
    from torch.multiprocessing import start_processes

    start_processes(worker, (str(folder),), nprocs=ranks, start_method="forkserver")


def write_rainrag(root: Path, per_type: int = 3, size: tuple[int, int] = (48, 56), types=RAIN_TYPES, seed: int = 0):
    """Write ``{type}/{input,target}/NNN.png``: smooth random images, and the same with noise as "rain"."""
    rng = np.random.default_rng(seed)
    for rain_type in types:
        for folder in ("input", "target"):
            (root / rain_type / folder).mkdir(parents=True, exist_ok=True)
        for index in range(per_type):
            coarse = rng.uniform(30, 220, (6, 7, 3)).astype(np.float32)
            target = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
            rain = (rng.random(size) < 0.05)[..., None] * rng.integers(60, 120)
            lq = (target.astype(np.int32) + rain).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(root / rain_type / "target" / f"{index:03d}.png"), target)
            cv2.imwrite(str(root / rain_type / "input" / f"{index:03d}.png"), lq)
    return root


TINY_NETWORK = {
    "type": "UniRain", "dim": 8, "num_blocks": [1, 1, 1, 1], "decoder_blocks": [1, 1, 1], "refinement_blocks": 0,
    "heads": [1, 1, 1, 1],
}  # fmt: skip
"""A network for tests that train: a few thousand parameters."""


def tiny_train_options(root: Path, name: str = "tiny", total_iter: int = 4, **train) -> dict:
    """A complete training option file as a dict: UniRain through BasicSR on the data of :func:`write_rainrag`."""
    data = {"type": "DistilledMixedPairedDataset", "dataroot": str(root), "io_backend": {"type": "disk"}}
    training = {
        **data, "name": "tiny_train", "gt_size": 32, "use_hflip": True, "use_rot": True, "num_worker_per_gpu": 0,
        "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 1,
    }  # fmt: skip
    schedule = {"type": "CosineAnnealingRestartLR", "periods": [1000], "restart_weights": [1], "eta_min": 1.0e-6}
    metric = {"crop_border": 0, "test_y_channel": False}
    return {
        "name": name, "model_type": "UniRainModel", "scale": 1, "num_gpu": 0, "manual_seed": 7,
        "datasets": {"train": training, "val": {**data, "name": "tiny_val"}},
        "network_g": dict(TINY_NETWORK),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "optim_g": {"type": "AdamW", "lr": 0.001, "weight_decay": 0.0001, "betas": [0.9, 0.99]},
            "scheduler": schedule, "total_iter": total_iter, "warmup_iter": -1,
            "pixel_opt": {"type": "MultiObjectiveReweightedLoss", "base": {"type": "L1Loss"}, "update_freq": 1},
            **train,
        },
        "val": {
            "val_freq": 4, "save_img": False,
            "metrics": {kind: {"type": f"calculate_{kind}", **metric} for kind in ("psnr", "ssim")},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False, "wandb": {"project": None}},
        "dist_params": {"backend": "gloo"},
    }  # fmt: skip


OWN_NETWORK = """
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class {name}(nn.Conv2d):
    def __init__(self, width=1):
        super().__init__(3, 3, width, padding=width // 2)
"""


def write_own_network(folder: Path, name: str) -> str:
    """Write a module that registers a network of a user's own, a convolution, and return the module's name."""
    (folder / f"{name.lower()}.py").write_text(OWN_NETWORK.format(name=name))
    return name.lower()
