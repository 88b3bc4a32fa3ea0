"""Weights with their architecture inside, checkpoints of the toolbox, and everything that is no weights."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from inference_helpers import SMALL, random_network, random_picture
from safetensors import safe_open

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference import loading
from unirain_plugin.inference.loading import guess_architecture, load


def assert_same_network(net, other):
    x = torch.rand(1, 3, 20, 24)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(x))


def option_file(path, **network):
    path.write_text(yaml.safe_dump({"name": path.stem, "network_g": {**SMALL, **network}}))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_file_alone_suffices(tmp_path, suffix):
    net = random_network(encoder_moe="hard")
    write_weights(tmp_path / f"w{suffix}", net.state_dict(), net.architecture)
    loaded = load(tmp_path / f"w{suffix}", device="cpu")
    assert loaded.architecture == net.architecture == {**SMALL, "encoder_moe": "hard"}
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert_same_network(net, loaded)
    assert [p.name for p in tmp_path.iterdir()] == [f"w{suffix}"]


def test_stored_architecture_is_plain_json(tmp_path):
    net = random_network()
    write_weights(tmp_path / "w.safetensors", net.state_dict(), net.architecture)
    with safe_open(str(tmp_path / "w.safetensors"), "pt") as file:
        assert json.loads(file.metadata()["architecture"]) == SMALL
    write_weights(tmp_path / "w.pth", net.state_dict(), net.architecture)
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert json.loads(content["architecture"]) == SMALL
    assert set(content["params"]) == set(net.state_dict())  # BasicSR's strict loading takes it


def test_checkpoint_of_a_run_is_understood_from_its_folder_or_with_network(tmp_path):
    net, ema = random_network(0), random_network(1)
    models = tmp_path / "experiments" / "run" / "models"
    models.mkdir(parents=True)
    torch.save({"params": net.state_dict(), "params_ema": ema.state_dict()}, models / "net_g_4.pth")
    with pytest.raises(CheckpointError, match=r"does not tell which network.*--network"):
        load(models / "net_g_4.pth", device="cpu")
    yml = option_file(tmp_path / "net.yml")
    assert_same_network(ema, load(models / "net_g_4.pth", yml, "cpu"))
    assert_same_network(net, load(models / "net_g_4.pth", SMALL, "cpu", param_key="params"))
    option_file(models.parent / "run.yml")
    assert_same_network(ema, load(models / "net_g_4.pth", device="cpu"))
    option_file(models.parent / "again.yml")
    assert_same_network(ema, load(models / "net_g_4.pth", device="cpu"))
    (models.parent / "z.yml").write_text("network_g: {type: UniRain, dim: 4}\n")
    with pytest.raises(CheckpointError, match=r"run\.yml, .*z\.yml name different networks"):
        load(models / "net_g_4.pth", device="cpu")


def test_prefix_of_parallel_training_is_taken_off(tmp_path):
    net = random_network()
    torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.pth")
    assert_same_network(net, load(tmp_path / "w.pth", SMALL, "cpu"))


def test_presets_are_known_by_their_shapes():
    from unirain_plugin.archs.presets import preset
    from unirain_plugin.archs.unirain_arch import UniRain

    for changes in ({}, {"encoder_moe": "hard", "latent_moe": "hard"}):
        with torch.device("meta"):
            state = UniRain(**preset("UniRain-Tiny", **changes)).state_dict()
        guess = guess_architecture(state)
        with torch.device("meta"):
            rebuilt = UniRain(**{k: v for k, v in guess.items() if k != "type"})
        assert rebuilt.options == UniRain(**preset("UniRain-Tiny", **changes)).options
    assert guess_architecture(random_network().state_dict()) is None
    assert guess_architecture({"conv.weight": torch.zeros(3)}) is None


def test_other_networks_of_the_registry(tmp_path):
    from basicsr.archs.srresnet_arch import MSRResNet

    options = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    net = MSRResNet(num_feat=4, num_block=1, upscale=2)
    write_weights(tmp_path / "w.safetensors", net.state_dict(), options)
    assert_same_network(net, load(tmp_path / "w.safetensors", device="cpu"))


def test_foreign_weights_name_the_keys_that_differ(tmp_path):
    net = random_network()
    state = {k: v for k, v in net.state_dict().items() if k != "embed.weight"}
    state["conv_first.weight"] = torch.zeros(2)
    state["output.weight"] = torch.zeros(1, 2)
    write_weights(tmp_path / "w.pth", state, SMALL)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "w.pth", device="cpu")
    text = str(error.value)
    assert str(tmp_path / "w.pth") in text and "made for another network" in text
    assert "missing in the file, needed by UniRain: embed.weight" in text
    assert "in the file, unknown to UniRain: conv_first.weight" in text
    assert "output.weight (1, 2) (3, 16, 3, 3)" in text


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none.pth", None, "there is no such file"),
        ("w.pth", b"", "no file of weights, or it is truncated|damaged"),
        ("w.pth", b"hello world, this is text", "damaged|no file of weights"),
        ("w.safetensors", b"hello world, this is text", "no whole safetensors file"),
        ("w.onnx", b"\x08\x08", "is a network for other programs; expected weights"),
        ("w.pth", [1, 2], "found list"),
        ("w.pth", {"epoch": 3, "iter": 4}, "holds no parameters; found the keys epoch, iter"),
        ("w.pth", {"architecture": "{", "params": {"a": torch.zeros(1)}}, "stored architecture cannot be read"),
        ("w.pth", {"architecture": "[1]", "params": {"a": torch.zeros(1)}}, "no object with a type"),
        ("w.pth", {"architecture": '{"type": "UniRian"}', "params": {"a": torch.zeros(1)}}, "Did you mean 'UniRain'"),
        ("w.pth", {"architecture": '{"type": "UniRain", "dmi": 3}', "params": {"a": torch.zeros(1)}}, "'dim'"),
    ],
)
def test_broken_weights_are_explained(tmp_path, name, content, text):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((CheckpointError, OptionError), match=text) as error:
        load(path, device="cpu")
    assert str(path) in str(error.value)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"params": Payload()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load(tmp_path / "w.pth", device="cpu")


def test_truncated_files_are_explained(tmp_path):
    net = random_network()
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"w{suffix}"
        write_weights(path, net.state_dict(), SMALL)
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(CheckpointError, match=str(path)):
            load(path, device="cpu")


def test_missing_param_key_and_device(tmp_path):
    write_weights(tmp_path / "w.pth", random_network().state_dict(), SMALL)
    with pytest.raises(CheckpointError, match="no part 'params_ema'; the file has params, architecture"):
        load(tmp_path / "w.pth", param_key="params_ema")
    with pytest.raises(OptionError, match="device: got 'gpu'"):
        load(tmp_path / "w.pth", device="gpu")
    with pytest.raises(OptionError, match="no such device"):
        load(tmp_path / "w.pth", device="cuda:99")


def test_option_file_without_network(tmp_path):
    write_weights(tmp_path / "w.pth", random_network().state_dict(), SMALL)
    (tmp_path / "x.yml").write_text("name: x\n")
    with pytest.raises(OptionError, match=r"x.yml: expected a section 'network_g'"):
        load(tmp_path / "w.pth", tmp_path / "x.yml")


def test_default_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "DEFAULT_WEIGHTS", tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"ships none .*small.safetensors is missing.*--weights"):
        load(device="cpu")
    net = random_network()
    write_weights(tmp_path / "small.safetensors", net.state_dict(), SMALL)
    assert_same_network(net, load(device="cpu"))
    assert_same_network(net, load("default", device="cpu"))


def test_import_stays_light():
    code = "import sys, unirain_plugin; sys.exit('torch' in sys.modules or 'basicsr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["pth", "safetensors", "torchscript"])
def test_export_command(tmp_path, name, capsys):
    net = random_network()
    torch.save({"params": net.state_dict()}, tmp_path / "net_g_7.pth")
    yml = option_file(tmp_path / "net.yml")
    target = tmp_path / "out" / f"w{'.pt' if name == 'torchscript' else '.' + name}"
    arguments = ["export", "--weights", str(tmp_path / "net_g_7.pth"), "--network", str(yml), "--format", name]
    arguments += ["-o", str(target)]
    assert cli.main(arguments) == 0
    assert str(target) in capsys.readouterr().out
    if name == "torchscript":
        x = torch.rand(2, 3, 50, 33)
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.load(str(target))(x), net(x), rtol=0, atol=2e-5)
    else:
        assert_same_network(net, load(target, device="cpu"))
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert cli.main(arguments) == 2 and "--overwrite" in capsys.readouterr().err
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_export_onnx_runs_at_other_sizes(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from unirain_plugin.inference.export_formats import export_onnx

    net = random_network(num_blocks=[1, 0], decoder_blocks=[1], heads=[1, 2], refinement_blocks=0)
    remark = export_onnx(net, tmp_path / "w.onnx")
    assert "largest difference" in remark
    session = runtime.InferenceSession(str(tmp_path / "w.onnx"))
    for size in ((1, 3, 31, 52), (2, 3, 40, 16)):
        x = torch.rand(size)
        with torch.no_grad():
            found = torch.from_numpy(session.run(["restored"], {"lq": x.numpy()})[0])
            torch.testing.assert_close(found, net(x), rtol=0, atol=2e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["architecture"])["type"] == "UniRain"


def test_export_refuses_another_suffix(capsys):
    assert cli.main(["export", "--format", "onnx", "-o", "x.pth"]) == 2
    assert "ends with '.onnx'" in capsys.readouterr().err


def test_spandrel_loads_our_weights(tmp_path):
    spandrel = pytest.importorskip("spandrel")
    from unirain_plugin import spandrel_support
    from unirain_plugin.archs.presets import preset

    spandrel_support.install()
    assert spandrel_support.install() == ()
    net = random_network(decoder_moe="soft")
    write_weights(tmp_path / "w.safetensors", net.state_dict(), net.architecture)
    model = spandrel.ModelLoader("cpu").load_from_file(tmp_path / "w.safetensors")
    assert (model.architecture.id, model.scale, model.purpose) == ("UniRain", 1, "Restoration")
    x = torch.rand(1, 3, 24, 20)
    torch.testing.assert_close(model(x), net(x).clamp(0, 1))
    write_weights(tmp_path / "w.pth", net.state_dict(), net.architecture)
    with pytest.raises(CheckpointError, match="none of the presets"):
        spandrel.ModelLoader("cpu").load_from_file(tmp_path / "w.pth")
    tiny = loading.build_network({"type": "UniRain", **preset("UniRain-Tiny")}, "test").eval()
    write_weights(tmp_path / "tiny.pth", tiny.state_dict(), tiny.architecture)
    model = spandrel.ModelLoader("cpu").load_from_file(tmp_path / "tiny.pth")
    torch.testing.assert_close(model(x), tiny(x).clamp(0, 1))


def test_restore_with_loaded_weights(tmp_path):
    from unirain_plugin import load, restore

    net = random_network()
    write_weights(tmp_path / "w.safetensors", net.state_dict(), SMALL)
    rainy = random_picture(30, 40)
    clean = restore(load(tmp_path / "w.safetensors", device="cpu"), rainy)
    assert clean.shape == rainy.shape and not (clean == rainy).all()
