"""Networks that cannot be exported: the reason in one line; onnxruntime is told to send nothing."""

import importlib.util
import re

import pytest
import torch
from torch import nn

from unirain_plugin.errors import CheckpointError
from unirain_plugin.inference.export import export_onnx, export_pt2, export_torchscript


class Network(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.architecture, self.restore_sizes, self.restore_context = {"type": "TheirNet"}, (), 0
        self.body = forward
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.body(x * self.scale)


def branching(x):
    return x if x.sum() > 1e9 else 1 - x


def unknown_to_onnx(x):
    return torch.linalg.eigvalsh(x @ x.transpose(2, 3))[..., None] * x


def one_height(x):
    assert x.shape[2] == 61
    return x.view(-1, 3, 61, x.shape[3])


def windows(x):
    return x.view(-1, 3, x.shape[2] // 8, 8, x.shape[3] // 8, 8).flatten(4).flatten(2, 3)


def captured_at_one_height(x):
    return x + torch.arange(x.shape[2] if x.shape[2] == 61 else 48)[:, None]


def export(how, forward, path):
    if how is export_onnx:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError) as raised:
        how(Network(forward).eval(), path)
    assert list(path.parent.iterdir()) == []
    text = str(raised.value)
    assert "\n" not in text and "\x1b" not in text and "step" not in text
    return text


@pytest.mark.parametrize(
    ("how", "forward", "reason"),
    [
        (export_onnx, branching, r"data-dependent"),
        (export_onnx, unknown_to_onnx, r"aten\._linalg_eigh"),
        (export_pt2, branching, "data-dependent"),
        (export_pt2, captured_at_one_height, "height|specializ|size"),
    ],
)
def test_what_cannot_be_captured_or_is_unsupported_is_named(tmp_path, how, forward, reason):
    text = export(how, forward, tmp_path / "n.x")
    assert text.startswith(f"{tmp_path}/n.x: TheirNet cannot be exported: ")
    assert re.search(reason, text, re.IGNORECASE), text


@pytest.mark.parametrize("how", [export_onnx, export_pt2, export_torchscript])
def test_a_network_that_takes_some_sizes_only_is_told_the_size(tmp_path, how):
    for forward, size, reason in (
        (one_height, "48×72", "AssertionError"),
        (windows, "61×45", r"RuntimeError: shape '[-1, 3, 7, 8, 5, 8]' is invalid"),
    ):
        text = export(how, forward, tmp_path / "n.x")
        of_a_size = f"for images of any size: it fails on one of {size} pixels (height × width): "
        assert text.startswith(f"TheirNet cannot be exported {of_a_size}{reason}"), text


FAKE = """
import os
told = os.environ.get("ORT_DISABLE_TELEMETRY")
def disable_telemetry_events():
    print("told at import:", told, "and afterwards")
"""


def test_onnxruntime_is_told_to_send_nothing(tmp_path, fresh):
    for name in ("onnx", "onnxscript"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "onnxruntime.py").write_text(FAKE)
    code = (
        f"import os, sys; sys.path.insert(0, {str(tmp_path)!r}); os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "from unirain_plugin.inference import export, onnx_network; assert 'onnxruntime' not in sys.modules\n"
        "onnx_network.onnx_runtime('export')"
    )
    assert fresh(code) == "told at import: 1 and afterwards\n"


def test_missing_packages_are_named_and_an_export_that_differs_from_the_network_is_not_written(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    absent = ("onnxscript", "onnxruntime")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else find(name))
    with pytest.raises(CheckpointError, match=r"needs onnxscript, onnxruntime: pip install 'unirain_plugin\[export\]'"):
        export_onnx(Network(branching), tmp_path / "n.onnx")
    monkeypatch.setattr("unirain_plugin.inference.export._TOLERANCE", -1)
    with pytest.raises(CheckpointError, match=r"a\.pt: the exported model differs from the network by .*; not written"):
        export_torchscript(Network(lambda x: 1 - x).eval(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
