"""A resume under a changed option file: what takes effect, and that the log says so."""

import math
from pathlib import Path

import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

from unirain_plugin.checkpoints.states import read_state
from unirain_plugin.errors import CheckpointError
from unirain_plugin.models.checkpointing import load_training_state, save_training_state, states_of_ranks


class TwoGroups(BaseModel):
    """An optimiser with two groups, as a learned loss makes them, and a schedule; built as SRModel does."""

    def __init__(self, folder, optim=None, scheduler=None, **train):
        optim = {"lr": 0.1, "betas": [0.9, 0.99], "weight_decay": 0.01, **(optim or {})}
        scheduler = {"milestones": [2, 6], "gamma": 0.5, **(scheduler or {})}
        train = {"total_iter": 10, "optim_g": optim, "scheduler": scheduler, **train}
        paths = {name: str(folder) for name in ("models", "training_states")}
        opt = {"rank": 0, "world_size": 1, "num_gpu": 0, "is_train": True, "manual_seed": 5, "path": paths}
        super().__init__({**opt, "logger": {}, "datasets": {"train": {"gt_size": 32}}, "train": train})
        self.weight, self.learned = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        self.optimizer_g = torch.optim.AdamW([self.weight], **optim)
        self.optimizer_g.add_param_group({"params": [self.learned], "weight_decay": 0.0})
        self.optimizers.append(self.optimizer_g)
        self.schedulers.append(MultiStepRestartLR(self.optimizer_g, **scheduler))

    def train(self, first, last):
        rates = []
        for iteration in range(first, last + 1):
            self.update_learning_rate(iteration)
            (self.weight**2 + self.learned**2).backward()
            self.optimizer_g.step()
            self.optimizer_g.zero_grad()
            rates.append(self.get_current_learning_rate()[0])
        return rates

    def save(self):
        """Its training state at iteration 4."""
        save_training_state(self, 0, 4, states_of_ranks(self))
        return read_state(Path(self.opt["path"]["models"], "4.state"))


@pytest.fixture()
def resumed(tmp_path, warnings_of):
    """Train four iterations with one set of options, resume with another; the model, and the log."""

    def resume(before, after):
        model = TwoGroups(tmp_path, **before)
        model.train(1, 4)
        state, model = model.save(), TwoGroups(tmp_path, **after)
        warnings_of.clear()
        load_training_state(model, state)
        assert "What else TwoGroups may keep" in warnings_of.pop(), "no one knows what a class of somebody else's keeps"
        return model, warnings_of

    return resume


CHANGES = {"lr": 1e-3, "betas": [0.5, 0.6], "weight_decay": 0.3, "eps": 1e-5}


def settings(model):
    return [{key: list(v) if isinstance(v, tuple) else v for key, v in group.items() if key in CHANGES}
            for group in model.optimizer_g.param_groups]  # fmt: skip


@pytest.mark.parametrize("choice", [{}, {"resume_options": "checkpoint"}])
def test_settings_of_the_optimiser_stay_the_checkpoints_and_that_is_said(resumed, choice):
    model, warnings = resumed({}, {"optim": CHANGES, **choice})
    assert settings(model)[0] == {"lr": 0.05, "betas": [0.9, 0.99], "weight_decay": 0.01, "eps": 1e-8}
    assert settings(model)[1]["weight_decay"] == 0.0
    text = next(text for text in warnings if "without effect" in text)
    for part in (
        "lr 0.001 (checkpoint: 0.1)", "betas [0.5, 0.6] (checkpoint: [0.9, 0.99])", "eps 1e-05", "options: file",
        "train.optim_g.weight_decay 0.3 (checkpoint: 0.01)",
    ):  # fmt: skip
        assert part in text


def test_settings_of_the_optimiser_from_the_file(resumed):
    model, warnings = resumed({}, {"optim": CHANGES, "resume_options": "file"})
    assert settings(model)[0] == {"lr": 5e-4, "betas": [0.5, 0.6], "weight_decay": 0.3, "eps": 1e-5}
    assert settings(model)[1]["weight_decay"] == 0.0, "each group keeps settings of its own"
    assert model.optimizer_g.state[model.weight]["step"] == 4, "the averages of the gradients go on"
    assert len(warnings) == 1 and "in force from here: train.optim_g.betas [0.5, 0.6]" in warnings[0]
    assert model.train(5, 8) == pytest.approx([5e-4, 5e-4, 2.5e-4, 2.5e-4])


