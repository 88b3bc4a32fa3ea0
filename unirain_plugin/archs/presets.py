"""The three sizes of UniRain as keyword arguments. The option files in ``options/train`` say the same."""

from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.support.spec import plain

_NAMED = (
    *("dim", "num_blocks", "decoder_blocks", "refinement_blocks", "heads"),
    *("encoder_expansion", "latent_expansion", "decoder_expansion", "refinement_expansion"),
    *("encoder_moe", "latent_moe", "decoder_moe", "num_experts", "top_k"),
)
_FULL: dict[str, object] = {name: plain(getattr(NetworkOptions(), name)) for name in _NAMED}

PRESETS: dict[str, dict[str, object]] = {
    "UniRain": _FULL,
    "UniRain-S": {**_FULL, "dim": 24, "heads": [1, 2, 4, 8]},
    "UniRain-Tiny": {
        "dim": 16,
        "num_blocks": [1, 1, 1, 1],
        "decoder_blocks": [1, 1, 1],
        "refinement_blocks": 0,
        "heads": [1, 2, 4, 8],
        "encoder_expansion": 1.5,
        "latent_expansion": 1.5,
        "decoder_expansion": 1.5,
        "encoder_moe": "soft",
        "latent_moe": "soft",
        "decoder_moe": "hard",
        "widen_last": False,
        "num_experts": 3,
        "top_k": 1,
    },
}


def preset(name: str, **changes: object) -> dict[str, object]:
    """A preset's keyword arguments with ``changes``, for ``UniRain(**…)``; an OptionError for an unknown name."""
    if name not in PRESETS:
        raise OptionError(f"preset: unknown name {name!r}.{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    return {**PRESETS[name], **changes}


ABLATIONS: dict[str, dict[str, str]] = {
    "soft-soft": {"encoder_moe": "soft", "decoder_moe": "soft"},
    "hard-hard": {"encoder_moe": "hard", "latent_moe": "hard", "decoder_moe": "hard"},
    "soft-hard": {"encoder_moe": "soft", "decoder_moe": "hard"},
    "hard-soft": {"encoder_moe": "hard", "latent_moe": "hard", "decoder_moe": "soft"},
    "dense": {"encoder_moe": "none", "latent_moe": "none", "decoder_moe": "none"},
}
"""The paper's ablations, encoder-decoder, as changes of a preset; all at equal multiply-adds. The latent level goes
with the encoder where it has experts."""
