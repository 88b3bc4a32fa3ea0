"""Weights that cannot be loaded: one message with the file and the reason instead of a traceback."""

import pytest
import torch
from basicsr.models import sr_model
from basicsr.models.base_model import BaseModel
from safetensors.torch import save_file
from torch import nn

from unirain_plugin.errors import CheckpointError, OptionError
from unirain_plugin.runs.remedies import explain_building_errors, explain_loading_errors
from unirain_plugin.runs.run import parse_arguments
from unirain_plugin.toolbox import replaced


def load(path, network=None, **more):
    model = BaseModel({"num_gpu": 0, "is_train": False})
    with replaced(explain_loading_errors()):
        model.load_network(network or nn.Linear(2, 3), str(path), **more)


@pytest.fixture()
def weights(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"params": nn.Linear(2, 3).state_dict()}, path)
    return path


def assert_loads(path, source, **more):
    """The weights of a file become those of a network."""
    network = nn.Linear(2, 3)
    load(path, network, **more)
    assert all(torch.equal(value, source[name]) for name, value in network.state_dict().items())


def test_weights_that_fit_and_others(weights):
    assert_loads(weights, torch.load(weights)["params"])
    with pytest.raises(CheckpointError, match=r"into Sequential: .*Missing key") as caught:
        load(weights, nn.Sequential(*(nn.Linear(2, 3) for _ in range(9))))
    assert "\n" not in str(caught.value)
    torch.save({"net": {}}, weights)
    with pytest.raises(CheckpointError, match=r"it has no entry 'params' \(path: param_key_g\)"):
        load(weights)


def test_safetensors_and_checkpoints_of_other_programs(tmp_path):
    source, path = nn.Linear(2, 3).state_dict(), tmp_path / "w.safetensors"
    save_file(source, path)
    assert_loads(path, source, param_key="params_ema")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: these weights cannot be loaded into Sequential: "):
        load(path, nn.Sequential(nn.Linear(4, 5)))
    for wrap in ("model", "state_dict", "generator"):
        torch.save({wrap: {f"module.{k}": v for k, v in source.items()}, "epoch": 3}, tmp_path / "w.pth")
        assert_loads(tmp_path / "w.pth", source)
        with pytest.raises(CheckpointError, match=r"it has no entry 'net' \(path: param_key_g\)"):
            load(tmp_path / "w.pth", param_key="net")


def test_files_that_are_no_checkpoint_truncated_or_damaged(weights):
    whole = weights.read_bytes()
    for content, told in (
        (b"garbage", "it is no checkpoint"),
        (b"", "it is no checkpoint"),
        (b"PK\x03\x04" + bytes(50), "into Linear: "),
        (whole[:300], "into Linear: "),
    ):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=told) as caught:
            load(weights)
        assert str(caught.value).startswith(f"{weights}: these weights cannot be loaded into Linear: ")
    weights.write_bytes(whole)
    data = bytearray(whole)
    data[data.index(torch.load(weights)["params"]["weight"].numpy().tobytes())] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"net\.pth: the file of weights is damaged \(record "):
        load(weights)


def test_what_a_constructor_refuses_is_told_without_a_traceback(tmp_path):
    for builder, opt, told in (
        ("build_network", {"type": "UniRain", "dim": 0}, "dim"),
        ("build_network", {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "upscale": 5},
         r"^network_g: EDSR cannot be built from its options: scale 5 .*arch_util\.py:\d+, in Upsample\.__init__\)\.$"),
        ("build_loss", {"type": "L1Loss", "reduction": "all"},
         r"^train: L1Loss cannot be built from its options: Unsupported reduction mode: all"),
    ):  # fmt: skip
        with replaced(*explain_building_errors()), pytest.raises(OptionError, match=told):
            getattr(sr_model, builder)(opt)
    with pytest.raises(OptionError, match="this is a folder; expected a YAML file"):
        parse_arguments(["-opt", str(tmp_path)], is_train=True)
