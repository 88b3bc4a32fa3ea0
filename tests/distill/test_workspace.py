"""Shards appear whole or not at all; full disks, locks and damage are named."""

import errno
import json
import os

import numpy as np
import pytest

from unirain_plugin.distill.records import DistillError
from unirain_plugin.distill.workspace import (
    Workspace,
    concatenate_rows,
    load_lines,
    load_rows,
    save_lines,
    save_rows,
    write_text,
)
from unirain_plugin.errors import DataError
from unirain_plugin.support.files import canonical_hash


def test_shard_appears_with_its_contents_only(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.writing("stage", 3) as folder:
        save_rows(folder, "x", np.arange(6).reshape(3, 2))
        save_lines(folder, "rows", [{"a": 1.1}, {"b": "ü"}])
        assert not workspace.is_done("stage", 3)
    assert workspace.is_done("stage", 3) and workspace.missing("stage", 5) == [0, 1, 2, 4]
    rows = load_rows(workspace.shard("stage", 3), "x")
    assert isinstance(rows, np.memmap) and rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert load_lines(workspace.shard("stage", 3), "rows") == [{"a": 1.1}, {"b": "ü"}]
    assert canonical_hash({"a": 1, "b": [2]}) == canonical_hash(json.loads('{"b": [2], "a": 1}'))
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 1.5}), "the hash is of the content"


def test_failed_shard_leaves_nothing_and_a_second_maker_of_one_is_dropped(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError, match="half way"), workspace.writing("stage", 0) as folder:
        save_rows(folder, "x", np.zeros(3))
        raise RuntimeError("half way")
    assert list((tmp_path / "stage").iterdir()) == []
    with workspace.writing("stage", 0) as outer:
        save_rows(outer, "x", np.zeros(1))
        with workspace.writing("stage", 0) as inner:
            save_rows(inner, "x", np.ones(1))
    assert load_rows(workspace.shard("stage", 0), "x").tolist() == [1.0]
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["000000"]


def test_full_disk_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    message = r"stage.000000: no space is left on the disk; .*finished shards are kept"
    with pytest.raises(DistillError, match=message), Workspace(tmp_path).writing("stage", 0) as folder:
        save_rows(folder, "x", np.zeros(3))
    assert list((tmp_path / "stage").iterdir()) == []
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DistillError, match=r"a\.txt: no space"):
        write_text(tmp_path / "a.txt", "text")
    assert not list(tmp_path.glob("*a.txt*")) and not list(tmp_path.glob(".*tmp"))


def test_two_runs_keep_out_of_each_others_way(tmp_path):
    message = "another run is working in this folder"
    for _ in range(2):
        with Workspace(tmp_path).locked(), pytest.raises(DataError, match=message), Workspace(tmp_path).locked():
            pass


def test_damaged_shards_are_named(tmp_path):
    for name, content, use, told in (
        ("x.npy", "\x93NUMPY nonsense", lambda: load_rows(tmp_path, "x"), "the shard is damaged .*delete the folder"),
        ("rows.jsonl", '{"a": 1}\n{"a"', lambda: load_lines(tmp_path, "rows"), "the shard is damaged"),
        ("state.json", "{", lambda: Workspace(tmp_path).adopt({}, restart=False), "not valid JSON"),
    ):
        (tmp_path / name).write_text(content, encoding="latin-1")
        with pytest.raises(DistillError, match=f"{name}: {told}"):
            use()


def test_shards_without_a_known_state_are_made_anew(tmp_path):
    workspace = Workspace(tmp_path)
    for restart in (False, True):
        with workspace.writing("a", 0) as folder:
            save_lines(folder, "rows", [])
        (tmp_path / "state.json").unlink(missing_ok=True)
        assert workspace.adopt({"a": {}, "b": {}}, restart) == ["a"] and workspace.missing("a", 1) == [0]


def test_joined_rows_must_be_complete_and_a_full_device_is_no_crash(tmp_path):
    blocks = [np.full((2, 3), i, np.float32) for i in range(3)]
    concatenate_rows(blocks, 6, tmp_path, "x")
    assert load_rows(tmp_path, "x")[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DistillError, match="expected 7 rows of 'x', found 6"):
        concatenate_rows(blocks, 7, tmp_path, "x")
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "y.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        concatenate_rows([np.zeros((1000, 100))], 1000, tmp_path, "y")