@pytest.mark.parametrize("choice", [{}, {"resume_options": "checkpoint"}, {"resume_options": "file"}])
def test_milestones(resumed, choice):
    model, warnings = resumed({}, {"scheduler": {"milestones": [3, 5]}, **choice})
    # milestones [2, 6] halve the rate at iterations 3 and 7; [3, 5] would at 4 and 6
    kept = choice.get("resume_options") == "checkpoint"
    assert model.train(5, 8) == pytest.approx([0.05, 0.05 if kept else 0.025, 0.025, 0.025])
    assert len(warnings) == 1 and "(milestones changed)" in warnings[0]
    assert ("the checkpoint's is kept" in warnings[0]) == kept


def test_a_schedule_from_the_file_is_that_of_a_run_that_had_it_from_the_beginning(resumed, tmp_path):
    after = {"scheduler": {"milestones": [1, 5], "gamma": 0.1}, "optim": {"lr": 0.7}}
    model, _ = resumed({}, {**after, "resume_options": "file"})
    assert model.train(5, 10) == pytest.approx(TwoGroups(tmp_path, **after).train(1, 10)[4:])


@pytest.mark.parametrize("choice", ["checkpoint", "file", None])
def test_cosine(tmp_path, choice, warnings_of):
    class Cosine(TwoGroups):
        def __init__(self, period, lr, **train):
            super().__init__(tmp_path, {"lr": lr}, resume_options=choice, **train)
            self.schedulers = [CosineAnnealingRestartLR(self.optimizer_g, periods=[period])]

    model = Cosine(10, 0.1)
    model.train(1, 4)
    state, model = model.save(), Cosine(20, 0.4)
    load_training_state(model, state)
    period, lr = {"checkpoint": (10, 0.1), "file": (20, 0.4), None: (20, 0.1)}[choice]
    assert any("(periods changed)" in text for text in warnings_of)
    last = period * 3 // 5  # beyond its end the toolbox's scheduler would fail with the checkpoint's periods
    assert model.train(5, last) == pytest.approx(
        [lr / 2 * (1 + math.cos(math.pi * i / period)) for i in range(4, last)]
    )
    load_training_state(Cosine(11, 0.1, total_iter=11), state)  # whose last step is the tenth
    longer = Cosine(30, 0.1, total_iter=30)
    if choice == "checkpoint":
        with pytest.raises(CheckpointError, match=r"its schedule ends after 10 iterations, before total_iter \(30\)"):
            load_training_state(longer, state)
    else:
        load_training_state(longer, state)


@pytest.mark.parametrize("choice", ["checkpoint", "file", None])
def test_a_schedule_of_another_type_is_told_or_refused(tmp_path, choice, warnings_of):
    class Cosine(TwoGroups):
        def __init__(self):
            super().__init__(tmp_path)
            self.schedulers = [CosineAnnealingRestartLR(self.optimizer_g, periods=[10])]

    model = Cosine()
    model.train(1, 4)
    state, model = model.save(), TwoGroups(tmp_path, resume_options=choice)
    if choice == "checkpoint":
        with pytest.raises(CheckpointError, match="its schedule is of another type than MultiStepRestartLR, which the"):
            load_training_state(model, state)
        return
    load_training_state(model, state)
    assert "schedule is not that of the checkpoint (type changed): the option file's is followed" in warnings_of[0]
    rate = state["optimizers"][0]["param_groups"][0]["lr"] if choice is None else 0.05
    assert model.train(5, 8) == pytest.approx([rate, rate, rate / 2, rate / 2])
    load_training_state(TwoGroups(tmp_path, resume_options=choice, total_iter=30), state)  # beyond the cosine's end


def test_every_other_change_is_in_force_and_said_and_nothing_where_nothing_changed(resumed):
    before = {"ema_decay": 0.9, "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0}}
    after = {"ema_decay": 0.99, "pixel_opt": {"type": "L1Loss", "loss_weight": 2.0, "reduction": "mean"}}
    _, warnings = resumed(before, after)
    assert warnings == [
        "Changed in the option file and in force from here: train.ema_decay 0.99 (was 0.9); "
        "train.pixel_opt.loss_weight 2.0 (was 1.0); train.pixel_opt.reduction mean (was (left out))."
    ]
    assert resumed({}, {})[1] == []
    assert resumed({}, {"resume_options": "file"})[1] == []
