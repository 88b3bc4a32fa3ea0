"""Windows of a photograph without and with streaks, as a user's own images."""

import cv2
import numpy as np

from unirain_plugin.rain.params import RainParams
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos


def write_windows_of_a_photograph(root, height, width, right=0):
    """``clean/NN.png`` and ``rainy/NN.png``: eight windows, each 20 pixels further down and ``right`` to the right."""
    photo = cv2.imread(str(sample_photos("train")[0]))[..., ::-1]
    for number in range(8):
        window = np.ascontiguousarray(photo[20 * number :][:height, right * number :][:, :width])
        for side, image in (("rainy", render_rain(window, "drs", number, RainParams()).lq), ("clean", window)):
            (root / side).mkdir(exist_ok=True)
            cv2.imwrite(str(root / side / f"{number:02d}.png"), image[..., ::-1])
    return root
