"""Weights with their architecture inside, checkpoints of the toolbox, and everything that is no weights."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.utils.registry import ARCH_REGISTRY
from inference_helpers import SMALL, random_network
from safetensors import safe_open
from tiny_run import write_own_network

from unirain_plugin import __main__ as cli
from unirain_plugin.archs.presets import preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference import loading
from unirain_plugin.inference.loading import guess_architecture, load
from unirain_plugin.support.files import write_png

TWO_LEVELS = {"num_blocks": [1, 0], "decoder_blocks": [1], "heads": [1, 2], "refinement_blocks": 0}


@pytest.fixture(scope="module")
def net():
    return random_network()


def assert_same_network(net, other):
    x = torch.rand(1, 3, 20, 24)
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(x))


def option_file(path, **network):
    path.write_text(yaml.safe_dump({"name": path.stem, "network_g": {**SMALL, **network}}))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_file_alone_suffices_and_holds_its_architecture_as_plain_json(tmp_path, suffix):
    net, path = random_network(encoder_moe="hard"), tmp_path / f"run/models/w{suffix}"
    write_weights(path, net.state_dict(), net.architecture)
    option_file(tmp_path / "run/run.yml", encoder_moe="soft")  # what the file says wins over the run's folder
    loaded = load(path, device="cpu")
    assert loaded.architecture == net.architecture == {**SMALL, "encoder_moe": "hard"}
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert_same_network(net, loaded)
    assert [p.name for p in path.parent.iterdir()] == [f"w{suffix}"]
    if suffix == ".pth":
        content = torch.load(path, weights_only=True)
        assert set(content["params"]) == set(net.state_dict())  # BasicSR's strict loading takes it
        stored = content["architecture"]
    else:
        with safe_open(str(path), "pt") as file:
            stored = file.metadata()["architecture"]
    assert json.loads(stored) == net.architecture


def test_checkpoint_of_a_run_is_understood_from_its_folder_or_with_network(tmp_path):
    net, ema = random_network(0), random_network(1)
    models = tmp_path / "experiments" / "run" / "models"
    for folder in (models, tmp_path / "downloads"):
        folder.mkdir(parents=True)
        torch.save({"params": net.state_dict(), "params_ema": ema.state_dict()}, folder / "net_g_4.pth")
    yml = option_file(tmp_path / "net.yml")
    for folder in (models, tmp_path / "downloads"):  # an option file beside another folder says nothing about weights
        with pytest.raises(CheckpointError, match=r"does not tell which network.*--network"):
            load(folder / "net_g_4.pth", device="cpu")
    assert_same_network(ema, load(models / "net_g_4.pth", yml, "cpu"))
    assert_same_network(net, load(models / "net_g_4.pth", SMALL, "cpu", param_key="params"))
    for name in ("run", "again"):
        option_file(models.parent / f"{name}.yml")
        assert_same_network(ema, load(models / "net_g_4.pth", device="cpu"))
    (models.parent / "z.yml").write_text("network_g: {type: UniRain, dim: 4}\n")
    with pytest.raises(CheckpointError, match=r"run\.yml, .*z\.yml name different networks"):
        load(models / "net_g_4.pth", device="cpu")


def lightning(state):
    noise = {f"loss.vgg.{name}": torch.ones(2) for name in ("weight", "bias")}
    return {"state_dict": {**{f"net_g.{k}": v for k, v in state.items()}, **noise}, "epoch": 3, "optimizer_states": []}


WRAPPED = {
    "parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "model": lambda s: {"model": s, "epoch": 3},
    "lightning": lightning,
    "generator": lambda s: {"discriminator": {"w": torch.ones(1)}, "generator": s},
    "nested": lambda s: {"model": {"state_dict": {f"module.{k}": v for k, v in s.items()}}, "optimizer": {"state": {}}},
    "compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
    "ema first": lambda s: {"model": {k: v + 1 for k, v in s.items()}, "ema": s},
    "timm": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s, "arch": "x"},
    "net": lambda s: {"net": {"params": s}},
    "empty average": lambda s: {"ema": {}, "model": {"name": "UniRain"}, "network": s},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_checkpoints_of_other_programs(tmp_path, net, wrap):
    torch.save(wrap(dict(net.state_dict())), tmp_path / "w.ckpt")
    assert_same_network(net, load(tmp_path / "w.ckpt", SMALL, "cpu"))


def test_a_network_whose_own_names_begin_like_a_wrapper(tmp_path, monkeypatch):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(2, 2)

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "Wrapped_basicsr", Wrapped)
    state = Wrapped().state_dict()
    for content in (state, {"model": state}, {f"model.{k}": v for k, v in state.items()}):
        torch.save(content, tmp_path / "w.pth")
        net = load(tmp_path / "w.pth", {"type": "Wrapped"}, "cpu")
        assert torch.equal(net.model.weight, state["model.weight"])


def test_the_wanted_part_by_its_name(tmp_path, net):
    other = random_network(1)
    parts = {"state_dict": dict(net.state_dict()), "state_dict_ema": dict(other.state_dict())}
    torch.save({"model": parts, "odd": dict(other.state_dict())}, tmp_path / "w.pth")
    for key, expected in (("model.state_dict", net), ("model", other), ("odd", other)):
        assert_same_network(expected, load(tmp_path / "w.pth", SMALL, "cpu", param_key=key))
    with pytest.raises(CheckpointError, match=r"the file has model, odd, model\.state_dict_ema, model\.state_dict"):
        load(tmp_path / "w.pth", SMALL, "cpu", param_key="none")


def test_a_mismatch_names_all_options_and_parts_and_foreign_weights_the_keys_that_differ(tmp_path, net):
    content = {"params": net.state_dict(), "params_ema": net.state_dict(), "architecture": json.dumps(SMALL)}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "w.pth", {**SMALL, "dim": 4, "heads": [1, 1, 1], "num_experts": 2}, "cpu")
    for told in (
        "other options (file, network): dim 8 4; heads [1, 2, 4] [1, 1, 1]; num_experts (default) 2",
        "parts of the file (params_ema, params): export.py --param-key takes another",
    ):
        assert told in str(error.value)
    state = {k: v for k, v in net.state_dict().items() if k != "embed.weight"}
    state |= {"conv_first.weight": torch.zeros(2), "output.weight": torch.zeros(1, 2)}
    write_weights(tmp_path / "w.pth", state, SMALL)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "w.pth", device="cpu")
    for told in (
        str(tmp_path / "w.pth"),
        "made for another network",
        "missing in the file, needed by UniRain: embed.weight",
        "in the file, unknown to UniRain: conv_first.weight",
        "output.weight (1, 2) (3, 16, 3, 3)",
    ):
        assert told in str(error.value)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed_and_torchs_advice_to_load_unsafely_not_passed_on(tmp_path):
    torch.save({"params": Payload()}, tmp_path / "w.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps({"params": Payload()}))
    for name in ("w.pth", "p.pth"):
        with pytest.raises(CheckpointError, match=r"might be code") as error:
            load(tmp_path / name, device="cpu")
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_presets_are_known_by_their_shapes(net):
    for changes in ({}, {"encoder_moe": "hard", "latent_moe": "hard"}):
        with torch.device("meta"):
            expected = UniRain(**preset("UniRain-Tiny", **changes))
            guess = guess_architecture(expected.state_dict())
            rebuilt = UniRain(**{k: v for k, v in guess.items() if k != "type"})
        assert rebuilt.options == expected.options
    assert guess_architecture(net.state_dict()) is None
    assert guess_architecture({"conv.weight": torch.zeros(3)}) is None


def test_other_networks_of_the_registry_by_the_names_that_the_toolbox_resolves(tmp_path):
    options = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    net = MSRResNet(num_feat=4, num_block=1, upscale=2)
    write_weights(tmp_path / "w.safetensors", net.state_dict(), options)
    assert_same_network(net, load(tmp_path / "w.safetensors", device="cpu"))
    options = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}  # registered with _basicsr
    net = loading.build_network(options, "test")
    torch.save({"params": net.state_dict()}, tmp_path / "w.pth")
    for name in ("SRVGGNetCompact", "SRVGGNetCompact_basicsr"):
        assert_same_network(net, load(tmp_path / "w.pth", {**options, "type": name}, "cpu"))
    yml = tmp_path / "n.yml"
    yml.write_text(yaml.safe_dump({"network_g": options}))
    argv = ["--weights", str(tmp_path / "w.pth"), "--network", str(yml), "-o", str(tmp_path / "out.safetensors")]
    assert cli.main(["export", *argv]) == 0
    assert_same_network(net, load(tmp_path / "out.safetensors", device="cpu"))
    with pytest.raises(OptionError, match=r"test: expected a network's options with a 'type', found \{'tpye': 'x'\}"):
        loading.build_network({"tpye": "x"}, "test")
    with pytest.raises(OptionError, match="Did you mean 'SRVGGNetCompact'"):
        loading.build_network({**options, "type": "SRVGGNetCompakt"}, "test")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none.pth", None, "there is no such file"),
        ("w.pth", b"", "no file of weights, or it is truncated|damaged"),
        ("w.pth", b"hello world, this is text", "damaged|no file of weights"),
        ("w.safetensors", b"hello world, this is text", "no whole safetensors file"),
        ("w.pth", b"<!DOCTYPE html><html>Not found</html>", "is a web page; expected weights"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha", "pointer of Git LFS, not the file"),
        ("w.pth", {"params": {"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan])}}, "'b' holds NaN.*diverged"),
        ("w.pth", {"params": {"a": torch.eye(2).to_sparse()}}, "'a' is sparse or without values; expected plain"),
        ("w.pth", {"params": {"a": torch.ones(2, device="meta")}}, "'a' is sparse or without values; expected plain"),
        ("w.onnx", None, "there is no such file"),
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


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(tmp_path, net, kind):
    state = {name: tensor.half() for name, tensor in net.state_dict().items()}
    write_weights(tmp_path / "w.pth", state, SMALL)
    load(tmp_path / "w.pth", device="cpu")  # of lower precision is no other kind
    state["embed.weight"] = state["embed.weight"].to(kind)
    write_weights(tmp_path / "w.pth", state, SMALL)
    with pytest.raises(CheckpointError, match=rf"kind of number \(file, network\): embed\.weight {kind} torch.float32"):
        load(tmp_path / "w.pth", device="cpu")


def test_safetensors_of_another_name_are_read(tmp_path, net):
    write_weights(tmp_path / "w.safetensors", net.state_dict(), SMALL)
    assert_same_network(net, load((tmp_path / "w.safetensors").rename(tmp_path / "w.pth"), device="cpu"))


def test_a_cut_is_noticed_and_a_single_wrong_bit_where_there_are_checksums(tmp_path, net):
    state, path = net.state_dict(), tmp_path / "w.pth"
    for cut in (path.with_suffix(".safetensors"), path):
        write_weights(cut, state, SMALL)
        cut.write_bytes(cut.read_bytes()[:-3000])
        with pytest.raises(CheckpointError, match=str(cut)):
            load(cut, device="cpu")
    write_weights(path, state, SMALL)
    data = bytearray(path.read_bytes())
    data[data.index(state["embed.weight"].numpy().tobytes()) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w\.pth: the file of weights is damaged \(record .*/data/\d+\)"):
        load(path, device="cpu")
    torch.serialization.set_crc32_options(False)
    try:
        write_weights(path, state, SMALL)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load(path, device="cpu").state_dict()["embed.weight"], state["embed.weight"])


def test_what_is_named_and_not_there_and_default_weights(tmp_path, monkeypatch, net):
    monkeypatch.setattr(loading, "DEFAULT_WEIGHTS", tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"ships none .*w.pth is missing.*--weights"):
        load(device="cpu")
    write_weights(tmp_path / "w.pth", net.state_dict(), SMALL)
    assert_same_network(net, load(device="cpu"))
    assert_same_network(net, load("default", device="cpu"))
    (tmp_path / "x.yml").write_text("name: x\n")
    for named, error, told in (
        ({"param_key": "params_ema"}, CheckpointError, "no part 'params_ema'; the file has params, architecture"),
        ({"device": "gpu"}, OptionError, "device: got 'gpu'"),
        ({"device": "cuda:99"}, OptionError, "no such device"),
        ({"network": tmp_path / "x.yml"}, OptionError, r"x.yml: expected a section 'network_g'"),
    ):
        with pytest.raises(error, match=told):
            load(tmp_path / "w.pth", **named)


@pytest.mark.parametrize("name", ["pth", "safetensors", "torchscript", "pt2"])
def test_export_command(tmp_path, name, capsys):
    net = random_network(**TWO_LEVELS)
    torch.save({"params": net.state_dict()}, tmp_path / "net_g_7.pth")
    yml = option_file(tmp_path / "net.yml", **TWO_LEVELS)
    target = tmp_path / "out" / f"w{'.pt' if name == 'torchscript' else '.' + name}"
    arguments = ["export", "--weights", str(tmp_path / "net_g_7.pth"), "--network", str(yml), "--format", name]
    assert cli.main([*arguments, "-o", str(target)]) == 0
    told = capsys.readouterr().out
    assert str(target) in told and ("TorchScript is ending" in told) == (name == "torchscript")
    if name in ("torchscript", "pt2"):
        run = torch.jit.load(str(target)) if name == "torchscript" else torch.export.load(target).module()
        for size in ((2, 3, 50, 33), (1, 3, 24, 72)):
            x = torch.rand(size)
            with torch.no_grad():
                torch.testing.assert_close(run(x), net(x), rtol=0, atol=2e-5)
        with pytest.raises(CheckpointError, match=r"an exported program .* for other programs; give the weights"):
            load(target)
    else:
        assert_same_network(net, load(target, device="cpu"))
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    for output, refused in ((target, "--overwrite"), (target.with_suffix(".x"), f"ends with '{target.suffix}'")):
        assert cli.main([*arguments, "-o", str(output)]) == 2 and refused in capsys.readouterr().err
    assert [p.name for p in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("where", ["--imports", "option file"])
def test_networks_of_ones_own_are_imported_and_only_if_the_user_names_the_file(tmp_path, where, monkeypatch, capsys):
    name = "OwnOf" + where[-4:].title()
    module, run = name.lower(), tmp_path / "run"
    (run / "models").mkdir(parents=True)
    write_own_network(run, name)
    with (run / f"{module}.py").open("a") as file:
        file.write("\n    def forward(self, x):\n")
        file.write("        return super().forward(x) if x.shape[-1] < 8 else {}['wide']\n")
    torch.save({"params": torch.nn.Conv2d(3, 3, 1).state_dict()}, run / "models/net_g_1.pth")
    options = {"network_g": {"type": name}} | ({"imports": [module]} if where == "option file" else {})
    (run / "o.yml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(run)
    for wrong, message in ((["no_such_net"], "cannot import 'no_such_net'"), ("nets", "imports: expected a list")):
        Path("wrong.yml").write_text(yaml.safe_dump({**options, "imports": wrong}))
        with pytest.raises(OptionError, match=message):
            load("models/net_g_1.pth", Path("wrong.yml"), "cpu")
    export = ["export", "--weights", "models/net_g_1.pth", "-o", "w.pth", "--format", "pth"]
    unknown = f"network type '{name}' is not registered"
    assert cli.main(export) == 2  # a file that merely lies beside the weights must not run code
    assert unknown in capsys.readouterr().err
    assert cli.main([*export, *(("--imports", module) if where == "--imports" else ("--network", "o.yml"))]) == 0
    assert load("w.pth", device="cpu").architecture == {"type": name}
    del ARCH_REGISTRY._obj_map[name], sys.modules[module]  # as in a process that has not imported it
    write_png(Path("rainy.png"), np.zeros((4, 5, 3), np.uint8))
    inference = ["inference", "-i", "rainy.png", "-o", "out", "--weights", "w.pth", "--quiet"]
    assert cli.main(inference) == 2
    told = f"{unknown}. The module that registers one of your own is named by --imports"
    assert told in capsys.readouterr().err
    assert cli.main([*inference, "--imports", module]) == 0 and Path("out/rainy.png").is_file()
    write_png(Path("rainy.png"), np.zeros((4, 9, 3), np.uint8))
    assert cli.main([*inference, "--imports", module, "--overwrite"]) == 1
    told = f"rainy.png: KeyError: 'wide' ({run}/{module}.py:12, in {name}.forward)"
    assert told in capsys.readouterr().out


def test_spandrel_loads_our_weights(tmp_path):
    spandrel = pytest.importorskip("spandrel")
    from unirain_plugin import spandrel_support

    spandrel_support.install()
    assert spandrel_support.install() == ()

    def loaded(net, name):
        write_weights(tmp_path / name, net.state_dict(), net.architecture)
        return spandrel.ModelLoader("cpu").load_from_file(tmp_path / name)

    net, x = random_network(decoder_moe="soft"), torch.rand(1, 3, 24, 20)
    model = loaded(net, "w.safetensors")
    assert (model.architecture.id, model.scale, model.purpose) == ("UniRain", 1, "Restoration")
    torch.testing.assert_close(model(x), net(x).clamp(0, 1))
    with pytest.raises(CheckpointError, match="none of the presets"):
        loaded(net, "w.pth")
    tiny = loading.build_network({"type": "UniRain", **preset("UniRain-Tiny")}, "test").eval()
    torch.testing.assert_close(loaded(tiny, "tiny.pth")(x), tiny(x).clamp(0, 1))
