"""What a data set, loss or metric of a user's own raises: one message with image, error, file and line."""

import re

import pytest
import yaml
from run_helpers import stock_sections
from test_test_runner import test_options

PARTS = """
import os
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.losses.basic_loss import L1Loss
from basicsr.utils.registry import DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY
from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset

class Own:
    def __getitem__(self, index):
        item = super().__getitem__(index)
        if item["lq_path"].endswith("drs/input/001.png"):
            if os.environ["FAILS"] == "set":
                item["transformed"] = {}["own"]
            if os.environ["FAILS"] == "batch":
                item["lq"] = item["lq"][..., 1:]
        return item

@DATASET_REGISTRY.register()
class OwnPaired(Own, PairedImageDataset):
    pass

@DATASET_REGISTRY.register()
class OwnMixed(Own, DistilledMixedPairedDataset):
    pass

@LOSS_REGISTRY.register()
class OwnLoss(L1Loss):
    def forward(self, *args, **kwargs):
        return {}["own"] if os.environ["FAILS"] == "loss" else super().forward(*args, **kwargs)

@METRIC_REGISTRY.register()
def own_metric(img, img2, **options):
    return {}["own"] if os.environ["FAILS"] == "metric" else 1.0
"""
PAIR = r"drs/input/00[01]\.png"
TOLD = {
    "set": r"a data set of your own, Own\w+, failed on \S+drs/input/001\.png: KeyError: 'own' \(FILE:13, in Own.__ge",
    "batch": rf"making a batch failed on \S+{PAIR}, \S+{PAIR}: RuntimeError: stack expects each tensor to be equal",
    "loss": rf"a part of your own failed on \S+{PAIR}, \S+{PAIR}: KeyError: 'own' \(FILE:29, in OwnLoss.forward\)",
    "metric": r"a part of your own failed on \S+drs/input/000\.png: KeyError: 'own' \(FILE:33, in own_metric\)",
}


@pytest.mark.parametrize(
    ("command", "fails", "stock", "workers"),
    [("train", "set", False, 1), ("train", "set", True, 0), ("train", "batch", False, 0), ("train", "batch", True, 1),
     ("train", "loss", True, 0), ("train", "metric", False, 0), ("train", "metric", True, 0), ("test", "set", True, 0),
     ("test", "metric", True, 0)],
)  # fmt: skip
def test_what_fails_is_told_with_image_file_and_line(programs, options, rain, tmp_path, command, fails, stock, workers):
    (tmp_path / "own_parts.py").write_text(PARTS)
    path = options(total_iter=4, **(stock_sections(rain) if stock else {}))
    opt = yaml.safe_load(path.read_text())
    opt["imports"] = ["own_parts"]
    for section in opt["datasets"].values():
        section["type"] = "OwnPaired" if stock else "OwnMixed"
    if not stock:
        opt["datasets"]["train"]["rain_types"] = ["drs"]
    opt["datasets"]["train"]["num_worker_per_gpu"] = workers
    opt["train"]["pixel_opt"] = {"type": "OwnLoss", "loss_weight": 1.0, "reduction": "mean"}
    opt["val"]["metrics"] = {"own": {"type": "own_metric", "better": "higher"}}
    path.write_text(yaml.safe_dump(opt))
    if command == "test":
        path = test_options(path, "")
        opt = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**opt, "imports": ["own_parts"], "path": {}}))
    text = programs.run(command, "-opt", path, "--root", tmp_path, status=2, env={"FAILS": fails})
    assert re.search("\nerror: " + TOLD[fails].replace("FILE", str(tmp_path / "own_parts.py")), text), text[-1500:]
    assert "Traceback" not in text.partition("\nerror: ")[2]
