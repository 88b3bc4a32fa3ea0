"""From the files of a data set to a manifest: every pair is looked at, everything odd is reported."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

from tqdm import tqdm

from unirain_plugin.data.images import EncodedImage, decode_strictly
from unirain_plugin.data.manifest import ManifestRecord, ManifestWriter, is_new, read_manifest
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError
from unirain_plugin.support.processes import map_in_processes


class FileFacts(NamedTuple):
    """What was found in one image file; ``error`` is empty for a good one."""

    size: tuple[int, int]
    digest: bytes
    error: str


@dataclass
class IndexReport:
    """Everything that a user has to know of an indexing run.

    ``about``: layout, folder, options; ``pairs``: numbers by type and source; ``problems``: (kind, message) of pairs
    that are not written; warnings; ``duplicates``: files with the same bytes.
    """

    about: dict[str, Any]
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        data = {
            **self.about,
            "pairs": sum(self.pairs.values()),
            "pairs_by_type_and_source": {f"{t} {s}".strip(): n for (t, s), n in sorted(self.pairs.items())},
            "problems_by_kind": dict(sorted(Counter(kind for kind, _ in self.problems).items())),
            "problems": [{"kind": kind, "message": message} for kind, message in self.problems],
            "duplicates": self.duplicates,
            "warnings": self.warnings,
        }
        return json.dumps(data, indent=1, ensure_ascii=True) + "\n"

    def summary(self) -> str:
        lines = [f"pairs: {sum(self.pairs.values())}"]
        lines += [f"  {t} {s}: {n}" for (t, s), n in sorted(self.pairs.items())]
        lines.append(f"problems: {len(self.problems)}")
        lines += [f"  {kind}: {n}" for kind, n in sorted(Counter(kind for kind, _ in self.problems).items())]
        lines.append(f"files with the same bytes as another: {len(self.duplicates)}")
        lines += [f"warning: {message}" for message in self.warnings]
        return "\n".join(lines)


def write_index(
    output: str,
    root: str,
    pairs: Sequence[ManifestRecord],
    report: IndexReport,
    *,
    check: str = "decode",
    convert: Collection[str] = (),
    workers: int = 1,
    skip: bool = False,
    drop_duplicates: bool = False,
    allow_dry: bool = False,
    append: bool = False,
) -> None:
    """Look at every pair and write the manifest; what is wrong goes to ``report``. Pairs are relative to ``root``.

    ``check``: ``decode`` decodes every image, ``header`` looks at its beginning and end only; ``skip``: write the good
    pairs even if there are problems (else DataError); ``drop_duplicates``: leave out a pair whose two files have the
    bytes of an earlier pair's; ``allow_dry``: accept pairs without rain, whose two files have the same bytes;
    ``append``: keep the lines of the manifest if it is there, and add the pairs that it lacks.
    """
    known: dict[str, tuple[object, ...]] = {}
    folder = os.path.dirname(os.path.abspath(output))
    # From the manifest's folder to the data by real paths, for ``..`` does not climb out of a link.
    prefix = os.path.relpath(os.path.realpath(root), os.path.realpath(folder))
    with ManifestWriter(output) as writer:
        for record in read_manifest(output) if append and os.path.exists(output) else ():
            is_new(known, replace(record, keep=None), output, folder)
            writer.write(record)
        found = tqdm(_examined(root, pairs, check, convert, workers), total=len(pairs), desc="index", unit="pair")
        for pair, size in _good_pairs(found, report, drop_duplicates, allow_dry):
            lq, gt = (os.path.normpath(os.path.join(prefix, name)) for name in (pair.lq, pair.gt))
            record = replace(pair, lq=lq, gt=gt, size=size)
            if not append or is_new(known, record, root, folder):
                writer.write(record)
            report.pairs[record.rain_type, record.source] += 1
        if report.problems and not skip:
            shown = "\n".join(f"  {kind}: {message}" for kind, message in report.problems[:10])
            more = f"\n  … and {len(report.problems) - 10} more" if len(report.problems) > 10 else ""
            remedy = "Mend them, or leave these files out with --on-error skip."
            raise DataError(f"{len(report.problems)} problem(s), so no manifest was written:\n{shown}{more}\n{remedy}")
        if not report.pairs:
            raise DataError(f"{root}: no good pair is left.\n{report.summary()}")


Examined = tuple[ManifestRecord, FileFacts, FileFacts]


def _good_pairs(
    found: Iterable[Examined], report: IndexReport, drop_duplicates: bool, allow_dry: bool
) -> Iterator[tuple[ManifestRecord, tuple[int, int]]]:
    """Yield good pairs with their size; the others and the duplicates, known by digests, go to the report."""
    files: dict[bytes, str] = {}
    seen: set[bytes] = set()
    for pair, lq, gt in found:
        problem = pair_problem(pair.lq, pair.gt, lq, gt, allow_dry)
        if problem is not None:
            report.problems.append(problem)
            continue
        for name, facts in ((pair.lq, lq), (pair.gt, gt)):
            first = files.setdefault(facts.digest, name)
            if first != name:
                report.duplicates.append(f"{name} has the same bytes as {first}.")
        again = lq.digest + gt.digest in seen
        seen.add(lq.digest + gt.digest)
        if not (again and drop_duplicates):
            yield pair, lq.size


def _examined(
    root: str, records: Iterable[ManifestRecord], check: str, convert: Collection[str], workers: int
) -> Iterator[Examined]:
    _examine_file.cache_clear()  # files may have changed since this process last looked
    return map_in_processes(partial(_examine_pair, root, check, tuple(convert)), records, workers)


def _examine_pair(root: str, check: str, convert: tuple[str, ...], pair: ManifestRecord) -> Examined:
    return pair, *(_examine_file(os.path.join(root, name), check, convert) for name in (pair.lq, pair.gt))


@lru_cache(maxsize=64)  # a clean image is shared by its neighbours in the list
def _examine_file(path: str, check: str, convert: tuple[str, ...]) -> FileFacts:
    try:
        data = read_file(path)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        image = decode_strictly(data, path, convert) if check == "decode" else EncodedImage(data, path, convert)
    except DataError as error:
        return FileFacts((0, 0), b"", str(error))
    return FileFacts((image.height, image.width), digest, "")


def pair_problem(
    lq: str, gt: str, lq_facts: FileFacts, gt_facts: FileFacts, allow_dry: bool = False
) -> tuple[str, str] | None:
    """Return (kind, message) of what is wrong with a pair, or None; a pair without rain is, unless ``allow_dry``."""
    for facts in (lq_facts, gt_facts):
        if facts.error:
            return "unreadable", facts.error
    if lq_facts.size != gt_facts.size:
        sizes = ["×".join(map(str, facts.size)) for facts in (lq_facts, gt_facts)]
        return "size", f"{lq} is {sizes[0]} (height × width), but {gt} is {sizes[1]}; expected equal sizes."
    if lq_facts.digest == gt_facts.digest and not allow_dry:
        return "identical", f"{lq} and {gt} have the same bytes: there is no rain to remove (--allow-dry accepts this)."
    return None


def check_manifest(
    path: str, check: str, convert: Collection[str], workers: int, allow_dry: bool
) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) for every line of a manifest that does not keep what it promises."""
    root = os.path.dirname(os.path.abspath(path))
    found = _examined(root, read_manifest(path), check, convert, workers)
    for number, (record, lq, gt) in enumerate(tqdm(found, unit="pair"), 1):
        problem = pair_problem(record.lq, record.gt, lq, gt, allow_dry)
        if problem is None and record.size not in (None, lq.size):
            sizes = ["×".join(map(str, size)) for size in (lq.size, record.size)]
            problem = ("size", f"{record.lq} is {sizes[0]} (height × width), but the line says {sizes[1]}.")
        if problem is not None:
            yield problem[0], f"{path}:{number}: {problem[1]}"
