"""Where nothing can be written, each command says so in one line with the file, ends with 2, and leaves no stumps."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from data_images import save
from tiny_run import write_rainrag

from unirain_plugin.__main__ import main
from unirain_plugin.data.sources import close_environments

COMMANDS = {
    "create-lmdb": ["--dataroot", "{data}", "--output", "{out}"],
    "create-lmdb --seekable": ["--dataroot", "{data}", "--output", "{out}", "--seekable"],
    "extract-subimages": ["--dataroot", "{data}", "--output", "{out}"],
    "index-dataset": ["--layout", "rainrag", "--root", "{data}", "--output", "{out}/m.jsonl"],
    "generate-meta-info": ["--dataroot", "{data}", "--output", "{out}"],
    "synthesize-rain": ["--input", "{photos}", "--output", "{out}", "--types", "drs"],
}


@contextmanager
def files_of_at_most(size):
    """As on a full disk, writing beyond this many bytes of a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    write_rainrag(root / "data")
    save(root / "photos/a.png", np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8))
    yield {"data": str(root / "data"), "photos": str(root / "photos")}
    close_environments()


def run(command, output, inputs):
    name = command.split()[0]
    arguments = [part.format(out=output, **inputs) for part in COMMANDS[command]]
    return main([name, *arguments, *(["--workers", "1"] if name != "generate-meta-info" else [])])


def said(capsys):
    """The line of the error; progress bars and the report of an index are no errors."""
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    return errors[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_written_is_told_and_the_same_command_goes_on(command, tmp_path, inputs, capsys):
    for early in (True, False):
        out = tmp_path / f"out{early}"
        with files_of_at_most(10 if early else 9000 if "lmdb" in command else 40):
            assert run(command, out, inputs) == 2
        line = said(capsys)
        assert str(out) in line and "cannot be" in line and ("File too large" in line or "Input/output error" in line)
        close_environments()
        assert not [path for path in out.rglob("*") if "tmp-unirain" in path.name]
        assert run(command, out, inputs) == 0 or "synthesize" in command  # which wants --resume
        capsys.readouterr()
    (tmp_path / "file").write_text("precious")
    assert run(command, tmp_path / "file/out", inputs) == 2
    assert f"{tmp_path}/file" in said(capsys)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_device_as_the_manifest(inputs, capsys):
    arguments = ["--layout", "rainrag", "--root", inputs["data"], "--output", "/dev/full", "--overwrite"]
    assert main(["index-dataset", *arguments, "--workers", "1", "--report", "/dev/null"]) == 2
    assert "/dev/full: cannot be written: No space left on device" in said(capsys)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("command", ["synthesize-rain", "index-dataset"])
def test_a_full_disk_makes_no_input_a_bad_one_to_be_left_out(command, workers, tmp_path, inputs, capsys):
    """Where bad photographs, or images with two halves, may be left out."""
    out = tmp_path / "out"
    arguments = ["--input", inputs["photos"], "--output", str(out), "--types", "drs", "--skip-bad"]
    if command == "index-dataset":
        save(tmp_path / "rain800/training/1.jpg", np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8))
        arguments = ["--layout", "rain800", "--root", str(tmp_path / "rain800"), "--output", str(tmp_path / "m.jsonl"),
                     "--halves", str(out), "--on-error", "skip"]  # fmt: skip
    with files_of_at_most(2000):
        assert main([command, *arguments, "--workers", workers]) == 2
    assert ".png: cannot be written: File too large" in said(capsys)
    assert main([command, *arguments, *["--resume"] * ("synth" in command), "--workers", workers]) == 0
