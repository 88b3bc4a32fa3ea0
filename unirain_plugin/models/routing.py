"""Which experts serve which rain type: shares per layer, measured during validation, and an image of them."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import nn

Shares = dict[str, np.ndarray]
"""Layer name → (num_experts,), the share of each expert; a layer's shares sum to 1."""


class RoutingMeter:
    """Collects the routing of one image over any number of forwards (tiles)."""

    def __init__(self, network: nn.Module) -> None:
        self._statistics = getattr(network, "routing_statistics", None)
        self._sums: Shares = {}
        self._forwards = 0

    def observe(self) -> None:
        """Take up the routing of the network's last forward; nothing for networks without experts."""
        if self._statistics is None:
            return
        self._forwards += 1
        means = {layer: share.float().mean(dim=0) for layer, share in self._statistics().items()}
        if not means:
            return
        flat = torch.cat(list(means.values())).cpu().numpy().astype(np.float64)  # one transfer for all layers
        ends = np.cumsum([len(mean) for mean in means.values()])
        for layer, values in zip(means, np.split(flat, ends[:-1]), strict=True):
            self._sums[layer] = self._sums.get(layer, 0.0) + values

    def take(self) -> Shares:
        """The mean shares since the last call, which are then forgotten."""
        shares = {layer: total / self._forwards for layer, total in self._sums.items()}
        self._sums, self._forwards = {}, 0
        return shares


def mean_shares(images: Sequence[Shares]) -> Shares:
    layers = images[0] if images else ()
    return {layer: sum(image[layer] for image in images) / len(images) for layer in layers}


def draw_routing(by_type: Mapping[str, Shares], cell: int = 28) -> np.ndarray:
    """Draw shares as a heat map (H, W, 3) uint8 RGB: a row a type, a group of columns a layer."""
    types, layers = list(by_type), list(next(iter(by_type.values())))
    gap, label, top = cell // 2, 9 * max(map(len, types)) + 12, 8 + 6 * max(map(len, layers))
    widths = [len(by_type[types[0]][layer]) * cell for layer in layers]
    canvas = np.full((top + len(types) * cell + 8, label + sum(widths) + gap * len(layers), 3), 24, np.uint8)
    for row, name in enumerate(types):
        origin = 6, top + row * cell + cell // 2 + 4
        cv2.putText(canvas, name, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    left = label
    for layer, width in zip(layers, widths, strict=True):
        shares = np.stack([by_type[name][layer] for name in types])
        heat = cv2.applyColorMap((shares.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
        block = cv2.resize(heat[..., ::-1], None, fx=cell, fy=cell, interpolation=cv2.INTER_NEAREST)
        canvas[top : top + block.shape[0], left : left + width] = block
        strip = np.full((14, top - 4, 3), 24, np.uint8)
        cv2.putText(strip, layer, (0, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 255), 1, cv2.LINE_AA)
        edge = max(0, left + width // 2 - 7)
        turned = cv2.rotate(strip, cv2.ROTATE_90_COUNTERCLOCKWISE)[:, : canvas.shape[1] - edge]
        canvas[: top - 4, edge : edge + 14] = turned
        left += width + gap
    return canvas
