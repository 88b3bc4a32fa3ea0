"""Captions made elsewhere (the paper uses BLIP), read from a CSV or JSONL file."""

import csv
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from unirain_plugin.distill.describers.base import Captioner, Scene
from unirain_plugin.distill.records import DistillError
from unirain_plugin.distill.registry import CAPTIONER, file_stamp
from unirain_plugin.errors import DataError, OptionError

_NAMES = ("image", "id", "path", "file", "filename")


@CAPTIONER.register()
class SidecarCaptioner(Captioner):
    """Looks captions up by image: its absolute path, its path below the file's folder, its path as listed, or its id.

    ``files``: one, or several. A CSV has a heading line with a column ``caption`` and one of ``image``, ``id``,
    ``path``, ``file``, ``filename``; a JSONL has the same keys. Both are plain data: nothing in a caption is
    interpreted.
    """

    registry_name = "sidecar"

    def __init__(self, files: str | list[str]) -> None:
        self.files = [files] if isinstance(files, str) else list(files)
        if not self.files:
            raise OptionError("files: expected at least one CSV or JSONL file.")
        for name in self.files:
            if Path(name).suffix.lower() not in (".csv", ".jsonl"):
                raise OptionError(f"files: expected a name ending in .csv or .jsonl, got '{name}'.")

    def check(self) -> None:
        _ = self._captions

    def fingerprint(self) -> dict:
        return {**super().fingerprint(), "stamps": [file_stamp(name) for name in self.files]}

    def caption(self, scenes: Sequence[Scene]) -> list[str]:
        """Look the captions up. A DistillError if an image has no caption, or several."""
        result = []
        for scene in scenes:
            keys = (str(scene.path.absolute()), str(scene.path), scene.id)
            found = next((self._captions[key] for key in keys if key in self._captions), set())
            if len(found) != 1:
                count = "no caption" if not found else f"{len(found)} different captions"
                raise DistillError(f"{', '.join(self.files)}: {count} for the image '{scene.id}' ({scene.path}).")
            result += found
        return result

    @cached_property
    def _captions(self) -> dict[str, set[str]]:
        captions: dict[str, set[str]] = {}
        for name in self.files:
            for image, caption in _read(Path(name)):
                for key in {image, str((Path(name).parent / image).absolute())}:
                    captions.setdefault(key, set()).add(caption)
        return captions


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file) if path.suffix.lower() == ".csv" else _json_lines(file, path)
            for number, row in enumerate(rows, 2 if path.suffix.lower() == ".csv" else 1):
                image = next((row[key] for key in _NAMES if row.get(key)), None)
                caption = row.get("caption")
                if not isinstance(image, str) or not isinstance(caption, str) or not caption.strip():
                    raise DataError(f"{path}:{number}: expected a `caption` and one of {', '.join(_NAMES)}; got {row}.")
                yield image, " ".join(caption.split())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the captions cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _json_lines(file: Iterator[str], path: Path) -> Iterator[dict]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object with image and caption.")
        yield row
