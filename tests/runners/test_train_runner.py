"""The train program: what it writes where, resume, never stopping short, what a user's mistake looks like."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from programs import ENVIRONMENT
from run_helpers import assert_same_weights, logged, stock_sections
from tiny_run import write_rainrag
from torch.utils.data import DataLoader

from unirain_plugin import load
from unirain_plugin.runs.loaders import _own_stream
from unirain_plugin.support.interruptions import Terminated, terminable


def test_as_a_user_does(options, tmp_path):
    """In a subprocess: the folders appear in the working directory, and nothing is said about CUDA."""
    path = options(total_iter=4)
    command = [sys.executable, "-m", "unirain_plugin.train", "-opt", str(path), "--local-rank=0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    assert result.returncode == 0, result.stderr[-3000:]
    experiment = tmp_path / "experiments/tiny"
    assert {"net_g_4.pth", "net_g_latest.pth"} <= {file.name for file in (experiment / "models").iterdir()}
    assert (experiment / "training_states/4.state").is_file()
    assert sorted(logged(experiment)) == [1, 2, 3, 4]
    assert "iter:       4" in result.stderr


def test_root_flags_and_overrides_whose_weights_find_their_network(programs, options):
    changes = ("train:total_iter=3", "network_g:soft_routing=image")
    arguments = ("-opt", options(total_iter=2), "--root", "elsewhere", "--debug", "--force_yml", *changes)
    text = programs.run("train", *arguments)
    experiment = programs.folder / "elsewhere/experiments/debug_tiny"
    assert sorted(logged(experiment)) == [1, 2, 3], text
    copied = (experiment / "tiny.yml").read_text()
    assert "# CMD:" in copied and yaml.safe_load(copied)["train"]["total_iter"] == 3
    network = load(experiment / "models/net_g_latest.pth", device="cpu")
    assert network.options.soft_routing == "image"


def test_resumes_from_any_directory_with_its_tensorboard_and_says_what_has_changed(programs, options, tmp_path):
    board = find_spec("tensorboard") is not None
    path, root = options(total_iter=4, logger={"use_tb_logger": board}), tmp_path / "root"
    programs.run("train", "-opt", path, "--root", root)
    (tmp_path / "other").mkdir()
    resume = ("--root", root, "--auto_resume")
    programs.run("train", "-opt", path, *resume, "--force_yml", "train:total_iter=6", cwd=tmp_path / "other")
    assert list(tmp_path.glob("root/experiments/*")) == [root / "experiments/tiny"]  # nothing archived, nothing new
    assert sorted(logged(root / "experiments/tiny")) == [1, 2, 3, 4, 5, 6]
    if board:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(root / "tb_logger/tiny")).Reload()
        assert [event.step for event in events.Scalars("losses/l_pix")] == [1, 2, 3, 4, 5, 6]
    fewer = {"total_iter": 7, "datasets": {"train": {"rain_types": ["drs", "nrd"]}}}
    for changes, told in (
        (fewer, "The training set has 4 images but had 8 before"),
        ({"total_iter": 8, "manual_seed": 8}, "manual_seed is 8 but was 7 before"),
    ):
        assert told in programs.run("train", "-opt", options(**changes), *resume)


def assert_same_runs(first, second):
    """Two experiments have the same losses and weights, bit for bit."""
    assert logged(first) == logged(second)
    assert_same_weights(first / "models/net_g_latest.pth", second / "models/net_g_latest.pth")


def test_truncated_newest_state_falls_back_with_a_warning(programs, options, tmp_path):
    path = options(total_iter=8)
    programs.run("train", "-opt", path, "--root", tmp_path)
    state = tmp_path / "experiments/tiny/training_states/8.state"
    state.write_bytes(state.read_bytes()[:1000])
    shutil.copytree(tmp_path / "experiments/tiny/models", tmp_path / "before")
    text = programs.run("train", "-opt", path, "--root", tmp_path, "--auto_resume")
    assert re.search(r"WARNING: .*8\.state: the training state is truncated.*Falling back to .*4\.state", text)
    assert "Resuming training from epoch: 1, iter: 4" in text or "iter: 4." in text
    assert_same_weights(*(tmp_path / name / "net_g_latest.pth" for name in ("before", "experiments/tiny/models")))


def test_resume_state_of_another_run_and_only_broken_checkpoints(programs, options, tmp_path):
    """``path: resume_state`` takes the networks that lie beside the state, wherever that is."""
    path, first = options(total_iter=4), tmp_path / "first"
    text = programs.run("train", "-opt", path, "--root", first)
    assert text.count("Validation tiny_val") == 1
    state = first / "experiments/tiny/training_states/4.state"
    second = options(name="second", total_iter=5, path={"resume_state": str(state), "strict_load_g": False})
    bare = ("--force_yml", "path:param_key_g=~")  # as for weights without parts: the run's own have some
    text = programs.run("train", "-opt", second, "--root", tmp_path / "second", *bare)
    assert sorted(logged(tmp_path / "second/experiments/second")) == [5]
    assert f"{first}/experiments/tiny/models/net_g_4.pth, with param key: [params]" in text
    third = options(
        name="third", total_iter=5, path={"resume_state": str(state), "ignore_resume_networks": ["network_g"]}
    )
    text = programs.run("train", "-opt", third, "--root", tmp_path / "third")
    assert "Resuming training from epoch" in text and "net_g_4.pth" not in text
    assert text.count("Validation tiny_val") == 2, "what was due at the start, and the last iteration"
    (first / "experiments/tiny/models/net_g_4.pth").unlink()
    text = programs.run("train", "-opt", path, "--root", first, "--auto_resume", status=2)
    assert "error: None of the saved checkpoints can be resumed" in text
    assert "net_g_4.pth: the network that belongs to" in text and "Traceback" not in text


def test_rerun_archives_the_old_run_and_says_so_with_an_option_file_inside_it_too(programs, options, tmp_path):
    """The first begins anew, for want of a checkpoint, and in plain lines, for want of a terminal."""
    arguments = ("train", "-opt", options(total_iter=1), "--root", tmp_path)
    text = programs.run(*arguments, "--auto_resume")
    assert sorted(logged(tmp_path / "experiments/tiny")) == [1]
    assert "images/s" not in text and "\r" not in text and "iter:       1" in text
    for _ in range(2):  # also several times within a second
        text = programs.run(*arguments)
    assert re.search(r"WARNING: .*experiments/tiny was there already: the old folder is now .*tiny_archived_", text)
    assert len(list((tmp_path / "experiments").iterdir())) == 3
    inside = tmp_path / "experiments/tiny/tiny.yml"
    for more in (["--auto_resume"], []):
        programs.run("train", "-opt", inside, "--root", tmp_path, *more)
    assert inside.is_file() and len(list((tmp_path / "experiments").iterdir())) == 5


@pytest.mark.parametrize("batch", [3, 20])
def test_never_stops_short_and_keeps_the_last_checkpoints(programs, options, tmp_path, batch):
    """8 images: batches that do not divide them, and one that is larger than the data set."""
    keep = {"save_checkpoint_freq": 1, "keep_checkpoints": 2}
    path = options(total_iter=7, datasets={"train": {"batch_size_per_gpu": batch}}, logger=keep)
    text = programs.run("train", "-opt", path, "--root", tmp_path)
    experiment = tmp_path / "experiments/tiny"
    assert sorted(logged(experiment)) == list(range(1, 8))
    assert ("each batch holds some images more than once" in text) == (batch == 20)
    assert {file.name for file in (experiment / "training_states").iterdir()} == {"6.state", "7.state"}


def test_reweighting_by_validation_losses_resumes_exactly_with_the_seed_that_was_drawn(programs, options, tmp_path):
    """The toolbox saves before it validates: the resumed run validates the saved iteration first."""
    loss = {"pixel_opt": {"source": "val", "warmup": 0, "window": 3}}
    often = {"val": {"val_freq": 2}, "logger": {"save_checkpoint_freq": 2}}
    path = options(total_iter=8, manual_seed=None, train=loss, **often)
    programs.run("train", "-opt", path, "--root", tmp_path)
    experiment = tmp_path / "experiments/tiny"
    shutil.copytree(experiment, tmp_path / "whole")
    for iteration in (6, 8):
        (experiment / f"training_states/{iteration}.state").unlink()
    programs.run("train", "-opt", path, "--root", tmp_path, "--auto_resume")
    assert_same_runs(experiment, tmp_path / "whole")
    assert len({line.split("w_drs")[1] for line in logged(experiment).values()}) > 2


def test_losses_do_not_depend_on_how_data_are_loaded(programs, options, tmp_path):
    programs.run("train", "-opt", options(total_iter=5), "--root", tmp_path / "plain")
    for prefetch, workers in (("cpu", 0), ("cpu", 2), (None, 2)):
        root = tmp_path / f"{prefetch}{workers}"
        train = {"num_worker_per_gpu": workers, "prefetch_mode": prefetch}
        programs.run("train", "-opt", options(total_iter=5, datasets={"train": train}), "--root", root)
        assert logged(tmp_path / "plain/experiments/tiny") == logged(root / "experiments/tiny"), (prefetch, workers)


@pytest.mark.parametrize(
    "train",
    [
        {"amp": "fp16", "pixel_opt": {"mode": "rlw"}},
        {"accumulate": 2, "pixel_opt": {"mode": "uncertainty"}, "grad_clip": 0.1, "optim_g": {"type": "Muon"}},
        {"amp": "bf16", "pixel_opt": {"mode": "famo"}, "warmup_iter": 5},
        {"channels_last": True, "pixel_opt": {"mode": "dwa", "update_freq": 3}, "ema_decay": 0.9},
    ],
    ids=lambda train: train["pixel_opt"]["mode"],
)
def test_every_kind_of_history_is_taken_up_again(programs, options, tmp_path, train):
    """Gradient scaler, learned loss parameters, random weights, an interval of records that is not full yet."""
    train = {**train, "pixel_opt": {"warmup": 0, **train["pixel_opt"]}}
    path = options(total_iter=8, train=train, logger={"save_checkpoint_freq": 5})
    programs.run("train", "-opt", path, "--root", tmp_path)
    experiment = tmp_path / "experiments/tiny"
    shutil.copytree(experiment, tmp_path / "whole")
    assert len({line.split("w_drs")[-1] for line in logged(experiment).values()}) > 1, "the weights of the loss change"
    programs.run("train", "-opt", path, "--root", tmp_path, "--auto_resume")
    assert_same_runs(experiment, tmp_path / "whole")
    assert len(list(experiment.glob("*.log"))) == 2


def test_a_stock_model_with_a_network_that_draws_resumes_exactly(programs, options, tmp_path, rain):
    """SwinIR's stochastic depth draws from torch's stream in every iteration; the stock data set from Python's."""
    sections = stock_sections(rain)
    sections["network_g"] = {
        **dict.fromkeys(sections["network_g"]), "type": "SwinIR", "upscale": 1, "img_size": 16, "window_size": 8,
        "depths": [2], "embed_dim": 4, "num_heads": [1], "mlp_ratio": 1, "drop_path_rate": 0.5, "upsampler": "",
    }  # fmt: skip
    sections["model_type"] = "SwinIRModel"  # it pads for validation
    sections["train"]["ema_decay"] = 0.5
    second = {**sections["datasets"]["val"], "name": "again"}
    sections["datasets"]["val_2"] = {key: value for key, value in second.items() if value is not None}
    path = options(name="stock", total_iter=6, **sections, logger={"save_checkpoint_freq": 3, "keep_checkpoints": 1})
    whole = programs.run("train", "-opt", path, "--root", tmp_path / "a")
    programs.run("train", "-opt", path, "--root", tmp_path / "b", "--force_yml", "train:total_iter=3")
    text = programs.run("train", "-opt", path, "--root", tmp_path / "b", "--auto_resume")
    assert_same_weights(*(tmp_path / root / "experiments/stock/models/net_g_6.pth" for root in "ab"))
    assert "in force from here: train.total_iter 6 (was 3)" in text and "bit-identical" not in text
    assert "Multiple validation datasets" not in whole + text, "SRModel takes several"
    assert [file.name for file in tmp_path.glob("b/experiments/stock/training_states/*")] == ["6.state"]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_loss_without_labels_says_so_once_and_several_sets_are_no_matter(programs, options, tmp_path, rain, labelled):
    stock = stock_sections(rain)["datasets"]["train"]
    second = {"name": "second", "type": "DistilledMixedPairedDataset", "dataroot": str(rain)}
    datasets = {"val_2": second} if labelled else {"train": stock, "val_2": second}
    path = options(total_iter=4, datasets=datasets)
    text = programs.run("train", "-opt", path, "--root", tmp_path)
    assert text.count("no rain types") == (0 if labelled else 1), "the option check leaves it to the loss"
    assert text.count("Validation second") == 1 and "Multiple validation datasets" not in text


