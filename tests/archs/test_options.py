import pytest
import torch

from unirain_plugin.archs.presets import preset
from unirain_plugin.archs.unirain_arch import UniRain
from unirain_plugin.errors import OptionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 4}, "top_k: got 4 with num_experts 3; allowed: 1 to 3"),
        ({"top_k": 0}, "top_k: found 0; expected an integer ≥ 1"),
        ({"dim": 0}, "dim: found 0; expected an integer from 1 to 4096"),
        ({"dim": True}, "dim: found true"),
        ({"dim": 50, "heads": [1, 3, 4, 8]}, "heads: got 3 for level 2 with 100 channels .*a divisor of 100"),
        ({"num_blocks": [1, 1, 1]}, r"heads: got 4 entries .* for the 3 levels of num_blocks"),
        ({"decoder_blocks": [1, 1]}, r"decoder_blocks: got 2 entries .* give 3"),
        ({"heads": [1, 2]}, "heads: got 2 entries"),
        ({"num_blocks": "4666"}, "num_blocks: found the text '4666'; expected a list, each an integer ≥ 0"),
        ({"num_blocks": [1, 1, -1, 1]}, r"num_blocks\[2\]: found -1; expected an integer ≥ 0"),
        ({"num_blocks": [4], "heads": [1], "decoder_blocks": []}, "num_blocks: got 1 entries"),
        ({"num_blocks": [0] * 7, "heads": [1] * 7, "decoder_blocks": [0] * 6}, "got 7 entries .*allowed: 2 to 6"),
        (
            {"encoder_moe": "sfot"},
            "encoder_moe: found the text 'sfot'; expected one of soft, hard, none. Did you mean 'soft'",
        ),
        ({"decoder_moe": None}, r"decoder_moe: found nothing \(null\); expected one of soft, hard, none"),
        ({"hard_routing": "pixel"}, "hard_routing: found the text 'pixel'; expected one of image, window"),
        ({"soft_routing": "pixels"}, "soft_routing: found the text 'pixels'.*Did you mean 'pixel'"),
        ({"window": 2}, "window: found 2; expected an integer from 4 to 1024"),
        ({"encoder_expansion": 0}, "encoder_expansion: found 0; expected a number > 0"),
        ({"latent_expansion": float("nan")}, "latent_expansion: found nan"),
        ({"router_noise": -0.1}, "router_noise: found -0.1; expected a number ≥ 0"),
        ({"use_checkpoint": "yes"}, "use_checkpoint: found the text 'yes'; expected true or false"),
        ({"out_channels": 1}, "out_channels: got 1 with in_channels 3"),
        ({"num_expert": 3}, "UniRain.num_expert: unknown key. Did you mean 'num_experts'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        UniRain(**options)


def test_all_wrong_options_are_named_at_once_and_unknown_presets_too():
    with pytest.raises(OptionError) as caught:
        UniRain(dim=0, top_k=9, encoder_moe="sfot", out_channels=1, num_expert=3, decoder_blocks=[1])
    named = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    options = ("dim", "encoder_moe", "num_expert", "out_channels", "decoder_blocks")
    assert named == [f"UniRain.{name}" for name in options]  # top_k's highest value hangs on num_experts
    with pytest.raises(OptionError, match=r"unknown name 'UniRain-M'.*Known: UniRain, UniRain-S, UniRain-Tiny"):
        preset("UniRain-M")


def test_an_input_of_another_shape_is_refused(small):
    for shape in ((1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8), (0, 3, 8, 8), (1, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"got an input of shape .* expected \(N, 3, H, W\)"):
            small()(torch.rand(shape))
