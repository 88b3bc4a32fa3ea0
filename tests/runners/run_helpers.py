"""Options and results of training runs."""

import re
from pathlib import Path

import torch
from tiny_run import tiny_train_options

_LOSSES = re.compile(r"iter:\s*([\d,]+), lr:.*?\)\] (?:\[eta.*?\)\] )?(.*)")


def merge(target, changes):
    """Merge nested dictionaries in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        elif value is None:
            target.pop(key, None)
        else:
            target[key] = value


def stock_sections(rain):
    """What makes the tiny options a run of the stock toolbox's own model, network, loss and data set."""
    data = {
        "type": "PairedImageDataset", "dataroot": None, "rain_types": None, "dataroot_gt": str(rain / "drs/target"),
        "dataroot_lq": str(rain / "drs/input"), "io_backend": {"type": "disk"},
    }  # fmt: skip
    network = dict.fromkeys(tiny_train_options(rain, name="x", total_iter=1)["network_g"])
    network.update(type="EDSR", num_in_ch=3, num_out_ch=3, num_feat=4, num_block=1, upscale=1)
    loss = {"type": "L1Loss", "base": None, "update_freq": None, "loss_weight": 1.0, "reduction": "mean"}
    return {
        "model_type": "SRModel",
        "datasets": {"train": dict(data), "val": dict(data)},
        "network_g": network,
        "train": {"pixel_opt": loss, "optim_g": {"type": "Adam"}},
    }


def logged(folder: Path) -> dict[int, str]:
    """Iteration → losses as text, from all logs of an experiment; a repeated iteration must have repeated itself."""
    found = {}
    for log in sorted(folder.glob("train_*.log")):
        for match in _LOSSES.finditer(log.read_text()):
            iteration, losses = int(match[1].replace(",", "")), match[2].strip()
            assert found.setdefault(iteration, losses) == losses, f"iteration {iteration} was repeated differently"
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by ``params/name``."""
    content = torch.load(path, weights_only=True)
    return {f"{key}/{name}": tensor for key, part in content.items() for name, tensor in part.items()}


def assert_same_weights(first: Path, second: Path):
    """Bit for bit."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different
