import pytest

from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.archs.presets import preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 4}, "top_k: got 4 with num_experts 3; allowed: 1 to 3"),
        ({"top_k": 0}, "top_k: got 0; allowed: an integer ≥ 1"),
        ({"dim": 0}, "dim: got 0; allowed: an integer from 1"),
        ({"dim": True}, "dim: got True"),
        ({"dim": 50, "heads": [1, 3, 4, 8]}, "heads: got 3 for level 2 with 100 channels .*a divisor of 100"),
        ({"num_blocks": [1, 1, 1]}, r"heads: got 4 entries .* for the 3 levels of num_blocks"),
        ({"decoder_blocks": [1, 1]}, r"decoder_blocks: got 2 entries .* give 3"),
        ({"heads": [1, 2]}, "heads: got 2 entries"),
        ({"num_blocks": "4666"}, "num_blocks: got '4666'; allowed: a list of integers"),
        ({"num_blocks": [1, 1, -1, 1]}, "num_blocks: got"),
        ({"num_blocks": [4], "heads": [1], "decoder_blocks": []}, "num_blocks: got 1 entries"),
        ({"encoder_moe": "sfot"}, "encoder_moe: got 'sfot'; allowed: soft, hard, none. Did you mean 'soft'"),
        ({"decoder_moe": None}, "decoder_moe: got None; allowed: soft, hard, none"),
        ({"hard_routing": "pixel"}, "hard_routing: got 'pixel'; allowed: image, window"),
        ({"soft_routing": "pixels"}, "soft_routing: got 'pixels'.*Did you mean 'pixel'"),
        ({"window": 2}, "window: got 2; allowed: an integer from 4 to 1024"),
        ({"encoder_expansion": 0}, "encoder_expansion: got 0; allowed: a number > 0"),
        ({"latent_expansion": float("nan")}, "latent_expansion: got nan"),
        ({"router_noise": -0.1}, "router_noise: got -0.1; allowed: a number ≥ 0"),
        ({"use_checkpoint": "yes"}, "use_checkpoint: got 'yes'; allowed: true or false"),
        ({"out_channels": 1}, "out_channels: got 1 with in_channels 3"),
        ({"num_expert": 3}, "unknown option 'num_expert'. Did you mean 'num_experts'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        UniRain(**options)


def test_every_documented_option_exists():
    import dataclasses
    import re

    documented = re.findall(r"^        (\w+): ", NetworkOptions.__doc__, re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(NetworkOptions)]


def test_unknown_preset():
    with pytest.raises(OptionError, match=r"unknown name 'UniRain-M'.*Known: UniRain, UniRain-S, UniRain-Tiny"):
        preset("UniRain-M")


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8), (1, 4, 8, 8)])
def test_an_input_of_another_shape_is_refused(small, shape):
    import torch

    with pytest.raises(ValueError, match=r"got an input of shape .* expected \(N, 3, H, W\)"):
        small()(torch.rand(shape))
