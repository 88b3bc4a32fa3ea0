"""Finding the pairs of a data set by its layout: every file is paired, or named as one that is not."""

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from unirain_plugin.data.folders import IMAGE_SUFFIXES, walk_files, walk_images
from unirain_plugin.data.images import EncodedImage
from unirain_plugin.data.manifest import ManifestRecord
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError, OptionError, meant_or_known
from unirain_plugin.preparation.layouts import ONE_TO_ONE, Layout, Part
from unirain_plugin.support.files import claim_folder, safe_path, write_png

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
           "validation": "val"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairingOptions:
    """The user's choices.

    ``split``: ``train``, ``test``, ``val`` or a folder's name (None: all). In place of the layout's: ``rain_type`` of
    all pairs, translations of types (``{"rainstreak_raindrop": "drs"}``), the source's name.
    """

    split: str | None = None
    rain_type: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None


def find_pairs(root: str, layout: Layout, options: PairingOptions) -> "Pairing":
    """Pair the files below ``root`` (else DataError); OptionError if a split or rain type is not told."""
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder.")
    pairing = Pairing(root, layout, options)
    pairing.run()
    return pairing


class Pairing:
    """What was found; paths are relative to the data set's folder, problems are (kind, message)."""

    def __init__(self, root: str, layout: Layout, options: PairingOptions) -> None:
        self.root, self.layout, self.options = root, layout, options
        self.pairs: list[ManifestRecord] = []
        self.problems: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.joint: list[tuple[str, str, str]] = []  # of images with both halves name, type and source
        self.images = sorted(walk_images(root))
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            self.by_stem[_stem(image)].append(image)
        self.done: set[str] = set()  # rainy images that are paired or complained about
        self.partner_of: dict[str, str] = {}  # clean image → its first rainy one
        self.kinds: set[str] = set()  # that the layout has told
        self.lonely: dict[str, str] = {}  # rainy image without a partner → what was looked for

    def run(self) -> None:
        if not self.images:
            raise DataError(f"{self.root}: the folder holds no images.")
        self._check_split()
        for part in self.layout.parts:
            if part.rule == "list_file":
                self._from_lists(part)
            elif part.rule == "sorted":
                self._by_order(part)
            else:
                self._by_name(part)
        self._report_rest()
        unused = sorted(self.options.types.keys() - self.kinds)
        if unused:
            hint = meant_or_known(unused[0], sorted(self.kinds))
            self.warnings.append(f"--map: no pair is of the kind {', '.join(unused)}. {hint}")
        if not self.pairs and not self.joint and not self.problems:
            raise DataError(f"{self.root}: no image fits the layout {self.layout.name}"
                            f"{f' in the split {self.options.split}' if self.options.split else ''}: "
                            f"{self.layout.note or 'see its patterns'} Found such as {self.images[0]}.")  # fmt: skip

    def _by_name(self, part: Part) -> None:
        pattern = part.lq_regex()
        for image in self.images:
            match = None if image in self.done else pattern.fullmatch(_stem(image))
            if match is None or image in self.partner_of or not self._in_split(image, part):
                continue
            fields = match.groupdict("")
            if part.rule == "side_by_side":
                self.done.add(image)
                self.joint.append((image, self._type(part, fields, image), self._source(part, fields)))
                continue
            stems = [template.format(**fields) for template in part.gt]
            found = next((stem for stem in stems if stem in self.by_stem and stem != _stem(image)), None)
            found = found or next((s for s in stems if any(other != image for other in self.by_stem.get(s, ()))), None)
            if found is None:
                self.lonely.setdefault(image, " or ".join(stems[:3]) + (" …" if len(stems) > 3 else ""))
            else:
                candidates = [other for other in self.by_stem[found] if other != image]
                same = [other for other in candidates if os.path.splitext(other)[1] == os.path.splitext(image)[1]]
                if len(candidates) > 1 and len(same) != 1:
                    self.problems.append(("ambiguous", f"{image}: several clean images: {', '.join(candidates)}."))
                self._add(part, image, (same or candidates)[0], fields)

    def _by_order(self, part: Part) -> None:
        sides: list[dict[tuple[str, ...], list[tuple[str, dict[str, str]]]]] = []
        for patterns in ([part.lq_regex()], part.gt_regexes()):
            groups = defaultdict(list)
            for image in self.images:
                match = next((m for p in patterns if (m := p.fullmatch(_stem(image)))), None)
                if match and image not in self.done and image not in self.partner_of and self._in_split(image, part):
                    fields = match.groupdict("")
                    groups[tuple(v for k, v in sorted(fields.items()) if k != "name")].append((image, fields))
            sides.append(groups)
        by_order = 0
        for group in sorted(sides[0].keys() | sides[1].keys()):
            lq, gt = sides[0].get(group, []), sides[1].get(group, [])
            self.done.update(image for image, _ in lq)
            if len(lq) != len(gt):
                where = os.path.dirname((lq or gt)[0][0])
                message = f"{where}: {len(lq)} rainy and {len(gt)} clean images; order pairs only equal numbers."
                self.problems.append(("unequal", message))
                self.partner_of.update((image, "") for image, _ in gt)
                continue
            by_order += [f["name"] for _, f in lq] != [f["name"] for _, f in gt]
            for (image, fields), (clean, _) in zip(lq, gt, strict=True):
                self._add(part, image, clean, fields)
        if by_order:
            how = "are paired by sorted order, as their names do not tell; look at some pairs"
            self.warnings.append(f"{by_order} folder(s) {how}.")

    def _from_lists(self, part: Part) -> None:
        pattern = "*/" + part.lq.removeprefix("**/")
        lists = [name for name in walk_files(self.root) if fnmatch.fnmatch(f"/{name}", pattern)]
        used = 0
        for name in sorted(lists):
            with open(os.path.join(self.root, name), encoding="utf-8", errors="surrogateescape") as file:
                lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
            if not lines or len(_columns(lines[0][1])) != 2:
                self.warnings.append(f"{name} is no list of pairs ('rainy clean' on each line); left out.")
                continue
            used += 1
            for number, line in lines:
                self._from_line(part, name, f"{name}:{number}", line)
        if not used:
            expected = f"no list file ({part.lq}) with 'rainy clean' on each line"
            raise DataError(f"{self.root}: {expected}; found {lists or 'none'}.")

    def _from_line(self, part: Part, name: str, where: str, line: str) -> None:
        columns = _columns(line)
        if len(columns) != 2:
            self.problems.append(("list", f"{where}: expected 'rainy clean', found {line[:80]!r}."))
            return
        found = [self._resolve(os.path.dirname(name), column) for column in columns]
        if not (self._in_split(found[0] or columns[0], part) or self._in_split(name.replace(".", "/"), part)):
            return
        for image, column in zip(found, columns, strict=True):
            if image is None:
                self.problems.append(("missing", f"{where}: {column} does not exist."))
        if found[0] in self.done:
            self.problems.append(("list", f"{where}: {found[0]} is listed twice."))
        elif all(found):
            self._add(part, found[0], found[1], {})

    def _resolve(self, folder: str, column: str) -> str | None:
        relative = column.lstrip("/")
        for candidate in (os.path.join(folder, relative), relative):
            candidate = os.path.normpath(candidate)
            if not candidate.startswith("..") and os.path.isfile(os.path.join(self.root, candidate)):
                return candidate
        return None

    def _add(self, part: Part, lq: str, gt: str, fields: Mapping[str, str]) -> None:
        first = self.partner_of.setdefault(gt, lq)
        self.done.add(lq)
        if first != lq and part.rule in ONE_TO_ONE:
            self.problems.append(("shared", f"{gt}: the clean image of both {first} and {lq}."))
            return
        rain_type = self._type(part, fields, lq)
        self.pairs.append(ManifestRecord(lq, gt, rain_type, self._source(part, fields)))

    def _type(self, part: Part, fields: Mapping[str, str], image: str) -> str:
        if self.options.rain_type is not None:
            return self.options.rain_type
        if part.rain_type is None:
            raise OptionError(f"{image}: the layout {self.layout.name} does not tell the rain type; give --rain-type.")
        told = part.rain_type.format(**fields)
        self.kinds.add(told)
        return self.options.types.get(told) or (part.types or {}).get(told, told)

    def _source(self, part: Part, fields: Mapping[str, str]) -> str:
        return self.options.source or (part.source or self.layout.name).format(**fields)

    def _in_split(self, path: str, part: Part) -> bool:
        wanted = self.options.split
        return wanted is None or self._whole_split or part.split == wanted or wanted in _splits_of(path)

    def _concerns(self, image: str) -> bool:
        """Whether an image belongs to the wanted split, by its folders or by the part whose pattern it fits."""
        for part in self.layout.parts:
            patterns = [*([] if part.rule == "list_file" else [part.lq_regex()]), *part.gt_regexes()]
            if self._in_split(image, replace(part, split=None)):
                return True
            if self._in_split(image, part) and any(pattern.fullmatch(_stem(image)) for pattern in patterns):
                return True
        return False

    def _check_split(self) -> None:
        """See whether the folders tell the split; below a folder of the split's own name everything belongs to it."""
        self._whole_split, wanted = False, self.options.split
        names = {name for image in self.images for name in _splits_of(image)}
        names |= {part.split for part in self.layout.parts if part.split}
        if wanted is None or wanted in names or any(part.rule == "list_file" for part in self.layout.parts):
            return
        self._whole_split = wanted in _splits_of(f"{os.path.basename(os.path.abspath(self.root))}/")
        if not self._whole_split:
            found = sorted(names)[:20]
            raise OptionError(f"--split {wanted}: no folder below {self.root} has this name; found {found}.")

    def _report_rest(self) -> None:
        patterns = [pattern for part in self.layout.parts for pattern in part.gt_regexes()]
        strangers = []
        for image in self.images:
            if image in self.done or image in self.partner_of or not self._concerns(image):
                continue
            if image in self.lonely:
                self.problems.append(("orphan_lq", f"{image}: no clean image {self.lonely[image]}."))
            elif any(pattern.fullmatch(_stem(image)) for pattern in patterns):
                self.problems.append(("orphan_gt", f"{image}: no rainy image belongs to this clean one."))
            else:
                strangers.append(image)
        if strangers:
            names = ", ".join(strangers[:5]) + (", …" if len(strangers) > 5 else "")
            self.warnings.append(f"{len(strangers)} image(s) fit no pattern of the layout and are left out: {names}.")


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _splits_of(path: str) -> set[str]:
    """Return the splits that a path's folders name: ``RainTrainL/a.png`` → {RainTrainL, train}."""
    names = set()
    for folder in path.split("/")[:-1]:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder)
        names |= {folder} | {_SPLITS[word.lower()] for word in words if word.lower() in _SPLITS}
    return names


