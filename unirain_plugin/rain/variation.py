"""More variety from few photographs, for training: other colours, things that look like rain and are none."""

import math

import cv2
import numpy as np

from unirain_plugin.rain.light import LUMA, relief, smoothstep, to_codes, to_linear
from unirain_plugin.rain.params import StreakParams
from unirain_plugin.rain.streaks import streak_opacity


def vary_colours(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a photograph other colours: channels exchanged, another white balance, contrast and saturation.

    A handful of photographs holds a handful of colours; a network trained on them alone takes a new colour for rain.
    """
    linear = to_linear(photo)[..., rng.permutation(3)]
    grey = (linear @ LUMA)[..., None]
    linear = grey + (linear - grey) * np.float32(rng.uniform(0.3, 1.1))
    gains = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.15, 3)).astype(np.float32)
    return to_codes(np.maximum(linear * gains, 0) ** np.float32(np.exp(rng.normal(0, 0.15))))


def soft(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a photograph, (H, W, 3) uint8, out of focus, most often in parts: soft forms are no drops.

    The disc's radius is 2 pixels to a twentieth of the shorter side.
    """
    radius = int(rng.integers(2, max(min(photo.shape[:2]) // 20, 3), endpoint=True))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.float32)
    linear = to_linear(photo)
    glints = rng.random(photo.shape[:2]) < 10 ** rng.uniform(-5, -2.5)  # they become discs of light
    glinting = linear * (1 + np.float32(rng.uniform(0, 80)) * glints[..., None])
    blurred = cv2.filter2D(glinting, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT_101)
    share = smoothstep(-0.3, 0.3, relief(photo.shape[:2], 4, rng) + np.float32(rng.uniform(-0.5, 2)))[..., None]
    return to_codes(linear + share * (blurred - linear))


def toned(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give a photograph, (H, W, 3) uint8, less light and another contrast: what is dark or dull is not yet rainy."""
    return to_codes(np.float32(rng.uniform(0.3, 1)) * to_linear(photo) ** np.float32(rng.uniform(0.7, 1.5)))


def compressed(photo: np.ndarray, rng: np.random.Generator, quality: tuple[float, float] = (50, 95)) -> np.ndarray:
    """An image, (H, W, 3) uint8, as JPEG of a random quality shows it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, round(rng.uniform(*quality))]
    data = cv2.imencode(".jpg", photo[..., ::-1], options)[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def add_strands(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay grass, fur or hair over a photograph, (H, W, 3) uint8: fine lines, dark and light, that are no streaks."""
    lean, jitter = rng.uniform(-60, 60), rng.uniform(5, 25)
    params = StreakParams(
        angle=(lean, lean), angle_jitter=(jitter, jitter), length=(8, 40), width=(0.3, 0.9), density=(800, 3000),
        depths=(1, 2), opacity=(0.5, 1), clumping=(0, 1),
    )  # fmt: skip
    light, dark = (streak_opacity(photo.shape[:2], rng, params) for _ in range(2))
    lighter, darker = np.float32(rng.uniform(0.3, 1.5)), np.float32(rng.uniform(0, 1.5))
    return to_codes(to_linear(photo) * np.exp(lighter * light - darker * dark)[..., None])


def add_bars(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put one to four ropes, rods or cables into a photograph, (H, W, 3) uint8: long and opaque, they are no streaks.

    They are one pixel to a sixteenth of the shorter side wide, sharp or out of focus (thin ones are then translucent),
    a third of the shorter side to three times it long, and may sag. Half of them are nearly upright, as falling rain
    is.
    """
    height, width = photo.shape[:2]
    edge = min(height, width)
    linear = to_linear(photo)
    for _ in range(int(rng.integers(1, 4, endpoint=True))):
        thickness = math.exp(rng.uniform(0, math.log(max(edge / 16, 1))))
        half = 0.5 * edge * math.exp(rng.uniform(math.log(1 / 3), math.log(3)))
        angle = rng.normal(0.5, 0.08) * math.pi if rng.random() < 0.5 else rng.uniform(0, math.pi)
        along = np.linspace(-1, 1, 33)
        sag = rng.normal(0, 0.04) * (1 - along**2)
        direction = np.array([math.cos(angle), math.sin(angle)])
        points = half * (along[:, None] * direction + sag[:, None] * direction[::-1] * (-1, 1))
        points += rng.uniform(0, 1, 2) * (width, height)
        drawn = np.zeros((height, width), np.uint8)  # only 8-bit images are drawn on without jags
        cv2.polylines(drawn, [np.round(16 * points).astype(np.int32)], False, 255, round(thickness), cv2.LINE_AA, 4)
        cover = cv2.GaussianBlur(np.float32(drawn / 255), (0, 0), rng.uniform(0.4, 0.4 + thickness / 2))[..., None]
        shade = cv2.resize(rng.uniform(0.6, 1.2, (4, 4)).astype(np.float32), (width, height))[..., None]
        colour = np.exp(rng.uniform(math.log(0.05), math.log(0.9)) + rng.normal(0, 0.1, 3)).astype(np.float32)
        linear += cover * (shade * colour - linear)
    return to_codes(linear)


def add_stripes(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay a fence, corrugated iron or blinds over a part of a photograph, (H, W, 3) uint8: regular, they are no rain.

    Stripes 3 to 32 pixels apart, most often nearly upright, that shade what is there or are before it; closer towards
    one side, as in perspective.
    """
    height, width = photo.shape[:2]
    period, angle = math.exp(rng.uniform(math.log(3), math.log(32))), rng.normal(0, 8)
    turn = math.radians(angle + 90 * (rng.random() < 0.25))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across, along = (columns * math.cos(t) + rows * math.sin(t) for t in (turn, turn + math.pi / 2))
    across += np.float32(rng.uniform(-0.6, 0.6)) * across**2 / (2 * max(height, width))
    wave = np.cos(2 * math.pi * (across / period + rng.random())) - np.float32(rng.uniform(-0.8, 0.8))
    shape = smoothstep(-0.1, 0.1, wave) if rng.random() < 0.5 else np.clip(0.5 + 0.5 * wave, 0, 1)
    first, last = np.sort(rng.uniform(along.min(), along.max(), 2))
    part = shape * ((along > first) & (along < max(last, first + 0.3 * min(height, width))))
    linear = to_linear(photo)
    if rng.random() < 0.5:
        return to_codes(linear * np.exp(rng.uniform(-1.5, 1.0) * part)[..., None])
    colour = np.exp(rng.uniform(math.log(0.03), 0) + rng.normal(0, 0.1, 3)).astype(np.float32)
    return to_codes(linear + part[..., None] * (colour - linear))


def add_letters(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write one to six lines of random letters on a photograph, (H, W, 3) uint8: their strokes are no streaks."""
    height, width = photo.shape[:2]
    drawn = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 6, endpoint=True))):
        text = "".join(map(chr, rng.integers(33, 127, rng.integers(2, 16))))
        size, font = math.exp(rng.uniform(math.log(0.3), math.log(2.5))), int(rng.integers(0, 8))
        place = tuple(int(x) for x in rng.uniform(0, 0.9, 2) * (width, height))
        cv2.putText(drawn, text, place, font, size, 255, max(1, round(size * rng.uniform(0.7, 3))), cv2.LINE_AA)
    linear = to_linear(photo)
    colour = np.exp(rng.uniform(math.log(0.01), 0) + rng.normal(0, 0.2, 3)).astype(np.float32)
    return to_codes(linear + np.float32(drawn / 255)[..., None] * (colour - linear))


CHANGES = {
    add_strands: 0.1, add_stripes: 0.06, add_letters: 0.06, toned: 0.2, add_bars: 0.12, soft: 0.2, compressed: 0.25
}  # fmt: skip
"""What is done to a photograph first where rain varies, in this order, and in which share of the pairs (our choice)."""
