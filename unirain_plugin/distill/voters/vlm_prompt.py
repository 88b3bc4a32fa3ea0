"""The question to a vision-language model: the template file, its hash, and the pictures with their labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unirain_plugin.distill.records import VoteTask
from unirain_plugin.errors import OptionError
from unirain_plugin.options.yaml_loader import read_option_file

DEFAULT_PROMPT = Path(__file__).parents[1] / "prompts" / "derain_pair.yml"
_PARTS = ("system", "images", "sheet", "question")
_LONGEST_CAPTION = 500
_BAR = 22
"""Height of the label above a panel of the contact sheet, pixels."""


@dataclass(frozen=True)
class Prompt:
    """A template.

    Attributes:
        system: System message.
        images: Text before several pictures.
        sheet: Text before one contact sheet.
        question: Text after the pictures.
        digest: Hash of the file's bytes.
    """

    system: str
    images: str
    sheet: str
    question: str
    digest: str


def load_prompt(path: str | Path | None = None) -> Prompt:
    """Read a template file; None for the one that comes with the plugin.

    Raises:
        OptionError: If the file is missing, no YAML, or lacks a part.
    """
    path = Path(path or DEFAULT_PROMPT)
    parts = read_option_file(path).opt
    if sorted(parts) != sorted(_PARTS) or not all(map(str.strip, map(str, parts.values()))):
        raise OptionError(f"prompt: {path}: expected the texts {', '.join(_PARTS)}; found {sorted(parts)}.")
    return Prompt(**{key: str(parts[key]) for key in _PARTS}, digest=hashlib.sha256(path.read_bytes()).hexdigest())


def fill(text: str, task: VoteTask) -> str:
    """Put a task's data into a text; captions as JSON strings, so that they end where they end."""
    captions = [(found.reference.caption or "")[:_LONGEST_CAPTION] for found in task.retrieved]
    values = {
        "{rain_type}": task.candidate.rain_type,
        "{count}": str(len(task.retrieved)),
        "{caption}": json.dumps((task.candidate.caption or "")[:_LONGEST_CAPTION], ensure_ascii=False),
        "{references}": json.dumps(captions, ensure_ascii=False),
    }
    pieces, rest = [], text
    while rest:  # one pass, so that a placeholder inside a caption stays what it is
        place, name = min(((rest.find(name), name) for name in values if name in rest), default=(-1, ""))
        if place < 0:
            break
        pieces += [rest[:place], values[name]]
        rest = rest[place + len(name) :]
    return "".join([*pieces, rest])


def pictures(task: VoteTask) -> tuple[list[np.ndarray], list[str]]:
    """The pictures of a task, uint8 RGB, and a label for each."""
    images = [task.candidate.lq, task.candidate.gt, *(found.reference.image for found in task.retrieved)]
    labels = ["RAINY PICTURE:", "CLEAN PICTURE:"]
    return images, [*labels, *(f"REAL RAIN {i}:" for i in range(1, len(task.retrieved) + 1))]


def contact_sheet(images: list[np.ndarray], labels: list[str], side: int) -> np.ndarray:
    """All pictures in one, uint8 RGB (≤ side, ≤ side, 3), each whole and under its label."""
    columns = 2 if len(images) <= 4 else 3
    rows = -(-len(images) // columns)
    width, height = side // columns, side // rows
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        top, left = i // columns * height, i % columns * width
        scale = min((width - 4) / image.shape[1], (height - _BAR - 4) / image.shape[0])
        size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
        panel = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        sheet[top + _BAR : top + _BAR + size[1], left + 2 : left + 2 + size[0]] = panel
        cv2.putText(sheet, label.rstrip(":"), (left + 4, top + _BAR - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1,
                    cv2.LINE_AA)  # fmt: skip
    return sheet
