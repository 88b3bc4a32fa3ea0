"""A network as a folder of the form that model hubs expect: ``config.json``, ``model.safetensors``, ``README.md``."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Self

from unirain_plugin.checkpoints.weights import CONTEXT, SIZES, read_weights, write_weights
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

    The mixin of huggingface_hub records the arguments that were given, not those that were left at defaults.
    """

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the three files into a folder, else CheckpointError; a model card that is there is kept."""
        folder, name, options = Path(folder), type(self).__name__, asdict(self.options)
        config, edges = {"type": name, **options}, {key: getattr(self, f"restore_{key}", 0) for key in (SIZES, CONTEXT)}
        edges = {key: value for key, value in edges.items() if value}
        write_weights(folder / WEIGHTS, self.state_dict(), config, **edges)
        write_whole(folder / CONFIG, json.dumps(config | edges, indent=2) + "\n")
        if not (folder / CARD).exists():
            rows = "\n".join(f"| `{key}` | {value} |" for key, value in options.items())
            count = sum(parameter.numel() for parameter in self.parameters()) / 1e6
            card = _CARD.format(name=name, channels=options["in_channels"], parameters=count, options=rows)
            write_whole(folder / CARD, card)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Build the network that :meth:`save_pretrained` has written, in evaluation mode on the CPU.

        Of a hub's model, ``folder`` is what ``huggingface_hub.snapshot_download`` returns. A CheckpointError if a file
        is missing, broken or another network's; an OptionError if the options cannot be used.
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
        for key in (SIZES, CONTEXT):  # the file of weights holds them as well
            config.pop(key, None)
        network, file = cls(**config), read_weights(path.parent / WEIGHTS)
        network.load_state_dict(file.state_for(network.state_dict()))
        network.architecture = {"type": kind, **config}
        network.restore_sizes, network.restore_context = file.sizes, file.context
        return network.eval()
