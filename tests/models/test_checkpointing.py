"""What a checkpoint holds, that training goes on from it bit for bit, and files that are whole or not there."""

import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import MultiStepRestartLR

from unirain_plugin.checkpoints import states as checkpoint_files
from unirain_plugin.checkpoints.states import (
    atomic_save,
    newest_checkpoint,
    prune_checkpoints,
    read_state,
)
from unirain_plugin.errors import CheckpointError, TrainingError
from unirain_plugin.models.checkpointing import load_training_state, save_checkpoint


class ToyModel(BaseModel):
    """A network with dropout, EMA, Adam, a scheduler and a history of NumPy values."""

    def __init__(self, folder, total_iter=6, **logger):
        paths = {name: str(folder / name) for name in ("models", "training_states")}
        for path in map(Path, paths.values()):
            path.mkdir(parents=True, exist_ok=True)
        opt = {"rank": 0, "world_size": 1, "num_gpu": 0, "is_train": True, "manual_seed": 5, "path": paths}
        super().__init__({**opt, "logger": logger, "train": {"total_iter": total_iter}})
        self.net_g, self.net_g_ema = (
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)) for _ in range(2)
        )
        self.optimizers = [torch.optim.Adam(self.net_g.parameters(), lr=0.1)]
        self.schedulers = [MultiStepRestartLR(self.optimizers[0], milestones=[2, 4])]
        self.best, self.window = np.float64(-1), deque(maxlen=3)

    def history_state(self):
        return {"best": self.best, "window": self.window, "array": np.arange(3)}

    def load_history_state(self, state):
        self.best, self.window = state["best"], deque(state["window"], maxlen=3)

    def train(self, first, last):
        """Iterations first … last; returns their losses."""
        losses = []
        for self.current_iter in range(first, last + 1):
            self.update_learning_rate(self.current_iter)
            self.optimizers[0].zero_grad()
            loss = (self.net_g(torch.rand(3, 4)) ** 2).mean() * float(np.random.rand())
            loss.backward()
            self.optimizers[0].step()
            self.model_ema(0.5)
            losses.append(loss.item())
            self.window.append(losses[-1])
            self.best = np.float64(max(self.best, losses[-1]))
        return losses

    def save(self, iteration, epoch=0):
        """A checkpoint; what its training state holds."""
        save_checkpoint(self, epoch, iteration)
        return read_state(Path(self.opt["path"]["training_states"], f"{iteration}.state"))


def test_training_goes_on_bit_for_bit(tmp_path):
    model, resumed = ToyModel(tmp_path), ToyModel(tmp_path)
    model.train(1, 3)
    state = model.save(3)
    expected = model.train(4, 6)
    torch.manual_seed(99), np.random.seed(99)
    resumed.load_network(resumed.net_g, tmp_path / "models/net_g_3.pth")
    resumed.load_network(resumed.net_g_ema, tmp_path / "models/net_g_3.pth", param_key="params_ema")
    load_training_state(resumed, state)
    assert resumed.current_iter == 3
    assert resumed.train(4, 6) == expected
    assert resumed.best == model.best and resumed.window == model.window
    for net in ("net_g", "net_g_ema"):
        one, two = (getattr(each, net).state_dict() for each in (model, resumed))
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_files_are_the_toolboxs_own(tmp_path):
    model = ToyModel(tmp_path)
    model.train(1, 2)
    model.save(2, epoch=1)
    state = torch.load(tmp_path / "training_states/2.state", weights_only=True)
    assert (state["epoch"], state["iter"]) == (1, 2)
    BaseModel.resume_training(ToyModel(tmp_path), state)
    assert set(torch.load(tmp_path / "models/net_g_2.pth", weights_only=True)) == {"params", "params_ema"}


def test_states_of_others_are_accepted_with_a_warning(tmp_path, warnings_of):
    class Stateless(ToyModel):
        history_state = load_history_state = property(lambda self: self.missing)  # hasattr finds neither

    model, other = ToyModel(tmp_path), ToyModel(tmp_path)
    model.data_position = lambda iteration: {"next_draw": 10 * iteration + 3}
    state = model.save(2)
    assert state["unirain"]["data"] == {"next_draw": 23}
    other.opt["world_size"] = 2
    load_training_state(other, state)
    assert "1 processes and is resumed by 2" in warnings_of.pop(0)
    for first, second in ((ToyModel, Stateless), (Stateless, ToyModel)):
        load_training_state(second(tmp_path), first(tmp_path).save(1))
        assert f"another model_type than {second.__name__}" in warnings_of.pop()
    model.train(1, 2)
    model.save_training_state(0, 2)
    load_training_state(ToyModel(tmp_path), read_state(tmp_path / "training_states/2.state"))
    assert "stock toolbox" in warnings_of[-1]


def test_state_for_other_optimisers_is_an_error(tmp_path):
    state = ToyModel(tmp_path).save(1)
    for optimizers, message in (
        (lambda net: [], "iteration 1 does not fit.*1 optimizers, the option file asks for 0"),
        (lambda net: [torch.optim.Adam(list(net.parameters())[:1])], "does not fit"),
        (lambda net: [torch.optim.SGD(net.parameters(), lr=0.1)], "saved with Adam, the option file asks for SGD"),
    ):
        other = ToyModel(tmp_path)
        other.optimizers = optimizers(other.net_g)
        with pytest.raises(CheckpointError, match=message):
            load_training_state(other, state)
    state["unirain"]["version"] = 99
    with pytest.raises(CheckpointError, match="newer version"):
        load_training_state(ToyModel(tmp_path), state)


