"""``save_pretrained`` and ``from_pretrained``: all options are recorded, weights and results come back to the bit."""

import json

import pytest
import torch

from unirain_plugin import load
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import CheckpointError, OptionError

TINY = {
    "dim": 8, "num_blocks": [1, 1], "decoder_blocks": [1], "heads": [1, 1], "refinement_blocks": 0, "num_experts": 2,
}  # fmt: skip


@pytest.fixture()
def saved(tmp_path):
    network = UniRain(**TINY).eval()
    network.restore_sizes, network.restore_context = (640, 427), 384
    network.save_pretrained(tmp_path / "model")
    return network, tmp_path / "model"


def test_the_network_comes_back(saved):
    network, folder = saved
    x = torch.rand(1, 3, 24, 20)
    for again in (UniRain.from_pretrained(folder), load(folder, device="cpu")):
        assert again.options == network.options and not again.training
        assert (again.restore_sizes, again.restore_context) == ((640, 427), 384)
        with torch.no_grad():
            assert torch.equal(again(x), network(x))


def test_every_option_and_a_card_are_written(saved):
    network, folder = saved
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config.keys() == {"type", "sizes", "context", *UniRain.OPTIONS}
    assert config["dim"] == 8 and config["encoder_moe"] == "soft"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: unirain_plugin\n") and "| `num_experts` | 2 |" in card
    (folder / "README.md").write_text("mine")
    network.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, CheckpointError, "holds no config.json"),
        ("{", CheckpointError, "config.json: is no JSON object"),
        ('{"type": "SwinIR"}', CheckpointError, "names the network 'SwinIR'; expected 'UniRain'"),
        ('{"type": "UniRain", "dimm": 8}', OptionError, "Did you mean 'dim'"),
        ('{"type": "UniRain", "dim": 8}', CheckpointError, "does not fit this UniRain"),
    ],
)
def test_what_does_not_fit_is_told(saved, content, error, says):
    _, folder = saved
    path = folder / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(error, match=says):
        UniRain.from_pretrained(folder)


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder with a config"):
        UniRain.from_pretrained(tmp_path / "none")
