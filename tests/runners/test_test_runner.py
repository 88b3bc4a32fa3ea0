"""The test program reproduces the validation's figures from saved weights, on the CPU."""

import re
import resource
import subprocess
import sys

import pytest
import yaml
from run_helpers import stock_sections

from unirain_plugin.__main__ import run


def test_options(path, weights, name="test_tiny", **val):
    """The option file of a test, from that of a training."""
    opt = yaml.safe_load(path.read_text())
    data = {**opt["datasets"]["val"], "name": "tiny_val"}
    result = {key: opt[key] for key in ("model_type", "scale", "num_gpu", "network_g")}
    result |= {
        "name": name,
        "datasets": {"test_1": data},
        "path": {"pretrain_network_g": str(weights), "strict_load_g": True, "param_key_g": "params"},
        "val": {"save_img": True, "suffix": None, "metrics": opt["val"]["metrics"], **val},
    }
    result_path = path.with_name(f"{name}.yml")
    result_path.write_text(yaml.safe_dump(result, sort_keys=False))
    return result_path


test_options.__test__ = False


def figures(text: str) -> list[str]:
    """The lines of the last validation, up to the best value so far."""
    return re.findall(r"# (\w+: [\d.]+)", text.split("Validation tiny_val")[-1])


@pytest.mark.parametrize("stock", [False, True])
def test_reproduces_the_validation(programs, options, tmp_path, rain, stock):
    path = options(total_iter=4, **(stock_sections(rain) if stock else {}))
    trained = programs.run("train", "-opt", path, "--root", tmp_path)
    test = test_options(path, tmp_path / "experiments/tiny/models/net_g_latest.pth")
    tested = programs.run("test", "-opt", test, "--root", tmp_path)
    assert figures(tested) == figures(trained) and len(figures(tested)) == 2
    results = tmp_path / "results/test_tiny"
    assert list(results.glob("test_test_tiny_*.log"))
    assert len(list(results.rglob("*.png"))) >= (2 if stock else 4)
    if not stock:
        assert "was there already" in programs.run("test", "-opt", test, "--root", tmp_path)


def test_missing_weights_are_one_message_and_help_tells_the_flags(programs, options, tmp_path):
    test = test_options(options(), tmp_path / "nothing.pth")
    text = programs.run("test", "-opt", test, "--root", tmp_path, status=2)
    assert text.startswith("error: ") and "nothing.pth" in text and "Traceback" not in text
    command = [sys.executable, "-m", "unirain_plugin.test", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for flag in ("-opt", "--launcher", "--auto_resume", "--debug", "--force_yml", "--root"):
        assert flag in text


@pytest.mark.parametrize("command", ["train", "test"])
def test_a_full_disk_is_one_message(options, tmp_path, capsys, command):
    """The first file that does not fit is the log: no traceback of Python's logging."""
    path = options()
    if command == "test":
        opt = yaml.safe_load(test_options(path, "").read_text())
        path.write_text(yaml.safe_dump({**opt, "path": {}}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(path.read_text()) + 500, limits[1]))
    try:
        status = run(command, ["-opt", str(path), "--root", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    text = capsys.readouterr().err
    assert status == 2 and "Traceback" not in text and "Logging error" not in text
    assert re.search(rf"\nerror: {tmp_path}/\S+/{command}_\w+\.log: cannot be written: File too large\.\n$", text)
