"""A network as a folder of the form that model hubs expect: ``config.json``, ``model.safetensors``, ``README.md``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Self

from unirain_plugin.checkpoints.weights import read_weights, write_weights
from unirain_plugin.errors import CheckpointError
from unirain_plugin.support.files import write_whole

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_CARD = """\
---
library_name: unirain_plugin
pipeline_tag: image-to-image
tags: [image-restoration, deraining]
---
# {name}

Removes rain from images: RGB in [0, 1], (N, {channels}, H, W) of any size. {parameters:.2f} M parameters.

```python
from unirain_plugin import load, restore

clean = restore(load("FOLDER"), rainy)  # rainy: (H, W, 3) uint8 RGB
```

What it was trained on, with which recipe, and what was measured: to be added by whoever publishes it.

| option | value |
| --- | --- |
{options}
"""


class Pretrained:
    """Gives a network whose constructor's arguments are a dataclass ``options`` the two methods of hubs.

    The mixin of huggingface_hub is not used: it records the arguments that were given, not those that were left at
    defaults, which may change.
    """

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the three files; a model card that is there is kept.

        Args:
            folder: Made if it does not exist.

        Raises:
            CheckpointError: If a file cannot be written.
        """
        folder, name = Path(folder), type(self).__name__
        config = {"type": name, **asdict(self.options)}
        sizes = getattr(self, "restore_sizes", ())
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / WEIGHTS, self.state_dict(), config, sizes)
        write_whole(folder / CONFIG, json.dumps({**config, **({"sizes": sizes} if sizes else {})}, indent=2) + "\n")
        if not (folder / CARD).exists():
            rows = "\n".join(f"| `{key}` | {value} |" for key, value in asdict(self.options).items())
            count = sum(parameter.numel() for parameter in self.parameters()) / 1e6
            channels = self.options.in_channels
            write_whole(folder / CARD, _CARD.format(name=name, channels=channels, parameters=count, options=rows))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Build the network that :meth:`save_pretrained` has written, in evaluation mode on the CPU.

        Args:
            folder: The folder; of a hub's model, what ``huggingface_hub.snapshot_download`` returns.

        Raises:
            CheckpointError: If the folder or a file is missing or broken, or names another network.
            OptionError: If the options cannot be used.
        """
        path = Path(folder) / CONFIG
        if not path.is_file():
            what = "holds no" if path.parent.is_dir() else "is no folder with a"
            raise CheckpointError(f"{folder} {what} {CONFIG}; expected what save_pretrained writes.")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            kind = config.pop("type", None)
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path}: is no JSON object: {error}.") from None
        if kind != cls.__name__:
            raise CheckpointError(f"{path}: names the network {kind!r}; expected {cls.__name__!r}.")
        sizes = config.pop("sizes", ())
        network, file = cls(**config), read_weights(path.parent / WEIGHTS)
        network.load_state_dict(file.state_for(network.state_dict()))
        network.architecture, network.restore_sizes = {"type": kind, **config}, tuple(sizes)
        return network.eval()
