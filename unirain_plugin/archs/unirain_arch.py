"""The UniRain network (paper §4), registered as ``UniRain``."""

import sys
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unirain_plugin.archs.blocks import Conv3x3, Downsample, Fuse, TransformerBlock, Upsample, crop, pad_to_multiple
from unirain_plugin.archs.kernels import wants_slow_bfloat16
from unirain_plugin.archs.mixtures import RoutingRecord, auxiliary_losses
from unirain_plugin.archs.options import NetworkOptions
from unirain_plugin.archs.pretrained import Pretrained
from unirain_plugin.checkpoints.weights import check_fit
from unirain_plugin.errors import OptionError
from unirain_plugin.support.spec import parse_section
from unirain_plugin.toolbox import after_import, registries


@registries().ARCH_REGISTRY.register()
class UniRain(Pretrained, nn.Module):
    """Four-level encoder-decoder transformer with soft mixtures of experts in the encoder and hard ones in the decoder.

    The output is the input plus a predicted correction. After a forward pass :meth:`auxiliary_losses` and
    :meth:`routing_statistics` tell about its routing. Options are those of
    :class:`~unirain_plugin.archs.options.NetworkOptions`; an OptionError names every wrong one.
    """

    OPTIONS = frozenset(field.name for field in fields(NetworkOptions))
    """The constructor's keywords."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = opt = parse_section(NetworkOptions, options, "UniRain")
        self._records: dict[str, RoutingRecord] = {}
        levels = len(opt.num_blocks)
        self.stride = 2 ** (levels - 1)
        self.embed = Conv3x3(opt.in_channels, opt.dim)
        kinds = [opt.encoder_moe] * (levels - 1) + [opt.latent_moe]
        expansions = [opt.encoder_expansion] * (levels - 1) + [opt.latent_expansion]
        self.encoder = nn.ModuleList(
            self._stage(opt.channels(i), i, opt.num_blocks[i], kinds[i], expansions[i]) for i in range(levels)
        )
        self.down = nn.ModuleList(Downsample(opt.channels(i)) for i in range(levels - 1))
        self.up = nn.ModuleList(Upsample(opt.channels(i)) for i in range(levels - 1))
        widths = [opt.channels(i) for i in range(levels - 1)]
        widths[0] *= 2 if opt.widen_last else 1
        self.fuse = nn.ModuleList(Fuse(opt.channels(i), widths[i]) for i in range(levels - 1))
        self.decoder = nn.ModuleList(
            self._stage(widths[i], i, opt.decoder_blocks[i], opt.decoder_moe, opt.decoder_expansion)
            for i in range(levels - 1)
        )
        self.refinement = self._stage(widths[0], 0, opt.refinement_blocks, "none", opt.refinement_expansion)
        self.output = Conv3x3(widths[0], opt.out_channels)
        # Our choice: a new network starts near the identity, so that short trainings need not first repair the image.
        with torch.no_grad():
            self.output.weight.mul_(0.1)

    def _stage(self, channels: int, level: int, blocks: int, kind: str, expansion: float) -> nn.ModuleList:
        heads = self.options.heads[level]
        return nn.ModuleList(TransformerBlock(channels, heads, kind, expansion, self.options) for _ in range(blocks))

    def forward(self, lq: Tensor) -> Tensor:
        """Restore images ``(N, C, H, W)`` of any H, W ≥ 1, RGB in [0, 1], to the same shape, not clamped.

        Under bfloat16 autocast on a CPU without instructions for it all is computed in float32. An OptionError for
        another number of axes or channels, or an empty image.
        """
        channels = self.options.in_channels
        if lq.ndim != 4 or lq.shape[1] != channels or 0 in lq.shape:
            expected = f"expected (N, {channels}, H, W) with N, H, W ≥ 1 (in_channels is {channels})"
            raise OptionError(f"UniRain: got an input of shape {tuple(lq.shape)}; {expected}.")
        if wants_slow_bfloat16(lq):
            with torch.autocast("cpu", enabled=False):
                return self.forward(lq)
        height, width = lq.shape[2:]
        padded = pad_to_multiple(lq, self.stride)
        records: dict[str, RoutingRecord] = {}
        x = self.embed(padded.permute(0, 2, 3, 1).contiguous())  # else every map of level 1 has the other layout
        skips = []
        for level, stage in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.down[level - 1](x)
            x = self._run(stage, x, f"encoder{level + 1}" if level < len(self.down) else "latent", records)
        for level in reversed(range(len(self.decoder))):
            x = self.fuse[level](skips.pop(), self.up[level](x))
            x = self._run(self.decoder[level], x, f"decoder{level + 1}", records)
        x = self.output(self._run(self.refinement, x, "refinement", records)).permute(0, 3, 1, 2)
        # The flag itself: torch.compile before 2.15 takes is_exporting() for true, and the records would be lost.
        if not getattr(torch.compiler, "_is_exporting_flag", False):
            self._records = records
        return crop(padded + x, height, width)

    def _run(self, stage: nn.ModuleList, x: Tensor, name: str, records: dict[str, RoutingRecord]) -> Tensor:
        for number, block in enumerate(stage):
            if self.options.use_checkpoint and torch.is_grad_enabled():
                x, record = checkpoint(block, x, use_reentrant=False)
            else:
                x, record = block(x)
            if record is not None:
                records[f"{name}.{number}"] = record
        return x

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Unweighted scalars ``load_balance`` and ``z_loss`` of the last forward; with gradients a collective."""
        return auxiliary_losses(self._records)

    def routing_statistics(self) -> dict[str, Tensor]:
        """Layer name (``encoder1.0``, …) → ``(N, num_experts)`` share of use in the last forward; rows sum to 1."""
        return {name: record.share_of_use() for name, record in self._records.items()}

    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False) -> object:
        """As in torch, but a CheckpointError says which keys (but ``architecture``) do not fit, and what to do."""
        state_dict = {key: value for key, value in state_dict.items() if key != "architecture"}
        check_fit(self, state_dict, strict)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles leave the last forward's records behind: they hold parts of its graph."""
        return {**super().__getstate__(), "_records": {}}


def register_in_mmengine(network: type[nn.Module]) -> None:
    """Register a class in mmengine's ``MODELS``, now or once somebody imports it. Safe to call again.

    OpenMMLab configs make the name known by ``custom_imports = dict(imports=['unirain_plugin.archs.unirain_arch'])``.
    """
    name = "mmengine.registry"
    after_import(name, lambda: sys.modules[name].MODELS.register_module(network.__name__, True, network))


register_in_mmengine(UniRain)
