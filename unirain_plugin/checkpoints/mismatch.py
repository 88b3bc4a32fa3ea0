"""Why a checkpoint does not fit a network, in words: which keys, which shapes, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from unirain_plugin.errors import CheckpointError

_SHOWN = 5


def convert(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Unwrap a checkpoint and strip the prefixes of other programs from its keys.

    Args:
        checkpoint: What ``torch.load`` returned: weights by key, possibly under one of :data:`WRAPPERS`.

    Returns:
        Weights by plain key, for ``load_state_dict``.
    """
    for name in WRAPPERS:
        if isinstance(checkpoint.get(name), Mapping):
            return convert(checkpoint[name])
    state = dict(checkpoint)
    for prefix in PREFIXES * 2:
        if state and all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def describe(state: Mapping[str, object]) -> dict[str, object]:
    """The constructor options of UniRain that the shapes of its weights tell.

    ``soft`` and ``hard`` mixtures have the same weights, so the kind of a mixture is not among them.
    """
    found: dict[str, object] = {}
    shapes = {key: tuple(value.shape) for key, value in state.items() if hasattr(value, "shape")}
    if len(shapes.get("embed.weight", ())) == 4:
        found["dim"], found["in_channels"] = shapes["embed.weight"][:2]
    for option, stage in (("num_blocks", "encoder"), ("decoder_blocks", "decoder")):
        numbers = [re.match(rf"{stage}\.(\d+)\.(\d+)\.", key) for key in shapes]
        pairs = {(int(m[1]), int(m[2])) for m in numbers if m}
        if pairs:
            levels = max(level for level, _ in pairs) + 1
            found[option] = [sum(level == wanted for level, _ in pairs) for wanted in range(levels)]
    refinement = {m[1] for m in (re.match(r"refinement\.(\d+)\.", key) for key in shapes) if m}
    found["refinement_blocks"] = len(refinement)
    experts = [shape[0] for key, shape in shapes.items() if key.endswith("feed_forward.experts.expand")]
    if experts:
        found["num_experts"] = experts[0]
    return found


def check_fit(network: nn.Module, state: Mapping[str, object], strict: bool = True) -> None:
    """Raise if ``state`` cannot be loaded into ``network``.

    Args:
        network: The network as built.
        state: Weights by key.
        strict: Also demand that no key is missing or left over.

    Raises:
        CheckpointError: Names the missing, unexpected and mis-shaped keys and what to do about them.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state] if strict else []
    unexpected = [key for key in state if key not in own] if strict else []
    misshaped = [
        f"{key} (checkpoint {tuple(state[key].shape)}, network {tuple(own[key].shape)})"
        for key in own
        if key in state and hasattr(state[key], "shape") and state[key].shape != own[key].shape
    ]
    if not (missing or unexpected or misshaped):
        return
    lines = [f"The checkpoint does not fit this {type(network).__name__}."]
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshaped)):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            lines.append(f"  {len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}")
    raise CheckpointError("\n".join([*lines, f"  What to do: {_advice(own, state)}"]))


def _advice(own: Mapping[str, Tensor], state: Mapping[str, object]) -> str:
    for name in WRAPPERS:
        if isinstance(state.get(name), Mapping):
            return (
                f"the weights lie under '{name}'; set path.param_key_g: {name}, or load "
                "unirain_plugin.checkpoints.weights.convert(checkpoint)."
            )
    converted = convert(state)
    if set(converted) != set(state):
        return (
            "the keys carry a prefix of another program; load unirain_plugin.checkpoints.weights.convert(checkpoint)."
        )
    if not set(own) & set(state):
        return "no key agrees: this is the checkpoint of another network; check path.pretrain_network_g."
    mine, theirs = describe(own), describe(state)
    other = [f"{key}: {value}" for key, value in theirs.items() if mine.get(key) != value]
    if other:
        return f"set in network_g what the checkpoint was made with: {'; '.join(other)}."
    return (
        "it was made with other options of network_g (encoder_moe, latent_moe, decoder_moe, the expansions, heads or "
        "top_k); use the option file it was trained with."
    )
