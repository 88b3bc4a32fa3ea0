"""Networks of the registry: loading, padding, what they depend on, and what they cost."""

import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from comparison_data import option_dict
from tiny_run import TINY_NETWORK

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.compare import networks
from unirain_plugin.compare.networks import load_network, spec_of
from unirain_plugin.compare.options import CompareOptions, CostOptions, ModelOptions, SetOptions, load_options
from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.inference.loading import build_network
from unirain_plugin.inference.onnx_network import OnnxNetwork
from unirain_plugin.inference.restoring import restore, restore_tensor
from unirain_plugin.metrics.complexity import Complexity, complexity, seconds
from unirain_plugin.support.journal import Journal

EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 1}
TOOLBOX = {
    "RIDNet": {"type": "RIDNet", "in_channels": 3, "mid_channels": 16, "out_channels": 3, "num_block": 1},
    "EDSR": EDSR,
    "RCAN": {**EDSR, "type": "RCAN", "num_feat": 16, "num_group": 1},
    "SwinIR": {
        "type": "SwinIR", "upscale": 1, "img_size": 16, "window_size": 8, "img_range": 1.0, "depths": [1],
        "embed_dim": 8, "num_heads": [2], "mlp_ratio": 2, "upsampler": "", "resi_connection": "1conv",
    },
    "UniRain": TINY_NETWORK,
}  # fmt: skip


def spec(tmp_path, network=None, **keys):
    model = ModelOptions("m", network=network, **keys)
    return spec_of(model, CompareOptions("c", [model], [SetOptions("s", lq=tmp_path)], device="cpu"))


def save(tmp_path, network, name="w.pth", seed=0, part="params_ema"):
    torch.manual_seed(seed)
    net = build_network(network, "test")
    torch.save({part: net.state_dict()}, tmp_path / name)
    return str(tmp_path / name), net


@pytest.mark.parametrize("network", TOOLBOX.values(), ids=TOOLBOX)
def test_networks_at_scale_one_keep_any_size(tmp_path, network):
    net, remark = load_network(spec(tmp_path, network, untrained=True))
    image = np.random.default_rng(0).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    assert restore(net, image).shape == image.shape and not remark
    with pytest.raises(OptionError, match=r"MSRResNet cannot be built from its options: .*upconv1"):
        load_network(spec(tmp_path, {"type": "MSRResNet", "upscale": 1}, untrained=True))


def test_weights_of_the_toolbox_and_loading_what_fits(tmp_path):
    path, original = save(tmp_path, EDSR)
    net, remark = load_network(spec(tmp_path, EDSR, weights=path))
    assert not remark
    assert all(torch.equal(net.state_dict()[k], v) for k, v in original.state_dict().items())
    with pytest.raises(CheckpointError, match="there is no part 'params'"):
        load_network(spec(tmp_path, EDSR, weights=path, param_key="params"))
    net, remark = load_network(spec(tmp_path, {**EDSR, "num_block": 2}, weights=path, strict_load=False))
    assert remark == "10 of 14 weights loaded (strict_load: false)"
    assert torch.equal(net.conv_first.weight, original.conv_first.weight)
    path, _ = save(tmp_path, TOOLBOX["RIDNet"], "other.pth")
    with pytest.raises(CheckpointError, match="made for another network"):
        load_network(spec(tmp_path, EDSR, weights=path, strict_load=False))


def test_padding_is_cut_off_again(tmp_path):
    path, plain = save(tmp_path, EDSR)
    padded, _ = load_network(spec(tmp_path, EDSR, weights=path, pad_multiple=8))
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(padded(x), plain(x))
        y = padded(x[..., :13, :18])
        assert y.shape == (1, 3, 13, 18)
        assert torch.allclose(y[..., :6, :11], plain(x)[..., :6, :11], atol=1e-5)  # beyond the border's reach
        assert padded(torch.rand(1, 3, 2, 3)).shape == (1, 3, 2, 3)  # too small to be mirrored


