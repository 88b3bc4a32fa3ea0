"""What a checkpoint holds, and that training goes on from it bit for bit."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

from unirain_plugin.checkpoints.states import newest_checkpoint, read_state
from unirain_plugin.errors import CheckpointError, TrainingError
from unirain_plugin.models.checkpointing import load_training_state, save_checkpoint


class ToyModel(BaseModel):
    """A network with dropout, EMA, Adam, a scheduler and a history of NumPy values."""

    def __init__(self, folder, total_iter=6, **logger):
        for name in ("models", "training_states"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        paths = {name: str(folder / name) for name in ("models", "training_states")}
        opt = {"rank": 0, "world_size": 1, "num_gpu": 0, "is_train": True, "manual_seed": 5, "path": paths}
        super().__init__({**opt, "logger": logger, "train": {"total_iter": total_iter}})
        self.net_g = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.net_g_ema = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
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

    def save(self, iteration):
        """A checkpoint; what its training state holds."""
        save_checkpoint(self, 0, iteration)
        return read_state(Path(self.opt["path"]["training_states"], f"{iteration}.state"))

    def load_weights(self, iteration):
        path = f"{self.opt['path']['models']}/net_g_{iteration}.pth"
        self.load_network(self.net_g, path)
        self.load_network(self.net_g_ema, path, param_key="params_ema")


def test_training_goes_on_bit_for_bit(tmp_path):
    model = ToyModel(tmp_path)
    model.train(1, 3)
    save_checkpoint(model, epoch=0, current_iter=3)
    expected = model.train(4, 6)
    torch.manual_seed(99), np.random.seed(99)

    resumed = ToyModel(tmp_path)
    resumed.load_weights(3)
    load_training_state(resumed, read_state(tmp_path / "training_states/3.state"))
    assert resumed.current_iter == 3
    assert resumed.train(4, 6) == expected
    assert resumed.best == model.best and resumed.window == model.window
    for net in ("net_g", "net_g_ema"):
        pairs = zip(getattr(model, net).state_dict().values(), getattr(resumed, net).state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_files_are_the_toolboxs_own(tmp_path):
    model = ToyModel(tmp_path)
    model.train(1, 2)
    save_checkpoint(model, 1, 2)
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


def test_a_run_that_is_made_longer_follows_the_longer_schedule(tmp_path, warnings_of):
    def with_periods(periods):
        model = ToyModel(tmp_path, total_iter=periods[0])
        model.schedulers = [CosineAnnealingRestartLR(model.optimizers[0], periods=periods)]
        return model

    model = with_periods([4])
    model.train(1, 4)
    save_checkpoint(model, 0, 4)
    longer = with_periods([8])
    load_training_state(longer, read_state(tmp_path / "training_states/4.state"))
    assert "(periods changed)" in warnings_of[0]
    longer.train(5, 8)  # with the old periods the toolbox's scheduler fails here
    assert longer.get_current_learning_rate()[0] == pytest.approx(0.05 * (1 + np.cos(np.pi * 7 / 8)))


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


def test_stopping_short_is_an_error_that_names_the_figures(tmp_path):
    model = ToyModel(tmp_path, total_iter=30)
    model.train(1, 4)
    with pytest.raises(TrainingError, match="after 4 of total_iter = 30"):
        save_checkpoint(model, epoch=-1, current_iter=-1)
    assert (tmp_path / "models/net_g_latest.pth").is_file()  # what was trained is not lost
    model.current_iter = 30
    save_checkpoint(model, epoch=-1, current_iter=-1)


def test_networks_are_written_before_the_state(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("unirain_plugin.models.checkpointing.atomic_save", lambda content, path: written.append(path))
    save_checkpoint(ToyModel(tmp_path), 0, 7)
    assert [path.name for path in written] == ["net_g_7.pth", "7.state"]
