"""Files that are whole or not there, and what happens with those that are neither."""

import os

import numpy as np
import pytest
import torch

from unirain_plugin.checkpoints import states as checkpoint_files
from unirain_plugin.checkpoints.states import (
    atomic_save,
    broken_reason,
    newest_checkpoint,
    prune_checkpoints,
    read_state,
)
from unirain_plugin.errors import CheckpointError


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


def test_atomic_save_replaces_and_leaves_nothing_else(tmp_path):
    atomic_save({"a": 1}, tmp_path / "x.pth")
    atomic_save({"a": 2}, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth") == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_failed_save_keeps_the_old_file_and_names_it(tmp_path, monkeypatch):
    atomic_save({"a": 1}, tmp_path / "x.pth")
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


def test_broken_files_are_told_from_whole_ones(tmp_path):
    state, network = checkpoint(tmp_path, 1)
    assert broken_reason(state) is None and broken_reason(network) is None
    assert broken_reason(tmp_path / "nothing.pth") == "is missing"
    content = bytearray(network.read_bytes())
    position = content.find(torch.load(network)["params"]["w"].numpy().tobytes())
    content[position + 7] ^= 1
    network.write_bytes(content)
    assert "damaged" in broken_reason(network)
    truncate(state)
    assert "truncated" in broken_reason(state)
    state.write_bytes(b"")
    assert broken_reason(state) == "is empty"


@pytest.mark.parametrize(
    ("victim", "share", "text"),
    [(0, 0.5, "truncated"), (1, 0.9, "truncated"), (1, 0, "empty"), (1, None, "is missing")],
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


def test_no_checkpoint_is_no_error_but_only_broken_ones_are(tmp_path):
    assert newest(tmp_path) == (None, [])
    truncate(checkpoint(tmp_path, 5)[0])
    with pytest.raises(CheckpointError, match=r"None of the saved(.|\n)*5\.state(.|\n)*without --auto_resume"):
        newest(tmp_path)


def test_foreign_files_are_not_taken_for_states(tmp_path):
    (tmp_path / "states").mkdir()
    (tmp_path / "states/latest.state").touch()
    (tmp_path / "states/.7.state.tmp-1").touch()
    assert newest(tmp_path) == (None, [])
    torch.save({"weights": 1}, tmp_path / "8.state")
    with pytest.raises(CheckpointError, match="no training state; it lacks epoch, iter, optimizers, schedulers"):
        read_state(tmp_path / "8.state")


def test_a_pickled_state_is_refused_in_one_line_without_torchs_advice_and_executes_nothing(tmp_path):
    torch.save({"epoch": 0, "iter": 4, "optimizers": [np.float64(1), object()], "schedulers": []}, tmp_path / "4.state")
    with pytest.raises(CheckpointError) as caught:
        read_state(tmp_path / "4.state")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / '4.state'}: the training state cannot be read: ") and "might be code" in text
    assert "\n" not in text and "weights_only" not in text and "trust" not in text
    torch.save([1, 2], tmp_path / "5.state")
    with pytest.raises(CheckpointError, match="no training state; expected a mapping, found list"):
        read_state(tmp_path / "5.state")

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"epoch": Payload(), "iter": 1, "optimizers": [], "schedulers": []}, tmp_path / "1.state")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path / "1.state")
    assert not (tmp_path / "owned").exists()


def test_pruning_spares_later_iterations_and_removes_orphans(tmp_path):
    for iteration in (1, 2, 3, 50):
        checkpoint(tmp_path, iteration)
    (tmp_path / "states/1.state").unlink()  # a kill between a state and its network
    prune_checkpoints(tmp_path / "states", tmp_path / "models", keep=1, newest=3)
    assert {path.name for path in (tmp_path / "states").iterdir()} == {"3.state", "50.state"}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"net_g_3.pth", "net_g_50.pth"}
