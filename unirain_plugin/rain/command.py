"""``python -m unirain_plugin synthesize-rain``: rain, snow and haze on clean photographs, in RainRAG's layout."""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from tqdm import tqdm

from unirain_plugin.data.images import CONVERSIONS
from unirain_plugin.data.pairs import read_file
from unirain_plugin.errors import DataError, OptionError, did_you_mean
from unirain_plugin.rain.pair_files import PairJob, list_images, make_pairs, output_names
from unirain_plugin.rain.render import MIN_SIDE
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain.scene import check_renderers
from unirain_plugin.rain_types import RAIN_TYPES, rain_type_ids
from unirain_plugin.support.files import safe_path, write_errors, write_whole
from unirain_plugin.support.interruptions import resumable
from unirain_plugin.support.packages import import_own

SETTINGS_FILE = "synthesis.json"
"""Written into the output: what it was made with, so that ``--resume`` cannot mix two kinds of data."""
RENDERER_VERSION = 11  # to be raised whenever the same seed gives other pixels
KEPT_CONVERSIONS = ("depth16", "exif", "cmyk")
"""Conversions accepted by default: they lose nothing that an 8-bit RGB image could hold."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="synthesize-rain",
        description="Render rain onto clean photographs: writes OUTPUT/{type}/{input,target}/NAME_k.png.",
        epilog="A pair depends only on its photograph (name and pixels), its type and number, the seed and the options "
        "that shape it; not on the order, the other photographs or --workers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", type=Path, metavar="DIR", help="folder of photographs, searched with its sub-folders (default: the "
        "photographs that scikit-image installs)")  # fmt: skip
    add("--output", type=Path, metavar="DIR", required=True, help="folder to write to; must be empty or new")
    add("--types", nargs="+", metavar="TYPE", default=list(RAIN_TYPES), help="some of drs drd nrs nrd snow haze "
        "(default: the four types of rain)")  # fmt: skip
    add("--imports", nargs="+", metavar="MODULE", default=[], help="modules of your own that add types")
    add("--per-image", type=int, metavar="N", default=1, help="pairs for each photograph and type (default: 1)")
    add("--size", type=int, nargs="+", metavar="PX", help="height and width (one number: both) of random windows at "
        "random scale (default: whole photographs)")  # fmt: skip
    add("--vary-colours", action="store_true", help="give each window other colours first: more variety from few "
        "photographs (the clean image is the changed one)")  # fmt: skip
    add("--vary-rain", action="store_true", help="for training, not for testing: 80 %% of the pairs show one of the "
        "kinds of rain that real photographs show; some photographs are first darkened, put out of focus, crossed by "
        "bars or compressed, in both images")  # fmt: skip
    add("--dull-share", type=float, metavar="SHARE", help="with --vary-rain: share of those kinds' streaks by day "
        "before a darker scene, whose target keeps its light (default: 0.3, but 0.9 of smeared noise, none of some "
        "others)")  # fmt: skip
    add("--rain-scale", type=float, metavar="MAX", default=1.0, help="show half of the pairs rain up to MAX times as "
        "large as rain of --size, as in a window of a larger image; above 1 the other half rain as small as in a "
        "window of 192 (default: 1)")  # fmt: skip
    add("--dry-share", type=float, metavar="SHARE", default=0.0, help="share of the pairs without rain, so that a "
        "network learns to leave clean images alone (default: 0)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed, 0 or more (default: 0)")
    add("--workers", type=int, metavar="N", default=1, help="processes (default: 1, no extra process)")
    add("--split", metavar="NAME", help="without --input: train, held-out or all (default: all)")
    add("--convert", nargs="*", metavar="KIND", default=list(KEPT_CONVERSIONS), help="kinds of photographs to accept "
        "with a conversion: grey alpha depth16 cmyk exif (default: depth16 exif cmyk)")  # fmt: skip
    add("--skip-bad", action="store_true", help="leave out photographs that cannot be used, and name them at the end")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="first remove the pairs that it wrote to OUTPUT")
    existing.add_argument("--resume", action="store_true", help="keep the pairs that are there, make those missing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors are of wrong arguments, of photographs, and of an output that holds something else."""
    args = build_parser().parse_args(argv)
    import_own(args.imports)
    size = _check_arguments(args)
    photos = _find_photos(args)
    names = output_names([key for key, _ in photos])
    _prepare_output(args, size, dict(zip(names, (path for _, path in photos), strict=True)))
    jobs = list(_plan(args, photos, names, size))
    todo = [job for job in jobs if not (args.resume and all(path.exists() for path in job.paths))]
    with resumable(f"the pairs written to {args.output} are whole; go on with --resume"):
        failures = _work(todo, args.workers, args.skip_bad)
    for photo, message in failures.items():
        sys.stderr.write(f"left out: {message if photo in message else f'{photo}: {message}'}\n")
    made = len(jobs) - sum(job.photo in failures for job in jobs)
    if not made:
        raise DataError(f"none of the {len(photos)} photographs could be used; see above.")
    sys.stdout.write(f"{args.output}: {made} pairs of {len(photos) - len(failures)} photographs, "
                     f"{len(args.types)} rain types, {len(failures)} photographs left out\n")  # fmt: skip
    return 0


