"""Small networks with random weights, and images, for the tests of inference and export."""

import numpy as np
import torch

SMALL = {
    "type": "UniRain", "dim": 8, "num_blocks": [1, 1, 1], "decoder_blocks": [1, 1], "refinement_blocks": 1,
    "heads": [1, 2, 4],
}  # fmt: skip


def random_network(seed=0, strength=0.05, **changes):
    """A network whose routers decide and whose output differs clearly from its input."""
    from unirain_plugin.inference.loading import build_network

    net = build_network({**SMALL, **changes}, "test")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "router" in name:
                parameter.copy_(noise)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            elif name.startswith("output"):
                parameter.copy_(strength * noise)
            else:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
    return net.eval().requires_grad_(False)


def random_image(height, width, channels=3, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    smooth = 0.5 + 0.3 * np.sin(x / 9)[..., None] * np.cos(y / 7)[..., None] * np.linspace(0.5, 1, channels)
    noisy = (smooth + 0.1 * rng.standard_normal((height, width, channels))).clip(0, 1)
    return (noisy * np.iinfo(dtype).max).round().astype(dtype)
