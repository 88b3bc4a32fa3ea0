"""The three sizes of UniRain as keyword arguments. The option files in ``options/train`` say the same."""

from __future__ import annotations

from unirain_plugin.errors import OptionError, did_you_mean

_FULL: dict[str, object] = {
    "dim": 48,
    "num_blocks": [3, 6, 6, 6],
    "decoder_blocks": [2, 4, 4],
    "refinement_blocks": 4,
    "heads": [2, 2, 4, 8],
    "encoder_expansion": 5.0,
    "latent_expansion": 2.0,
    "decoder_expansion": 2.5,
    "refinement_expansion": 2.0,
    "encoder_moe": "soft",
    "latent_moe": "none",
    "decoder_moe": "hard",
    "num_experts": 3,
    "top_k": 1,
}

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
