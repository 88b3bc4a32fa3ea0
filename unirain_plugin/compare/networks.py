"""The networks of a comparison: how each is built and loaded, and what its results depend on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unirain_plugin.compare.options import DEFAULT_WEIGHTS, CompareOptions, ModelOptions
from unirain_plugin.errors import CheckpointError
from unirain_plugin.support.files import canonical_hash
from unirain_plugin.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unirain_plugin.inference.restoring import RestoreOptions


@dataclass(frozen=True)
class NetworkSpec:
    """One network, small enough to be sent to another process.

    Attributes:
        options: Its section of the option file.
        tile: See :class:`CompareOptions`, as the further ones.
        overlap: Pixels that tiles share.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        sizes: Longer edges at which larger pictures are restored as well; None: what the weights' file names.
        device: Where it runs.
        threads: CPU threads, or None for torch's choice.
    """

    options: ModelOptions
    tile: int
    overlap: int
    precision: str
    sizes: list[int] | None
    device: str
    threads: int | None

    @property
    def weights(self) -> Path | None:
        """The file of weights, or None for an untrained network."""
        from unirain_plugin.inference.loading import DEFAULT_WEIGHTS as SHIPPED  # torch takes a second to import

        given = self.options.weights
        return None if given is None else SHIPPED if given == DEFAULT_WEIGHTS else Path(given).expanduser()

    def restore_options(self) -> RestoreOptions:
        """How pictures are restored.

        Raises:
            OptionError: If tile, overlap or precision are out of range.
        """
        from unirain_plugin.inference.restoring import RestoreOptions

        sizes = None if self.sizes is None else tuple(self.sizes)
        return RestoreOptions(self.tile, self.overlap, self.precision, sizes=sizes)

    def fingerprint(self) -> str:
        """Hash of all that a restored picture depends on beside its input.

        Raises:
            CheckpointError: If the weights are missing.
        """
        from unirain_plugin.inference.loading import experiment_network
        from unirain_plugin.inference.restoring import CONFIDENCE

        o = self.options
        network: Any = Path(o.network).read_text("utf-8") if isinstance(o.network, str) else o.network
        if network is None and self.weights is not None:
            network = experiment_network(self.weights)
        return canonical_hash(
            {
                "version": __version__,
                "weights": self.weights and file_hash(self.weights),
                "network": network,
                "loading": [o.param_key, o.strict_load, o.pad_multiple],
                "restoring": [self.tile, self.overlap, self.precision, self.sizes, CONFIDENCE],
            }
        )


def spec_of(model: ModelOptions, options: CompareOptions) -> NetworkSpec:
    """The network of a model's section; what it leaves out is as for all."""
    chosen = {
        key: getattr(options, key) if getattr(model, key) is None else getattr(model, key)
        for key in ("tile", "overlap", "precision", "sizes")
    }
    return NetworkSpec(model, **chosen, device=options.device, threads=options.cost.threads)


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file of weights.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error.strerror or error}.") from None


def load_network(spec: NetworkSpec) -> tuple[nn.Module, str]:
    """Build the network and load its weights.

    Returns:
        The network, ready to restore, and a remark (empty in the usual case).

    Raises:
        CheckpointError: If the weights are missing, broken or made for another network.
        OptionError: If the network or the device is wrong.
    """
    import torch

    from unirain_plugin.inference.loading import build_network, choose_device, load, network_section

    o, remark = spec.options, ""
    where = f"models: {o.name}: network"
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    spec.restore_options().check_device(device)
    if o.untrained or not o.strict_load:
        section = network_section(Path(o.network)) if isinstance(o.network, str) else o.network
        torch.manual_seed(0)
        if section is None:
            raise CheckpointError(f"{where}: strict_load: false needs the network's `type` and arguments.")
        net = build_network(_plain(section), where)
        if not o.untrained:
            remark = _fill_partly(net, spec)
        net = net.eval().requires_grad_(False).to(device)
    else:
        network = _plain(o.network) if isinstance(o.network, Mapping) else o.network
        net = load(spec.weights, network, device, o.param_key)
    multiple = o.pad_multiple or int(net.architecture.get("window_size", 1))
    return (_padded(net, multiple) if multiple > 1 else net), remark


def _fill_partly(net: nn.Module, spec: NetworkSpec) -> str:
    """Load the weights that fit by name and shape; the remark."""
    from unirain_plugin.checkpoints.weights import read_weights
    from unirain_plugin.inference.loading import fill

    file = read_weights(spec.weights, spec.options.param_key)
    wanted = net.state_dict()
    fitting = {k: v for k, v in file.state_for(wanted).items() if k in wanted and wanted[k].shape == v.shape}
    if not fitting:
        fill(net, file, str(net.architecture["type"]))  # tells which keys differ
    net.load_state_dict(fitting, strict=False)
    return "" if len(fitting) == len(wanted) else f"{len(fitting)} of {len(wanted)} weights loaded (strict_load: false)"


def _padded(net: nn.Module, multiple: int) -> nn.Module:
    from torch import nn
    from torch.nn import functional as F

    class Padded(nn.Module):
        """Pads at the right and bottom to a multiple, and cuts the result back."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.architecture = net.architecture
            self.restore_sizes = getattr(net, "restore_sizes", ())

        def forward(self, x: Tensor) -> Tensor:
            height, width = x.shape[2:]
            bottom, right = -height % multiple, -width % multiple
            mode = "reflect" if bottom < height and right < width else "replicate"
            return self.net(F.pad(x, (0, right, 0, bottom), mode))[..., :height, :width]

    return Padded().eval()


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in section.items()}
