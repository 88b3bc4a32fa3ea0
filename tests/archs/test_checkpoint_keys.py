"""Weights that fit and do not fit; ``save_pretrained`` and ``from_pretrained``, which record all options."""

import json

import pytest
import torch

from unirain_plugin import load
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.checkpoints.weights import convert, describe
from unirain_plugin.errors import CheckpointError, OptionError


def failure(net, state, strict=True):
    with pytest.raises(CheckpointError) as caught:
        net.load_state_dict(state, strict=strict)
    return str(caught.value)


def test_own_weights_load_and_missing_and_left_over_keys_are_named(small):
    net, other = small(), small()
    assert net.load_state_dict(other.state_dict()).missing_keys == []
    assert "embed.weight" not in net.load_state_dict({"embed.weight": net.embed.weight}, strict=False).missing_keys
    assert "1 wrong shape: embed.weight" in failure(net, {"embed.weight": torch.zeros(2, 3, 3, 3)}, strict=False)
    state = net.state_dict()
    state["embed.wieght"] = state.pop("embed.weight")
    message = failure(net, state)
    assert "1 missing: embed.weight" in message and "1 unexpected: embed.wieght" in message


def test_other_options_and_networks_are_recognised_from_the_shapes(small):
    message = failure(small(), small(dim=12).state_dict())
    assert "wrong shape: embed.weight (checkpoint (12, 3, 3, 3), network (6, 3, 3, 3))" in message
    assert "set in network_g what the checkpoint was made with: dim: 12" in message
    message = failure(small(), small(num_blocks=[1, 2, 1], num_experts=4).state_dict())
    assert "num_blocks: [1, 2, 1]" in message
    assert "num_experts: 4" in message
    assert "use the option file it was trained with" in failure(small(), small(latent_moe="soft").state_dict())
    assert "the checkpoint of another network" in failure(small(), {"conv.weight": torch.zeros(1)})
    found = describe(small().state_dict())
    assert found == {
        "dim": 6, "in_channels": 3, "num_blocks": [1, 1, 1], "decoder_blocks": [1, 1], "refinement_blocks": 1,
        "num_experts": 3,
    }  # fmt: skip


def test_prefixes_and_wrappers_are_explained_and_converted(small):
    net = small()
    state = net.state_dict()
    prefixed = {f"module.{key}": value for key, value in state.items()}
    assert "convert(checkpoint)" in failure(net, prefixed)
    assert "set path.param_key_g: params_ema" in failure(net, {"params_ema": state})
    for wrapped in (prefixed, {"params": state}, {"state_dict": {f"net_g.module.{k}": v for k, v in state.items()}}):
        net.load_state_dict(convert(wrapped))


def test_the_toolbox_reports_the_same(small, tmp_path):
    from basicsr.models.base_model import BaseModel

    path = tmp_path / "net.pth"
    torch.save({"params": small(dim=12).state_dict()}, path)
    model = BaseModel({"num_gpu": 0, "is_train": False, "dist": False})
    with pytest.raises(CheckpointError, match="dim: 12"):
        model.load_network(small(), str(path))


TINY = {
    "dim": 8, "num_blocks": [1, 1], "decoder_blocks": [1], "heads": [1, 1], "refinement_blocks": 0, "num_experts": 2,
}  # fmt: skip


@pytest.fixture()
def saved(tmp_path):
    network = UniRain(**TINY).eval()
    network.restore_sizes, network.restore_context = (640, 427), 384
    network.save_pretrained(tmp_path / "model")
    return network, tmp_path / "model"


def test_the_network_comes_back_and_every_option_and_a_card_are_written(saved):
    network, folder = saved
    x = torch.rand(1, 3, 24, 20)
    for again in (UniRain.from_pretrained(folder), load(folder, device="cpu")):
        assert again.options == network.options and not again.training
        assert (again.restore_sizes, again.restore_context) == ((640, 427), 384)
        with torch.no_grad():
            assert torch.equal(again(x), network(x))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config.keys() == {"type", "sizes", "context", *UniRain.OPTIONS}
    assert config["dim"] == 8 and config["encoder_moe"] == "soft"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: unirain_plugin\n") and "| `num_experts` | 2 |" in card
    (folder / "README.md").write_text("mine")
    network.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_what_does_not_fit_is_told(saved):
    _, folder = saved
    for content, error, says in (
        ("{", CheckpointError, "config.json: is no JSON object"),
        ('{"type": "SwinIR"}', CheckpointError, "names the network 'SwinIR'; expected 'UniRain'"),
        ('{"type": "UniRain", "dimm": 8}', OptionError, "Did you mean 'dim'"),
        ('{"type": "UniRain", "dim": 8}', CheckpointError, "does not fit this UniRain"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(error, match=says):
            UniRain.from_pretrained(folder)
    (folder / "config.json").unlink()
    for path, says in ((folder, "holds no config.json"), (folder / "none", "is no folder with a config")):
        with pytest.raises(CheckpointError, match=says):
            UniRain.from_pretrained(path)