def test_the_stock_runner_refuses_exchanged_labels_too(programs, options, tmp_path):
    data = write_rainrag(tmp_path / "data", per_type=1, size=(24, 28), types=["drs", "fog", "snow"])
    pairs = [{"lq": f"{t}/input/000.png", "gt": f"{t}/target/000.png", "rain_type": t} for t in ("snow", "drs", "fog")]
    (data / "all.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    train = {"pixel_opt": {"rain_types": ["drs", "snow", "fog"]}}
    for where in ({"dataroot": str(data)}, {"dataroot": None, "manifest": str(data / "all.jsonl")}):
        path = options(total_iter=2, datasets={"train": where}, train=train, val=None)
        text = programs.run("stock", tmp_path, "-opt", path, status=71)
        assert "OptionError" in text and "fog, snow: another label than in datasets.train" in text
        assert "another label than" in programs.run("train", "-opt", path, "--root", tmp_path / "ours", status=2)


def test_a_broken_image_ends_training(programs, options, tmp_path, rain):
    """One message names the file, also from a worker, whose traceback torch puts into the message.

    The toolbox's prefetching thread would die of it and let training wait for ever.
    """
    shutil.copytree(rain, tmp_path / "broken")
    for file in tmp_path.glob("broken/drs/input/*.png"):
        file.write_bytes(file.read_bytes()[:100])
    sections = stock_sections(tmp_path / "broken")
    sections["datasets"]["train"]["prefetch_mode"] = "cpu"
    pid, log = programs.start(
        "train", "-opt", options(name="stock", total_iter=3, **sections), "--root", tmp_path / "stock"
    )
    assert programs.wait(pid, seconds=60) not in (0, None), log.read_text()[-2000:]
    for workers in (0, 2):
        train = {"dataroot": str(tmp_path / "broken"), "num_worker_per_gpu": workers}
        path = options(total_iter=8, datasets={"train": train})
        text = programs.run("train", "-opt", path, "--root", tmp_path, status=2)
        message = text[text.index("error: ") :]
        assert re.search(r"drs/input/\d+\.png", message) and "Traceback" not in message and "DataLoader" not in message


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_ends_a_run_with_one_line(programs, options, tmp_path, number, word):
    sections = {"datasets": {"train": {"num_worker_per_gpu": 1}}, "logger": {"save_checkpoint_freq": 2}, "val": None}
    path = options(total_iter=100000, train={"scheduler": {"periods": [100000]}}, **sections)
    pid, log = programs.start("train", "-opt", path, "--root", tmp_path)
    while "iter:       4" not in log.read_text():
        assert programs.wait(pid, seconds=0.2) is None, log.read_text()[-2000:]
    os.kill(pid, number)
    assert programs.wait(pid, seconds=30) == 128 + number
    folder = tmp_path / "experiments/tiny"
    text, newest = log.read_text(), max(int(path.stem) for path in (folder / "training_states").iterdir())
    assert text.endswith(f"\n{word}; `--auto_resume` goes on from the checkpoint of iteration {newest} in {folder}\n")
    assert "Traceback" not in text


def test_no_signal_comes_in_the_middle_of_the_start_of_a_worker(monkeypatch):
    """Python loses what is raised in the middle of a fork, and the run would go on."""
    found = []

    def start(worker):
        signal.raise_signal(signal.SIGTERM)
        found.append("started")

    monkeypatch.setattr("multiprocessing.Process.start", start)
    loader = _own_stream(DataLoader([1, 2], num_workers=1), 0)
    with pytest.raises(Terminated), terminable():
        loader.multiprocessing_context.Process(target=print).start()
    assert found == ["started"]


def test_stock_runner_that_stops_short_says_so(programs, options, tmp_path):
    """``basicsr.train`` counts the dropped last batch of each epoch: 8 images, batches of 3."""
    path = options(total_iter=9, datasets={"train": {"batch_size_per_gpu": 3}}, val=None)
    text = programs.run("stock", tmp_path, "-opt", path, status=71)
    assert "TrainingError: Training ended after 8 of total_iter = 9 iterations" in text
    assert (tmp_path / "experiments/tiny/models/net_g_latest.pth").is_file()


@pytest.mark.parametrize(
    ("sections", "more", "told"),
    [
        ({}, ["--launcher", "pytorch"], "the environment lacks RANK.*torchrun"),
        ({"dist_params": {"back_end": "gloo"}}, ["--launcher", "slurm"], "back_end"),
        ({"num_gpu": 1}, [], "num_gpu"),
        ({}, ["--root", "FILE"], "this is a file; expected a folder"),
        ({"logger": {"keep_checkpoints": 0}}, [], "keep_checkpoints"),
        ({}, ["-opt", "nothing.yml"], "^error: -opt nothing.yml: there is no such file.*\n$"),
    ],
)
def test_mistakes_are_one_message(programs, options, tmp_path, sections, more, told):
    path = options(**sections)
    more = [path if word == "FILE" else word for word in more]
    text = programs.run("train", "-opt", path, "--root", tmp_path, *more, status=2)
    assert re.search(told, text, re.DOTALL) and "Traceback" not in text


def on_a_terminal(programs, *argv) -> str:
    """Run with stderr on a pseudo-terminal and return what appeared there."""
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    pid, _ = programs.start(*argv, env={"COLUMNS": "160"}, log=os.ttyname(child))
    parts, status = [], None
    while status is None:
        status = programs.wait(pid, seconds=0.05)
        try:
            parts.append(os.read(parent, 65536))
        except BlockingIOError:
            continue
    assert status == 0, b"".join(parts)[-2000:]
    os.close(parent)
    os.close(child)
    return b"".join(parts).decode()


def test_bar_on_a_terminal(programs, options, tmp_path):
    text = on_a_terminal(programs, "train", "-opt", options(total_iter=12), "--root", tmp_path)
    bars = [line for line in re.split(r"[\r\n]", text) if re.search(r"\d+/12 \[", line)]
    assert bars and "12/12" in bars[-1]
    assert re.search(r"loss \d+\.\d+, [\d.]+ images/s, worst \w+", bars[-1])
    assert re.search(r"\[\d+:\d+<\d+:\d+", bars[-1]), "elapsed and remaining time"
    log = next((tmp_path / "experiments/tiny").glob("*.log")).read_text()
    assert "images/s" not in log and "\x1b[" not in log
    assert sorted(logged(tmp_path / "experiments/tiny")) == list(range(1, 13))
