"""UniRain for programs built on spandrel (extra ``spandrel``).

Once, before spandrel's ``ModelLoader`` is used: ``unirain_plugin.spandrel_support.install()``. spandrel sees names and
shapes only, from which soft and hard mixtures cannot be told apart: safetensors files of ours carry the network's
options in a tensor; other files are recognised if they are one of our presets.
"""

from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, SizeRequirements, StateDict
from torch import Tensor

from unirain_plugin.checkpoints.weights import ARCHITECTURE, WeightsFile, unpack_architecture
from unirain_plugin.errors import CheckpointError
from unirain_plugin.inference.loading import build_network, fill, guess_architecture

_SIGNS = ("embed.weight", "output.weight", "fuse.0.skip.weight", "encoder.0.0.attention.temperature")


class UniRainArchitecture(Architecture):
    """Recognises and loads UniRain's state dicts."""

    def __init__(self) -> None:
        super().__init__(id="UniRain", detect=lambda state: all(sign in state for sign in _SIGNS))

    def load(self, state_dict: StateDict) -> ImageModelDescriptor:
        """Build the network and describe it; a CheckpointError if neither the file nor the presets tell its options."""
        state: dict[str, Tensor] = dict(state_dict)
        embedded = state.pop(ARCHITECTURE, None)
        options = unpack_architecture(embedded, "state dict") if embedded is not None else guess_architecture(state)
        if options is None:
            raise CheckpointError(
                "This UniRain state dict does not tell its network's options and is none of the presets; write it as "
                "safetensors with unirain_plugin's scripts/export.py."
            )
        net = build_network(options, "state dict")
        fill(net, WeightsFile("state dict", state, options), "UniRain")
        mixtures = {net.options.encoder_moe, net.options.latent_moe, net.options.decoder_moe}
        return ImageModelDescriptor(
            net.eval(),
            state,
            architecture=self,
            purpose="Restoration",
            tags=[f"{net.options.dim}dim", f"{net.options.num_experts}experts"] if mixtures != {"none"} else [],
            supports_half=False,  # autocast keeps routing and norms in float32; all-half weights would not
            supports_bfloat16=True,
            scale=1,
            input_channels=net.options.in_channels,
            output_channels=net.options.out_channels,
            size_requirements=SizeRequirements(),
            tiling="discouraged",  # attention and routing look at the whole image
        )


def install() -> tuple[str, ...]:
    """Add UniRain to spandrel's main registry; returns the ids of what this call has added."""
    if any(support.architecture.id == "UniRain" for support in MAIN_REGISTRY.architectures()):
        return ()
    MAIN_REGISTRY.add(ArchSupport.from_architecture(UniRainArchitecture()))
    return ("UniRain",)
