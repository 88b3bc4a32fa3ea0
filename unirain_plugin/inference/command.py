"""``scripts/inference.py``: restore images, folders and videos."""

import argparse
import sys
from pathlib import Path

from unirain_plugin.data.image_header import add_limit_argument, limited
from unirain_plugin.inference.images import FORMATS
from unirain_plugin.inference.jobs import PIXEL_FORMATS, Outcome, VideoSettings, plan_jobs, restore_files
from unirain_plugin.support.files import check_folder
from unirain_plugin.support.interruptions import resumable
from unirain_plugin.support.packages import add_network_arguments, import_named


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="inference",
        description="Remove rain from images, folders of images and videos. Exit status: 0 all restored, 1 some "
        "files failed (they are listed at the end), 2 nothing could be done.",
    )
    add = p.add_argument
    add("-i", "--input", required=True, type=Path, metavar="PATH", help="image, video, or folder")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    add("--weights", metavar="FILE", help=".safetensors, .pth, or .onnx by export (default: the small network that is "
        "shipped)")  # fmt: skip
    add_network_arguments(p)
    add("--tile", type=int, default=512, help="edge of what is computed at a time, 0: all (default: 512)")
    add("--overlap", type=int, default=32, help="pixels shared by parts (--context) and others' tiles (default: 32)")
    add("--precision", default="fp32", help="fp32, bf16, fp16 or auto (default: fp32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--compare", action="store_true", help="also write before and after side by side, to DIR/compare")
    add("--ensemble", action="store_true", help="average over 8 flips and turns: 8 times the time")
    add("--sizes", type=int, nargs="*", metavar="PX", help="also restore larger images at these longer edges and "
        "blend: for photographs whose drops and streaks are larger than those the network was trained on; without "
        "numbers: the network's own result (default: what the weights' file names, 640 427 in the one that is "
        "shipped)")  # fmt: skip
    add("--context", type=int, metavar="PX", help="restore larger images in overlapping parts of this edge, each as "
        "an image of its own, 0: as a whole (default: what the weights' file names, 384 in the one that is "
        "shipped)")  # fmt: skip
    add("--format", choices=FORMATS, default="keep", help="format of the results (default: as the input)")
    add("--memory", type=float, metavar="GIB", help="for feature maps; beyond it they go to a scratch file")
    add_limit_argument(p)
    add("--deinterlace", action="store_true", help="make whole frames of interlaced videos")
    text = "of videos (default: chroma sampling and depth of the source)"
    add("--pixel-format", choices=PIXEL_FORMATS, default="keep", help=text)
    add("--damaged", action="store_true", help="restore what can be decoded of damaged videos")
    add("--overwrite", action="store_true", help="restore also what has a result already")
    add("--quiet", action="store_true", help="no progress bar")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    plan = plan_jobs(args.input, args.output, args.format, args.compare)
    from unirain_plugin.inference.loading import load  # torch and BasicSR take seconds to import
    from unirain_plugin.inference.restoring import RestoreOptions, restore, videos_with

    sizes = None if args.sizes is None else tuple(args.sizes)
    options = RestoreOptions(args.tile, args.overlap, args.precision, args.ensemble, args.memory, sizes, args.context)
    import_named(args)
    net = load(args.weights, args.network, args.device)
    options.check_network(net)
    check_folder(args.output)
    videos = VideoSettings(args.deinterlace, args.pixel_format, args.damaged)
    if any(job.is_video for job in plan.jobs):
        videos = videos_with(net, options, videos)
    kept = "finished results are kept, and finished parts of a long video: the same command goes on with the rest"
    with resumable(kept), limited(args.max_megapixels):
        outcome = restore_files(
            plan.jobs, lambda x: restore(net, x, **vars(options)), args.overwrite, not args.quiet, videos
        )
    outcome.failed += [(Path(folder), reason) for folder, reason in plan.unlisted]
    sys.stdout.write(summary(outcome, args.output, plan.other_files))
    return 1 if outcome.failed else 0


def summary(outcome: Outcome, output: Path, others: list[Path]) -> str:
    """The closing lines of a run."""
    lines = [f"{len(outcome.done)} restored to {output}"]
    if outcome.skipped:
        texts = "their results exist, whatever weights made them (--overwrite restores them again)"
        lines.append(f"{len(outcome.skipped)} skipped: {texts}")
    passed = {f"without {what} of the source": files for what, files in outcome.lost.items()}
    passed |= {"passed over, neither image nor video": others} if others else {}
    for what, files in passed.items():
        named = ", ".join(path.name for path in files[:5]) + (", …" if len(files) > 5 else "")
        lines.append(f"{len(files)} {what}: {named}")
    for what, told in (("remarks", outcome.notes), ("failed", outcome.failed)):
        if told:
            lines += [f"{len(told)} {what}:", *(f"  {path}: {text}" for path, text in told)]
    return "\n".join(lines) + "\n"