def _columns(line: str) -> list[str]:
    """Split a line of a list file at tabs, commas or blanks into image names; [] if that does not give two."""
    for separator in ("\t", ",", None):
        columns = [column.strip() for column in line.split(separator)]
        if len(columns) == 2 and all(os.path.splitext(c)[1].lower() in IMAGE_SUFFIXES for c in columns):
            return columns
    return []


def prepare_halves(root: str, output: str, rainy_half: str) -> None:
    """Make the folder for the halves of the images below ``root``, or take up that of the same ones.

    It must lie elsewhere (OptionError): there the halves would be taken for images with two halves.
    """
    real_root, real_output = os.path.realpath(root), os.path.realpath(output)
    if os.path.commonpath([real_root, real_output]) == real_root:
        raise OptionError(f"--halves {output}: lies inside --root {root}; name a folder elsewhere.")
    origin = {"root": real_root, "rainy_half": rainy_half}
    claim_folder(output, origin, "holds the halves of other images or the other way round; choose another folder.")


def split_halves(
    root: str, joint: tuple[str, str, str], output: str, rainy_half: str, convert: Collection[str] = ()
) -> ManifestRecord:
    """Write the halves of an image as PNG to ``{output}/input`` and ``{output}/target``, in sub-folders as below root.

    ``joint``: its path, rain type and source; ``rainy_half``: ``left`` or ``right``. Returns the pair, relative to
    ``output``; a DataError if the image is bad, its width is odd, or a half cannot be written.
    """
    name, rain_type, source = joint
    path = os.path.join(root, name)
    image = EncodedImage(read_file(path), path, convert)
    if image.width % 2:
        raise DataError(f"{path}: {image.width} columns cannot be two halves of one width.")
    stem, ending = (name[:-4], name[-4:]) if name.lower().endswith(".png") else (name, ".png")
    written = f"{safe_path(stem)}{ending}"
    if written != name and os.path.exists(os.path.join(root, written)):
        why = "is there too, and the halves of both would get that name; rename one"
        raise DataError(f"{path}: {os.path.basename(written)} {why}.")
    pixels, middle = image.decode(), image.width // 2
    left, right = pixels[:, :middle], pixels[:, middle:]
    lq, gt = (left, right) if rainy_half == "left" else (right, left)
    pair = ManifestRecord(f"input/{written}", f"target/{written}", rain_type, source)
    write_png(os.path.join(output, pair.lq), lq)
    write_png(os.path.join(output, pair.gt), gt)
    return pair