def test_fingerprint_tells_what_the_result_depends_on(tmp_path, monkeypatch):
    path, _ = save(tmp_path, EDSR)
    other, _ = save(tmp_path, EDSR, "v.pth", seed=1)
    base = spec(tmp_path, EDSR, weights=path).fingerprint()
    assert base == spec(tmp_path, dict(reversed(EDSR.items())), weights=path).fingerprint()
    changed = [spec(tmp_path, EDSR, weights=other), spec(tmp_path, {**EDSR, "res_scale": 0.5}, weights=path)]
    for keys in ({"tile": 64}, {"precision": "bf16"}, {"pad_multiple": 4}, {"sizes": [64]}, {"context": 64}):
        changed.append(spec(tmp_path, EDSR, weights=path, **keys))
    assert len({base, *(s.fingerprint() for s in changed)}) == 8
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: the weights cannot be read"):
        spec(tmp_path, EDSR, weights="nowhere.pth").fingerprint()
    monkeypatch.setattr(networks, "canonical_hash", lambda content: content)
    assert spec(tmp_path, EDSR, weights=path).fingerprint()["restoring"] == [512, 32, "fp32", None, 0.95]
    assert "context" not in spec(tmp_path, EDSR, weights=path).fingerprint()
    assert spec(tmp_path, EDSR, weights=path, context=0).fingerprint()["context"] == 0


@pytest.mark.parametrize(("key", "named", "others"), [("sizes", [70], [[], [90]]), ("context", 80, [0, 120])])
def test_large_images_are_restored_as_the_weights_name_it(tmp_path, key, named, others):
    torch.manual_seed(0)
    original = build_network(TINY_NETWORK, "test").eval()
    weights = str(tmp_path / "w.safetensors")
    write_weights(weights, original.state_dict(), TINY_NETWORK, **{key: named})
    image = np.random.default_rng(0).integers(0, 256, (24, 200, 3), dtype=np.uint8)
    found = []
    for keys, value in (({}, named), ({"pad_multiple": 8}, named), *(({key: value}, value) for value in others)):
        chosen = spec(tmp_path, weights=weights, **keys)
        found.append(restore(load_network(chosen)[0], image, **vars(chosen.restoring)))
        np.testing.assert_array_equal(found[-1], restore(original, image, **{key: value}))
    assert (found[0] != found[2]).any()


def test_a_model_may_have_its_own_tile_and_the_cost_of_a_network_by_hand(tmp_path):
    model = ModelOptions("m", network=EDSR, untrained=True, tile=128)
    options = CompareOptions("c", [model], [SetOptions("s", lq=tmp_path)], tile=256, precision="bf16")
    found = spec_of(model, options).restoring
    assert (found.tile, found.overlap, found.precision) == (128, 32, "bf16")
    net, _ = load_network(spec(tmp_path, EDSR, untrained=True))
    counted = complexity(net, (16, 16))
    weights = 3 * 4 * 9 + 3 * (4 * 4 * 9) + 4 * 3 * 9  # first, two of the block and one behind it, last
    assert counted.multiply_adds == weights * 16 * 16
    assert counted.parameters == weights + 4 * 4 + 3
    options = spec(tmp_path, EDSR, untrained=True).restoring
    assert seconds(lambda image: restore_tensor(net, image, options), 16, torch.device("cpu")) > 0


def test_paths_begin_at_home_and_weights_may_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.full((64, 64, 3), 100, np.uint8))
    (tmp_path / "n.yml").write_text(yaml.safe_dump({"network_g": EDSR}))
    save(tmp_path, EDSR)
    build_network(TINY_NETWORK, "test").save_pretrained(tmp_path / "hub")
    models = [{"name": "file", "network": "~/n.yml", "weights": "~/w.pth"}, {"name": "hub", "weights": "~/hub"}]
    rendered = {"synthesize": {"input": "~/photos", "rain_types": ["drs"], "size": None}}
    content = option_dict("~/out", models, rendered, metrics=["psnr"])
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    assert cli.main(["compare", "-opt", str(tmp_path / "c.yml"), "--quiet"]) == 0
    for name in ("file", "hub"):
        assert (tmp_path / "out/pictures" / name / "s/drs/a_0.png").is_file()