@pytest.mark.parametrize(("keep", "left"), [(2, ("3", "10")), (None, ("1", "2", "3", "10"))])
def test_last_n_are_kept(tmp_path, keep, left):
    model = ToyModel(tmp_path, **({"keep_checkpoints": keep} if keep else {}))
    (tmp_path / "models/net_g_best_psnr.pth").touch()
    for iteration in (1, 2, 3, 10):
        model.train(iteration, iteration)
        save_checkpoint(model, 0, iteration)
    model.current_iter = 10
    save_checkpoint(model, -1, -1)
    assert {path.name for path in (tmp_path / "training_states").iterdir()} == {f"{name}.state" for name in left}
    kept = {f"net_g_{name}.pth" for name in (*left, "latest", "best_psnr")}
    assert {path.name for path in (tmp_path / "models").iterdir()} == kept
    path, problems = newest_checkpoint(tmp_path / "training_states", tmp_path / "models", ["g"])
    assert (path.name, problems) == ("10.state", [])


def test_stopping_short_is_an_error_and_networks_are_written_before_the_state(tmp_path, monkeypatch):
    model = ToyModel(tmp_path, total_iter=30)
    model.train(1, 4)
    with pytest.raises(TrainingError, match="after 4 of total_iter = 30"):
        save_checkpoint(model, epoch=-1, current_iter=-1)
    assert (tmp_path / "models/net_g_latest.pth").is_file()  # what was trained is not lost
    model.current_iter = 30
    save_checkpoint(model, epoch=-1, current_iter=-1)
    written = []
    monkeypatch.setattr("unirain_plugin.models.checkpointing.atomic_save", lambda content, path: written.append(path))
    save_checkpoint(model, 0, 7)
    assert [path.name for path in written] == ["net_g_7.pth", "7.state"]


def checkpoint(folder, iteration):
    """A minimal checkpoint; returns the paths of its state and its network."""
    (folder / "states").mkdir(exist_ok=True, parents=True)
    (folder / "models").mkdir(exist_ok=True)
    state, network = folder / f"states/{iteration}.state", folder / f"models/net_g_{iteration}.pth"
    torch.save({"params": {"w": torch.rand(100)}}, network)
    torch.save({"epoch": 0, "iter": iteration, "optimizers": [torch.rand(100)], "schedulers": []}, state)
    return state, network


def newest(folder):
    return newest_checkpoint(folder / "states", folder / "models", ["g"])


def truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_a_save_replaces_and_a_failed_one_keeps_the_old_file_and_names_it(tmp_path, monkeypatch):
    for value in (0, 1):
        atomic_save({"a": value}, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth") == {"a": 1}
    attempts = []

    def full_disk(content, file):
        attempts.append(content)
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files.torch, "save", full_disk)
    monkeypatch.setattr(checkpoint_files.time, "sleep", lambda seconds: None)
    with pytest.raises(CheckpointError, match=r"x\.pth: cannot be written after 3 attempts.*No space left"):
        atomic_save({"a": 2}, tmp_path / "x.pth")
    monkeypatch.undo()
    assert len(attempts) == 3
    assert torch.load(tmp_path / "x.pth") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize(
    ("victim", "share", "text"),
    [(0, 0.5, "truncated"), (0, 0, "empty"), (1, 0.9, "truncated"), (1, 0, "empty"), (1, None, "is missing")],
)
def test_broken_newest_falls_back_to_the_one_before(tmp_path, victim, share, text):
    checkpoint(tmp_path, 5)
    broken = checkpoint(tmp_path, 10)[victim]
    path, problems = newest(tmp_path)
    assert path.name == "10.state" and not problems
    broken.unlink() if share is None else truncate(broken, share)
    path, problems = newest(tmp_path)
    assert path.name == "5.state"
    assert len(problems) == 1 and str(broken) in problems[0] and text in problems[0]


def test_no_checkpoint_is_no_error_but_only_broken_ones_are_and_foreign_files_are_no_states(tmp_path):
    assert newest(tmp_path) == (None, [])
    (tmp_path / "states").mkdir()
    for name in ("latest.state", ".7.state.tmp-1"):
        (tmp_path / "states" / name).touch()
    assert newest(tmp_path) == (None, [])
    truncate(checkpoint(tmp_path, 5)[0])
    with pytest.raises(CheckpointError, match=r"None of the saved(.|\n)*5\.state(.|\n)*without --auto_resume"):
        newest(tmp_path)


def test_a_pickled_state_is_refused_in_one_line_without_torchs_advice_and_executes_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path, rest = tmp_path / "4.state", {"iter": 4, "schedulers": []}
    for epoch, optimizers in ((0, [np.float64(1), object()]), (Payload(), [])):
        torch.save({"epoch": epoch, "optimizers": optimizers, **rest}, path)
        with pytest.raises(CheckpointError) as caught:
            read_state(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: the training state cannot be read: ") and "might be code" in text
        assert "\n" not in text and "weights_only" not in text and "trust" not in text
    assert not (tmp_path / "owned").exists()
    for content, told in (
        ([1, 2], "expected a mapping, found list"),
        ({"weights": 1}, "it lacks epoch, iter, optimizers, schedulers"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=f"no training state; {told}"):
            read_state(path)


def test_pruning_spares_later_iterations_and_removes_orphans(tmp_path):
    for iteration in (1, 2, 3, 50):
        checkpoint(tmp_path, iteration)
    (tmp_path / "states/1.state").unlink()  # a kill between a state and its network
    prune_checkpoints(tmp_path / "states", tmp_path / "models", keep=1, newest=3)
    assert {path.name for path in (tmp_path / "states").iterdir()} == {"3.state", "50.state"}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"net_g_3.pth", "net_g_50.pth"}