def _check_arguments(args: argparse.Namespace) -> tuple[int, int] | None:
    """Check what argparse cannot; return the size as (height, width)."""
    check_renderers(args.types, "--types")
    for value in args.convert:
        if value not in CONVERSIONS:
            hint = did_you_mean(value, CONVERSIONS)
            raise OptionError(f"--convert: {value!r} is unknown; expected some of {', '.join(CONVERSIONS)}.{hint}")
    for option, values in (("--types", args.types), ("--convert", args.convert)):
        if len(set(values)) < len(values):
            raise OptionError(f"{option}: {' '.join(values)}: something is listed twice.")
    rain_type_ids(args.types)  # a renderer's own name may be none that data sets take
    least_of = {"--per-image": (args.per_image, 1), "--seed": (args.seed, 0), "--workers": (args.workers, 1)}
    for option, (value, least) in least_of.items():
        if value < least:
            raise OptionError(f"{option}: found {value}; expected at least {least}.")
    if args.dull_share is not None and not args.vary_rain:
        raise OptionError("--dull-share: needs --vary-rain; without it nothing is made dull.")
    for option, share in (("--dry-share", args.dry_share), ("--dull-share", args.dull_share or 0)):
        if not 0 <= share <= 1:
            raise OptionError(f"{option}: found {share}; expected a share from 0 to 1.")
    if not 1 <= args.rain_scale < math.inf:
        raise OptionError(f"--rain-scale: found {args.rain_scale}; expected a number of at least 1.")
    if args.rain_scale > 1 and args.size is None:
        raise OptionError("--rain-scale: needs --size; on whole photographs rain has the size that fits them.")
    if args.split is not None and args.input is not None:
        raise OptionError("--split divides the embedded photographs; it cannot be used together with --input.")
    if args.size is None:
        return None
    if len(args.size) > 2:
        raise OptionError(f"--size: found {len(args.size)} numbers; expected height and width, or one number for both.")
    if min(args.size) < MIN_SIDE:
        raise OptionError(f"--size: found {min(args.size)}; expected at least {MIN_SIDE} pixels.")
    return args.size[0], args.size[-1]


