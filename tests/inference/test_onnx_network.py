"""ONNX files of export: run by onnxruntime, OpenVINO and OpenCV, restored with like weights, refused where foreign."""

import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inference_helpers import random_image, random_network

from unirain_plugin import __main__ as cli
from unirain_plugin import load, restore
from unirain_plugin.archs.presets import preset
from unirain_plugin.errors import CheckpointError, OptionError, UniRainError
from unirain_plugin.inference import restoring
from unirain_plugin.inference.images import StoredImage, read_image, write_image

runtime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def net():
    return random_network(num_blocks=[1, 0], decoder_blocks=[1], heads=[1, 2], refinement_blocks=0)


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    pytest.importorskip("onnxscript")
    from unirain_plugin.inference.export import export_onnx

    path = tmp_path_factory.mktemp("onnx") / "w.onnx"
    net.restore_sizes, net.restore_context = (320,), 400
    assert "largest difference" in export_onnx(net, path)
    return path


def session_of(path):
    session = runtime.InferenceSession(str(path))
    return lambda x: session.run(["restored"], {"lq": x})[0]


def opencv_of(path):
    cv2 = pytest.importorskip("cv2")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("OpenCV's dnn module reads the file since version 5")
    network = cv2.dnn.readNetFromONNX(str(path))

    def run(x):
        network.setInput(x)
        return network.forward()

    return run


def openvino_of(path):
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x)[0]


@pytest.mark.parametrize("runtime_of", [session_of, opencv_of, openvino_of])
def test_runtimes_give_the_networks_result_at_any_size(net, exported, runtime_of):
    run = runtime_of(exported)
    for size in ((1, 3, 31, 52), (1, 3, 40, 16)):
        x = torch.rand(size)
        torch.testing.assert_close(torch.from_numpy(np.array(run(x.numpy()))), net(x), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 8), (31, 52), (90, 70)])
def test_it_restores_as_its_weights_do(net, exported, size):
    loaded = load(exported)
    assert loaded.architecture == net.architecture and (loaded.restore_sizes, loaded.restore_context) == ((320,), 400)
    image = random_image(*size)
    found = restore(loaded, image).astype(int)
    assert np.abs(found - restore(net, image)).max() <= 1  # levels: float rounding only
    assert size == (1, 1) or np.abs(found - image).max() > 1


@pytest.mark.parametrize(("tile", "memory"), [(64, 0.0), (80, None)])
def test_large_images_are_restored_whole_unless_memory_is_short_or_tiles_are_asked_for(
    net, exported, monkeypatch, tile, memory
):
    monkeypatch.setattr(restoring, "DEFAULT_TILE", 64)
    loaded, image, sizes = load(exported), random_image(100, 150), []
    session = loaded._session
    loaded._session = SimpleNamespace(run=lambda names, x: sizes.append(x["lq"].shape[2:]) or session.run(names, x))
    expected = restore(net, image, tile=0, sizes=()).astype(int)
    assert np.abs(restore(loaded, image, tile=64, sizes=()) - expected).max() <= 1
    assert sizes == [(100, 150)]
    with pytest.warns(UserWarning, match=rf"150×100 pixels are restored in tiles of {tile}\..*takes about 0\.1 GiB"):
        restore(loaded, image, tile=tile, overlap=16, memory=memory, sizes=())
    assert len(sizes) > 4 and set(sizes[1:]) == {(tile, tile)}


def test_what_an_image_takes_is_estimated_from_what_was_measured(exported):
    loaded = load(exported)
    wide = preset("UniRain-S", num_blocks=[1, 0], decoder_blocks=[1], heads=[1, 2], refinement_blocks=1)
    for options, measured in ((preset("UniRain-Tiny"), 3115), (wide, 9561)):
        loaded.architecture = {"type": "UniRain", **options}
        assert measured < loaded.bytes_a_pixel() < 1.4 * measured
    loaded.architecture = {"type": "RCAN"}
    assert loaded.bytes_a_pixel() is None