def test_a_cost_that_could_not_be_measured_is_asked_for_again(tmp_path, monkeypatch):
    asked, spoilt, counts = [], {"complexity"}, {"complexity": Complexity(7, 9)}

    class Stub:
        def __init__(self, spec):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def receive(self):
            pass

        def call(self, what, size):
            asked.append(what)
            if what in spoilt:
                raise networks.NetworkError("too large")
            return {"peak": 2**20, "seconds": 0.5, "complexity": None, **counts}[what]

    monkeypatch.setattr(networks, "NetworkProcess", Stub)
    chosen = [spec(tmp_path, EDSR, untrained=True)]

    def measured():
        asked.clear()
        with Journal(tmp_path / "journal.jsonl") as journal:
            return networks.measure_costs(chosen, CostOptions(rounds=1), journal)

    for _ in range(2):
        costs, failures = measured()
        assert failures == {"m": "its multiply-adds cannot be counted: too large"}
        assert costs["m"] == {"peak_memory_mb": 1.0, "parameters": None, "multiply_adds": None, "latency_ms": 500.0}
    spoilt |= {"seconds"}  # nothing is asked of a network after that: what went wrong first is told
    costs, failures = measured()
    assert failures == {"m": "too large"} and costs == {"m": {"peak_memory_mb": 1.0}} and "complexity" not in asked
    spoilt.clear()
    for _ in range(2):
        assert measured() == ({"m": {**costs["m"], "parameters": 7, "multiply_adds": 9, "latency_ms": 500.0}}, {})
    assert asked == []
    counts.clear()  # as of an ONNX network
    chosen = [spec(tmp_path, EDSR, untrained=True, tile=64)]
    costs, failures = measured()
    assert not failures and (costs["m"]["parameters"], costs["m"]["latency_ms"]) == (None, 500.0)


def test_what_an_onnx_network_computes_is_not_counted_and_that_is_no_failure(tmp_path):
    net = OnnxNetwork.__new__(OnnxNetwork)
    torch.nn.Module.__init__(net)
    assert networks._requests(net, spec(tmp_path, EDSR, untrained=True))["complexity"](16) is None
    with networks.NetworkProcess(spec(tmp_path, EDSR, untrained=True)) as process:
        process.receive()
        assert process.call("complexity", 16).parameters > 0


OWN = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from {name}.parts import LEVELS

@ARCH_REGISTRY.register()
class Brighter_{name}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(1 / 255))

    def forward(self, x):
        return x + LEVELS * self.level
"""


@pytest.mark.parametrize("place", ["options", "work", "nets"])
def test_a_network_of_ones_own_is_compared(tmp_path, monkeypatch, capsys, place):
    """Named under ``imports:``, beside the option file, in the working directory, or beside the network's own file."""
    name = f"my_package_in_{place}"
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("options", "work", "nets", "lq", f"{place}/{name}"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    package = tmp_path / place / name
    (package / "my_net.py").write_text(OWN.format(name=name))
    cv2.imwrite(str(tmp_path / "lq/a.png"), np.full((16, 16, 3), 100, np.uint8))
    torch.save({"params": {"level": torch.tensor(1 / 255)}}, tmp_path / "w.pth")
    network = {"type": f"Brighter_{name}"}
    models = [{"name": "own", "network": network, "weights": str(tmp_path / "w.pth")}]
    sides = dict.fromkeys(("lq", "gt"), str(tmp_path / "lq"))
    content = option_dict(tmp_path / "out", models, sides, metrics=["psnr"], imports=[f"{name}.my_net"])
    if place == "nets":
        (tmp_path / "nets/n.yml").write_text(yaml.safe_dump({"network_g": network, "imports": content.pop("imports")}))
        content["models"][0]["network"] = str(tmp_path / "nets/n.yml")
    (tmp_path / "options/c.yml").write_text(yaml.safe_dump(content))
    for levels in (5, 7):  # changed code is another network, although weights and options are the same
        (package / "parts.py").write_text(f"LEVELS = {levels}\n")
        assert cli.main(["compare", "-opt", str(tmp_path / "options/c.yml"), "--quiet"]) == 0
        assert (cv2.imread(str(tmp_path / "out/pictures/own/s/a.png")) == 100 + levels).all()
    (package / "parts.py").write_text("LEVELS = None\n")
    assert cli.main(["compare", "-opt", str(tmp_path / "options/c.yml"), "--quiet"]) == 1
    assert f"({package}/my_net.py:13, in Brighter_{name}.forward)" in capsys.readouterr().err


def test_a_module_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "broken_net.py").write_text("import torch\nraise ValueError('no licence')\n")
    (tmp_path / "c.yml").write_text("name: c\nimports: [broken_net]\nmodels: [{name: a, weights: default}]\n"
                                    "test_sets: [{name: s, lq: x}]\n")  # fmt: skip
    with pytest.raises(OptionError, match=r"'broken_net': ValueError: no licence \(.*broken_net\.py:2\)"):
        load_options(tmp_path / "c.yml")