def _find_photos(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Key (path relative to the input) and path of every photograph, sorted."""
    if args.input is None:
        return [(path.name, str(path)) for path in sample_photos(args.split or "all")]
    photos = list_images("--input", args.input)
    if args.output.resolve().is_relative_to(args.input.resolve()):
        raise OptionError(f"--output {args.output} lies inside --input {args.input}: its images would be taken for "
                          "photographs; name a folder elsewhere.")  # fmt: skip
    if args.input.resolve().is_relative_to(args.output.resolve()):
        raise OptionError(f"--input {args.input} lies inside --output {args.output}, which is written to; name a "
                          "folder elsewhere.")  # fmt: skip
    return [(path.relative_to(args.input).as_posix(), str(path)) for path in photos]


def _plan(
    args: argparse.Namespace, photos: list[tuple[str, str]], names: list[str], size: tuple[int, int] | None
) -> Iterator:
    """One job a pair; those of one photograph follow each other, so that it is decoded once."""
    shape = {**_settings(args, size), "imports": tuple(args.imports)}
    for (key, path), name in zip(photos, names, strict=True):
        for rain_type, k in product(args.types, range(args.per_image)):
            yield PairJob(path, key, str(args.output), f"{name}_{k}.png", rain_type, k, **shape)


def _settings(args: argparse.Namespace, size: tuple[int, int] | None) -> dict[str, object]:
    """What shapes every pair, by the names of ``PairJob``; as JSON reads it back."""
    names = ["seed", "vary_colours", "vary_rain", "rain_scale", "dry_share", "dull_share"]
    chosen = {name: getattr(args, name) for name in names}
    return {**chosen, "size": size and list(size), "convert": sorted(args.convert)}


def _prepare_output(args: argparse.Namespace, size: tuple[int, int] | None, photos: dict[str, str]) -> None:
    """Refuse, clear or take over what is in the output, then make the folders and note settings and pairs."""
    output, record = args.output, args.output / SETTINGS_FILE
    digests = {name: _digest(path) for name, path in photos.items()}
    pairs = {"names": list(photos), "types": args.types, "per_image": args.per_image, "photographs": digests}
    settings = {"renderer": RENDERER_VERSION, **_settings(args, size)}
    if output.exists() and not output.is_dir():
        raise DataError(f"--output {output}: is a file; expected a folder.")
    if output.is_dir() and any(output.iterdir()):
        if not (args.overwrite or args.resume):
            raise DataError(f"--output {output}: is not empty. Name another folder, or add --overwrite (make all anew) "
                            "or --resume (make what is missing).")  # fmt: skip
        earlier = _read_settings(record)
        made = earlier.pop("pairs")
        if args.resume and earlier != settings:
            changed = ", ".join(f"{k} {earlier.get(k)} → {v}" for k, v in settings.items() if earlier.get(k) != v)
            raise DataError(
                f"--resume: {output} was made with other settings ({changed}); use the same or --overwrite."
            )
        if args.overwrite:
            _remove_pairs(output, made)
        else:
            before = made.get("photographs", {})  # an earlier version noted none
            for name in photos.keys() & before.keys():
                if before[name] != digests[name] and any(path.exists() for path in _files(output, made, name)):
                    raise DataError(f"--resume: {output} holds pairs of another photograph than {photos[name]}; use "
                                    "that one, or --overwrite.")  # fmt: skip
            pairs = {"names": sorted({*photos, *made["names"]}), "types": sorted({*args.types, *made["types"]}),
                     "per_image": max(args.per_image, made["per_image"]),
                     "photographs": {**before, **digests}}  # fmt: skip
    with write_errors(f"--output {output}"):
        for folder in _folders(output, args.types):
            folder.mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps({**settings, "pairs": pairs}, indent=1) + "\n")


def _digest(path: str) -> str | None:
    """SHA-256 of a photograph; None if it cannot be read, which is told where it is rendered."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except DataError:
        return None


def _remove_pairs(output: Path, made: dict) -> None:
    """Remove the pairs that were made, other files stay; and the folders that this empties."""
    for name in made["names"]:
        for path in _files(output, made, name):
            path.unlink(missing_ok=True)
    for folder in _folders(output, made["types"]):
        for empty in (folder, folder.parent):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()


def _folders(output: Path, types: Sequence[str]) -> list[Path]:
    return [output / safe_path(rain_type) / side for rain_type in types for side in ("input", "target")]


def _files(output: Path, made: dict, name: str) -> Iterator[Path]:
    """Where the images of a photograph's pairs are, or would be."""
    for folder, k in product(_folders(output, made["types"]), range(made["per_image"])):
        yield folder / f"{safe_path(name)}_{k}.png"


def _read_settings(record: Path) -> dict:
    """The settings of an earlier run and, as ``pairs``, what it made."""
    try:
        settings = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("pairs"), dict):
        raise DataError(
            f"--output {record.parent}: is not empty and was not made by this command ({record.name} is missing, "
            "broken or of an earlier version), so nothing in it is touched; name another folder."
        )
    return settings


def _work(jobs: list, workers: int, skip_bad: bool) -> dict[str, str]:
    """Make the pairs behind a progress bar; return photograph → message for those left out."""
    failures: dict[str, str] = {}
    with tqdm(total=len(jobs), unit="pair", desc="rain", disable=not jobs) as bar:
        for job, message in make_pairs(jobs, min(workers, max(len(jobs), 1))):
            bar.update()
            if message and not skip_bad:
                raise DataError(f"{message} (--resume --skip-bad goes on and leaves such photographs out.)")
            if message:
                failures[job.photo] = message
    return failures