def test_the_command_takes_it_and_what_cannot_be_done_with_it_is_refused(tmp_path, net, exported, capsys):
    image = random_image(40, 30)
    write_image(tmp_path / "a.png", StoredImage(image))
    arguments = ["inference", "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", str(exported)]
    assert cli.main([*arguments, "--quiet"]) == 0
    found = read_image(tmp_path / "out/a.png").pixels.astype(int)
    assert np.abs(found - restore(net, image)).max() <= 1
    again = ["export", "--weights", str(exported), "-o", str(tmp_path / "w.pth"), "--format", "pth"]
    for command, text in (
        ([*arguments, "--precision", "bf16"], f"precision: got 'bf16', but {exported} computes in fp32 only"),
        ([*arguments, "--device", "cuda"], f"device: got 'cuda', but {exported} runs on the CPU only"),
        ([*arguments, "--network", "x.yml"], f"network: {exported} is an ONNX file, which holds its network"),
        (again, "an ONNX file is exported already; give the weights it was made from"),
    ):
        assert cli.main(command) == 2
        assert text in capsys.readouterr().err
    loaded = load(exported)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(OptionError, match="computes in fp32 only"):
        loaded(torch.rand(1, 3, 16, 16))
    with pytest.raises(UniRainError, match="cannot be traced or counted"):
        torch.jit.trace(loaded, torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(("reason", "kind"), [("Failed to allocate memory for", "out of memory"), ("node 3", "node 3")])
def test_a_failure_names_size_and_reason(exported, reason, kind):
    loaded, error = load(exported), RuntimeError(f"[ONNXRuntimeError] : {reason} …\nmore")
    loaded._session = Mock(run=Mock(side_effect=error))
    with pytest.raises(UniRainError, match=kind):
        restore(loaded, random_image(20, 30))


def test_files_are_told_apart_by_their_content(exported, tmp_path):
    shutil.copy(exported, tmp_path / "copy.onnx")
    model = onnx.load(exported)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, tmp_path / "other.onnx")
    first, second, third = (load(p).digest for p in (exported, tmp_path / "copy.onnx", tmp_path / "other.onnx"))
    assert torch.equal(first, second) and not torch.equal(first, third)


FLOAT, BYTE = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
SIZED = ["n", 3, "h", "w"]


def foreign(path, inputs=(("lq", FLOAT, SIZED),), outputs=(("restored", FLOAT, SIZED),)):
    """A network that passes its first input on."""
    infos = [[onnx.helper.make_tensor_value_info(*end) for end in ends] for ends in (inputs, outputs)]
    node = onnx.helper.make_node("Identity", [inputs[0][0]], [outputs[0][0]])
    graph = onnx.helper.make_graph([node], "g", *infos)
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ([("image", FLOAT, SIZED)], [("restored", FLOAT, SIZED)], r"'image' tensor\(float\) \['n', 3, 'h', 'w'\]"),
        ([("lq", BYTE, SIZED)], [("restored", BYTE, SIZED)], r"'lq' tensor\(uint8\)"),
        ([("lq", FLOAT, ["n", 3, 256, 256])], [("restored", FLOAT, ["n", 3, 256, 256])], r"\['n', 3, 256, 256\]"),
        ([("lq", FLOAT, ["n", 1, "h", "w"])], [("restored", FLOAT, ["n", 1, "h", "w"])], r"\['n', 1, 'h', 'w'\]"),
        ([("lq", FLOAT, SIZED), ("sigma", FLOAT, ["n"])], [("restored", FLOAT, SIZED)], r"'sigma' tensor\(float\)"),
        ([("lq", FLOAT, SIZED)], [("y", FLOAT, SIZED)], "'y'"),
    ],
)
def test_a_foreign_network_is_refused_by_its_inputs(tmp_path, inputs, outputs, told):
    path = foreign(tmp_path / "f.onnx", inputs, outputs)
    with pytest.raises(CheckpointError, match=rf"f\.onnx: this network has other inputs .*: .*{told}.*; expected"):
        load(path)


def test_damaged_files_and_missing_notes_are_told(tmp_path, exported, monkeypatch):
    (tmp_path / "d.onnx").write_bytes(exported.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=r"d\.onnx: onnxruntime cannot read this network: "):
        load(tmp_path / "d.onnx")
    with pytest.raises(CheckpointError, match=r"n\.onnx: the stored architecture cannot be read"):
        load(foreign(tmp_path / "n.onnx"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"needs onnxruntime: pip install 'unirain_plugin\[export\]'"):
        load(exported)


def test_images_are_padded_as_the_network_itself_pads_them(net, exported, tmp_path):
    model = onnx.load(exported)
    notes = {entry.key: entry for entry in model.metadata_props}
    assert notes["multiple"].value == str(net.stride) == "2"
    notes["multiple"].value = "16"  # as of a network of five levels
    onnx.save(model, tmp_path / "deep.onnx")
    loaded, given = load(tmp_path / "deep.onnx"), torch.rand(1, 3, 9, 20)
    session, seen = loaded._session, []
    loaded._session = SimpleNamespace(run=lambda names, fed: seen.append(fed["lq"]) or session.run(names, fed))
    assert loaded(given).shape == given.shape
    np.testing.assert_array_equal(seen[0], F.pad(F.pad(given, (0, 12, 0, 0), "reflect"), (0, 0, 0, 7), "reflect"))
