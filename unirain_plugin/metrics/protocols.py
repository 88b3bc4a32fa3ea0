"""How papers take PSNR and SSIM: the one table of protocols, for comparisons and for validations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from unirain_plugin.errors import OptionError, did_you_mean
from unirain_plugin.metrics.psnr_ssim import WINDOWS, check_sizes, luma, psnr, ssim

MEASURES = ("psnr", "ssim")
"""What a protocol says how to take."""


def matlab_luma(image: np.ndarray) -> np.ndarray:
    """Y of MATLAB's ``rgb2ycbcr`` for uint8: that of :func:`luma` rounded, exactly, halves upwards.

    219 (299 R + 587 G + 114 B) / 255000 + 16, since 65.481 = 219 · 0.299, and so on. (H, W, 3) uint8 RGB becomes
    (H, W, 1) uint8 in [16, 235].
    """
    weighted = image.astype(np.int32) @ np.array([[299], [587], [114]], np.int32)
    return ((219 * weighted + 127_500) // 255_000 + 16).astype(np.uint8)


def _yiq_luma(image: np.ndarray) -> np.ndarray:
    """Full-range Y as pyiqa has it: in torch's float32 steps, on which it depends where halves are rounded to."""
    red, green, blue = cv2.split(image.astype(np.float32) / 255)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint((red * weights[0] + green * weights[1] + blue * weights[2]) * np.float32(255))[..., None]


_COLOURS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "RGB (8 bits)": lambda image: image,
    "MATLAB's Y (16 to 235), rounded": matlab_luma,
    "MATLAB's Y (16 to 235), not rounded": luma,
    "full-range Y (YIQ), rounded": _yiq_luma,
    "full-range Y (OpenCV's YCrCb), rounded": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., :1],
}
_RGB, _MATLAB, _BASICSR, _YIQ, _OPENCV = _COLOURS


@dataclass(frozen=True)
class Protocol:
    """One way to take PSNR and SSIM of 8-bit images."""

    source: str  # whose scorer it is
    psnr: str  # colours of PSNR, in words
    ssim: str  # those of SSIM
    window: str = "gaussian"  # SSIM's, see :data:`~unirain_plugin.metrics.psnr_ssim.WINDOWS`
    multiple: int = 1  # the sides are cut to multiples of so many pixels
    centred: bool = False  # whether they are cut on both sides alike; else at the right and the bottom
    epsilon: float = 0.0  # added to PSNR's mean squared error, of a range of 1: the limit of PSNR
    nonnegative: bool = False  # whether SSIM's covariance term counts as 0 where it is negative

    def cut(self, image: np.ndarray) -> np.ndarray:
        rest = [side % self.multiple for side in image.shape[:2]]
        top, left = (pixels // 2 if self.centred else 0 for pixels in rest)
        return image[top : image.shape[0] - rest[0] + top, left : image.shape[1] - rest[1] + left]

    def value(self, measure: str, image: np.ndarray, target: np.ndarray) -> float:
        """PSNR (dB; infinite for equal images unless ``epsilon`` limits it) or SSIM; NaN for too small images.

        Both images are (H, W, 3) uint8 RGB; a DataError if the shapes differ.
        """
        check_sizes(image, target)
        image, target = self.cut(image), self.cut(target)
        if min(image.shape[:2]) < self.smallest(measure):
            return math.nan
        colours = _COLOURS[getattr(self, measure)]
        image, target = (colours(np.ascontiguousarray(side)) for side in (image, target))
        if measure == "ssim":
            return ssim(image, target, self.window, self.nonnegative)
        return psnr(image, target, self.epsilon)

    def smallest(self, measure: str) -> int:
        """The shortest side, after the cut, of an image that has a value."""
        return len(WINDOWS[self.window].taps) if measure == "ssim" else 1

    def __str__(self) -> str:
        where = "around the centre" if self.centred else "at right and bottom"
        cut = f"sides cut to multiples of {self.multiple} {where}" if self.multiple > 1 else "no border cropped"
        same = self.psnr == self.ssim
        colours = f"PSNR and SSIM on {self.psnr}" if same else f"PSNR on {self.psnr}, SSIM on {self.ssim}"
        window = f"SSIM's {WINDOWS[self.window].words} inside the image"
        negative = ", negative covariances as 0" if self.nonnegative else ""
        limit = f"; PSNR at most {-10 * np.log10(self.epsilon):g} dB" if self.epsilon else ""
        return f"{cut}; {colours}; {window}{negative}{limit} ({self.source})"


DEFAULT = "rgb"
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "rgb": Protocol("BasicSR", _RGB, _RGB),
        "y-matlab": Protocol("MATLAB scorers of MPRNet, Restormer and others", _MATLAB, _MATLAB),
        "y-basicsr": Protocol("BasicSR's test_y_channel; MATLAB on doubles", _BASICSR, _BASICSR),
        "rainrag": Protocol("pyiqa's psnr and ssim", _RGB, _YIQ, epsilon=1e-8, nonnegative=True),
        "raindrop": Protocol("Qian et al., CVPR 2018", _OPENCV, _OPENCV, "flat", multiple=4),
        "promptir": Protocol("PromptIR; test.py of UniRain's authors", _RGB, _RGB, "flat", multiple=16, centred=True),
    }
)
"""Name → protocol. Read from the scorers' published code."""


def measure_of(name: str, where: str = "metrics", protocol: str = DEFAULT) -> tuple[str, str] | None:
    """Measure and protocol that a metric's name stands for; None for a metric that no protocol concerns.

    ``psnr`` is taken under ``protocol``, ``psnr@y-matlab`` under the one it names, ``psnr_y`` under ``y-basicsr``. An
    OptionError if the protocol, or the measure before it, is unknown.
    """
    measure, at, named = name.partition("@")
    if at and measure not in MEASURES:
        raise OptionError(f"{where}: '{name}': only {' and '.join(MEASURES)} are taken under a protocol, as in "
                          f"psnr@{DEFAULT}.{did_you_mean(measure, MEASURES)}")  # fmt: skip
    if at:
        check_protocol(named, f"{where}: '{name}'")
        return measure, named
    if name.endswith("_y") and name[:-2] in MEASURES:
        return name[:-2], "y-basicsr"
    return (name, protocol) if name in MEASURES else None


def check_protocol(name: object, where: str) -> None:
    """Refuse an unknown protocol: the OptionError has the nearest name."""
    if name not in PROTOCOLS:
        raise OptionError(f"{where}: unknown protocol {name!r}.{did_you_mean(name, PROTOCOLS)} "
                          f"Known: {', '.join(PROTOCOLS)}.")  # fmt: skip
