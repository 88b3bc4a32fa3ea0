"""What the app does without its page, and what its command refuses."""

import os
import shutil
import socket
import sys
import tempfile
import time

import cv2
import numpy as np
import pytest
from app_images import random_image, random_network, write_network, write_random
from PIL import Image

from unirain_plugin import __main__ as cli
from unirain_plugin.app import command
from unirain_plugin.app.restoration import Restorer, preview
from unirain_plugin.errors import CheckpointError, DataError, OptionError
from unirain_plugin.inference.restoring import RestoreOptions, restore


def test_preview_by_hand():
    deep = np.full((4, 6, 1), 0x8000, np.uint16)
    assert np.array_equal(preview(deep), np.full((4, 6, 3), 128, np.uint8))
    half = np.zeros((2, 2, 4), np.uint8)
    half[..., 3] = (0, 255)  # the left column is transparent, the right one black
    assert preview(half)[..., 0].tolist() == [[128, 0], [128, 0]]
    assert preview(np.zeros((10, 3000, 2), np.uint8), 1500).shape == (5, 1500, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_size_is_checked_before_decoding(tmp_path, suffix):
    path = tmp_path / f"large.{suffix}"
    cv2.imwrite(str(path), random_image(30, 40, dtype=np.uint16))
    assert Restorer([], None, 1200, tmp_path).open(path).pixels.shape == (30, 40, 3)
    told = rf"^large\.{suffix}: 40 × 30 pixels are too many: at most 0\.001199 megapixels"
    with pytest.raises(DataError, match=told):
        Restorer([], None, 1199, tmp_path).open(path)
    if suffix == "png":
        data = path.read_bytes()
        path.write_bytes(data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:])  # 3.6 gigapixels, says the header
        with pytest.raises(DataError, match=r"^large\.png: 60000 × 60000 pixels"):
            Restorer([], None, 1200, tmp_path).open(path)


@pytest.fixture()
def restorer(tmp_path):
    (tmp_path / "results").mkdir()
    weights = write_network(tmp_path / "w.pth", random_network())
    return Restorer([weights], None, 10**6, tmp_path / "results")


def restored(restorer, path, height=20, width=24, note=lambda text: None, **options):
    write_random(path, height, width)
    return restorer.restore(path, str(restorer.weights[0]), RestoreOptions(**options), "cpu", note)


def test_results_of_long_names_are_written_old_ones_removed_and_a_lost_folder_is_told(restorer, tmp_path):
    done = restored(restorer, tmp_path / f"{'ä' * 120}.png")
    assert done.file.is_file() and done.file.name.startswith("ä" * 99) and done.file.name.endswith("_restored.png")
    old, recent = tmp_path / "results" / "old", tmp_path / "results" / "recent"
    for folder in (old, recent):
        folder.mkdir()
    os.utime(old, (time.time() - 4000,) * 2)
    path, notes = tmp_path / "a.png", []
    done = restored(restorer, path, note=notes.append)
    assert not old.exists() and recent.exists() and done.file.name == "a_restored.png"
    assert np.array_equal(done.after, restore(random_network(), np.asarray(Image.open(path))))
    assert notes == ["reading the image", "loading the weights", "restoring 24 × 20 pixels", "writing the result"]
    remove_old, folder = restorer._remove_old, tmp_path / "results"
    restorer._remove_old = lambda: (remove_old(), shutil.rmtree(folder))
    with pytest.raises(DataError, match=r"^the result: cannot be written: No such file or directory\.$"):
        restored(restorer, tmp_path / "a.png")


def test_only_sizes_that_were_used_are_named(restorer, tmp_path):
    both = ", 640 pixels, 427 pixels"
    for size, named in (((6, 569), ""), ((6, 570), ", 427 pixels"), ((854, 4), both), ((4, 853), ", 427 pixels")):
        done = restored(restorer, tmp_path / "a.png", *size, sizes=(640, 427))
        assert done.summary.endswith(f", fp32{named}")


def test_weights_are_found_in_folders_and_their_network_kept_until_the_file_changes(restorer, tmp_path, monkeypatch):
    name = str(restorer.weights[0])
    first = restorer.net(name, "cpu")
    assert restorer.net(name, "cpu") is first
    os.utime(name, (1, 1))
    assert restorer.net(name, "cpu") is not first
    with pytest.raises(OptionError, match="'passwd' is not among those"):
        restorer.net("/etc/passwd", "cpu")
    found = tmp_path / "found"
    (found / "empty").mkdir(parents=True)
    for file in ("b.pth", "a.safetensors", "notes.txt"):
        (found / file).touch()
    assert command.find_weights([found, found / "b.pth"]) == [found / "a.safetensors", found / "b.pth"]
    with pytest.raises(DataError, match=r"empty: the folder holds no \.safetensors or \.pth file"):
        command.find_weights([found / "empty"])
    default = "unirain_plugin.inference.loading.DEFAULT_WEIGHTS"
    monkeypatch.setattr(default, found / "a.safetensors")
    assert command.find_weights(None) == [found / "a.safetensors"]
    monkeypatch.setattr(default, found / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"this installation ships none .*none\.safetensors.* --weights FILE"):
        command.find_weights(None)


def told(capsys, *arguments):
    """The one line that the command ends with."""
    assert cli.main(["app", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_mistakes_and_a_taken_port_end_with_one_line(restorer, capsys):
    pytest.importorskip("gradio", reason="no gradio here: pip install 'unirain_plugin[app]'")
    for key, value in (("--max-megapixels", "0"), ("--weights", "missing.pth"), ("--tile", "3")):
        error = told(capsys, key, value)
        assert key[2:] in error or value in error
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        error = told(capsys, "--weights", str(restorer.weights[0]), "--port", port)
    assert f"--port {port}: cannot be served there: " in error


def test_without_gradio_the_extra_is_named_and_a_temporary_folder_that_cannot_be_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install gradio (or 'unirain_plugin[app]')" in told(capsys)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    error = told(capsys)
    assert error.startswith(f"error: {tmp_path}/gone/unirain-app-") and error.endswith(": No such file or directory\n")
