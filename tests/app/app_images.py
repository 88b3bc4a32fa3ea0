"""A small network with random weights, and images, as the tests of inference have them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))

from inference_helpers import SMALL, random_image, random_network
from PIL import Image

from unirain_plugin.checkpoints.weights import write_weights

__all__ = ["SMALL", "random_image", "random_network", "write_network", "write_random"]


def write_network(path, net):
    write_weights(path, net.state_dict(), SMALL)
    return path


def write_random(path, height, width):
    """An image file; its pixels."""
    pixels = random_image(height, width)
    Image.fromarray(pixels).save(path)
    return pixels
