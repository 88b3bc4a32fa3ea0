"""What must pass: our option files, files in the toolbox's style, short forms. And what the check must leave alone."""

import copy
import logging
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml
from basicsr.utils import logger, options
from option_texts import STOCK, TEST, UNIRAIN

from unirain_plugin.options import check_options, checked_loader, load_options

OPTIONS = Path(__file__).parents[2] / "options"


@pytest.fixture()
def valid(rainrag_root, tmp_path):
    """The good file, on data that are there."""
    file = tmp_path / "valid.yml"
    file.write_text(UNIRAIN.replace("DATA", str(rainrag_root)))
    return file


@pytest.mark.parametrize(
    "file", sorted([*OPTIONS.glob("train/**/*.yml"), *OPTIONS.glob("test/**/*.yml")]), ids=lambda path: path.stem
)
def test_our_files(file):
    is_train = file.is_relative_to(OPTIONS / "train")
    opt = load_options(file, is_train=is_train, check_paths=False)
    assert check_options(opt, file, is_train=is_train, check_paths=False) == []


def test_valid_file_gives_the_toolboxs_values_and_no_warning(valid):
    opt = load_options(valid)
    assert check_options(opt, valid) == []
    assert opt == yaml.safe_load(valid.read_text())
    assert isinstance(opt["train"]["optim_g"], OrderedDict)
    assert list(opt)[:3] == ["name", "model_type", "scale"]
    assert opt["train"]["optim_g"]["lr"] == pytest.approx(2e-4)


def test_stock_style_passes_without_warnings_and_is_not_changed():
    opt = yaml.safe_load(STOCK)
    before = copy.deepcopy(opt)
    assert check_options(opt, check_paths=False) == []
    with pytest.raises(ValueError) as caught:
        check_options(opt, "x.yml")
    folders = [f"datasets.{phase}.dataroot_{side}" for phase in ("train", "val_1") for side in ("gt", "lq")]
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]] == folders
    assert opt == before
    network = {"type": "SRVGGNetCompact", "upscale": 2}  # registered as SRVGGNetCompact_basicsr
    assert check_options({**opt, "network_g": network}, check_paths=False) == []


def test_mistakes_in_stock_style_are_errors():
    for old, new, told in (
        ("use_hflip", "use_flip", r"datasets\.train\.use_flip: unknown key\. Did you mean 'use_hflip'\?"),  # till 1.3.4
        ("type: Adam\n", "type: AdamW\n", r"SRModel has no optimiser 'AdamW'\. Did you mean 'Adam'\?"),
        (
            "reduction: mean",
            "reduction: none",
            "reduction: found the text 'none'; expected one of mean, sum",
        ),  # it needs a scalar
    ):
        with pytest.raises(ValueError, match=told):
            check_options(yaml.safe_load(STOCK.replace(old, new)), check_paths=False)


def test_amp_off_passes_though_yaml_reads_it_as_false_and_testing_without_weights_is_warned_about(valid, rainrag_root):
    text = valid.read_text()
    for value in ("off", "bf16"):
        valid.write_text(text.replace("grad_clip: 1.0", f"amp: {value}"))
        assert load_options(valid)["train"]["amp"] in (False, "bf16")
    opt = yaml.safe_load(TEST.replace("DATA", str(rainrag_root)).replace("WEIGHTS", "~"))
    (warning,) = check_options(opt, "t.yml", is_train=False)
    assert warning.startswith("t.yml: path.pretrain_network_g: no weights are named")


def test_odd_but_possible_settings_are_warnings():
    text = STOCK.replace("milestones: [200000]", "milestones: [400000]").replace(
        "warmup_iter: -1", "warmup_iter: 400000"
    )
    opt = yaml.safe_load(text.replace("name: edsr", "name: debug_edsr"))
    opt["is_train"] = True
    del opt["val"]
    warnings = "\n".join(check_options(opt, check_paths=False))
    for key in ("train.scheduler.milestones", "train.warmup_iter", "name", "is_train", "datasets.val_1"):
        assert f": {key}: " in warnings
    opt = yaml.safe_load(STOCK.replace("milestones: [200000]", "milestones: [200000, 300000]"))  # the last iteration
    opt["datasets"]["val_1"]["name"] = opt["datasets"]["train"]["name"]  # a training set has no folder of results
    assert opt["train"]["total_iter"] == 300000
    assert check_options(opt, check_paths=False) == []


def test_the_toolboxs_logger_stays_unconfigured(valid, monkeypatch):
    monkeypatch.setattr(logger, "initialized_logger", {})
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])
    check_options(yaml.safe_load(valid.read_text()))
    assert logger.initialized_logger == {}, "the pipeline could not give the logger its file any more"
    assert logging.getLogger("basicsr").handlers == []


def test_the_toolboxs_parser_takes_the_checked_loader(valid, tmp_path, monkeypatch):
    loader = checked_loader(valid, ["train:ema_decay=0.5", "name=other"])
    monkeypatch.setattr(options, "ordered_yaml", lambda: (loader, yaml.SafeDumper))
    monkeypatch.setattr(sys, "argv", ["train.py", "-opt", str(valid)])
    opt, _ = options.parse_options(str(tmp_path), is_train=True)
    assert (opt["name"], opt["train"]["ema_decay"], opt["datasets"]["train"]["phase"]) == ("other", 0.5, "train")
    assert opt["path"]["experiments_root"] == str(tmp_path / "experiments" / "other")
    fresh = yaml.load("anything", Loader=loader)
    assert "phase" not in fresh["datasets"]["train"], "every load must give a copy of its own"
