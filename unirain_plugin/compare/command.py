"""``scripts/compare.py``: compare models on test sets, with tables, figure and page."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from unirain_plugin.compare.options import DEFAULT_WEIGHTS, CompareOptions, ModelOptions, SetOptions, load_options
from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.protocols import PROTOCOLS, check_protocol
from unirain_plugin.support.interruptions import resumable


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="compare",
        description="Compare models on test sets. What is finished is kept: the same command goes on where an earlier "
        "one was stopped. Exit status: 0 all went well, 1 something failed (told in its row and at the end), 2 nothing "
        "could be done.",
    )
    add = p.add_argument
    add("-opt", metavar="YML", help="option file, such as options/compare/held_out.yml")
    add("--output", type=Path, metavar="DIR", help="instead of the option file's output folder")
    add("--device", help="instead of the option file's device: auto, cpu, cuda, cuda:1, mps")
    add("--protocol", nargs="+", metavar="NAME", help="instead of the option file's protocol, how PSNR and SSIM are "
        f"taken: {', '.join(PROTOCOLS)}; further ones add columns")  # fmt: skip
    add("--which-protocol", metavar="NUMBER", help="tell under which protocol the finished images (results: of the "
        "option file) have this PSNR (dB) or SSIM, with the differences of all; no tables are written")  # fmt: skip
    add("--results", type=Path, metavar="DIR", help="in place of -opt, for --which-protocol: finished images")
    add("--gt", type=Path, metavar="DIR", help="the clean images that go with --results, equal names")
    add("--dry-run", action="store_true", help="check the option file and that files are there, list models and test "
        "sets, compute nothing")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    options = _options(args)
    for name in args.protocol or ():
        check_protocol(name, "--protocol")
    given = {"output": args.output, "device": args.device, "protocol": args.protocol}
    options = replace(options, **{key: value for key, value in given.items() if value is not None})
    if args.dry_run:
        from unirain_plugin.compare.networks import specs_of

        specs_of(options)
        missing = missing_files(options)
        sys.stdout.write(plan(options))
        sys.stderr.write("".join(f"warning: {line}\n" for line in missing))
        return 1 if missing else 0
    from unirain_plugin.compare.referee import which_protocol
    from unirain_plugin.compare.report import markdown
    from unirain_plugin.compare.run import run  # torch and BasicSR take seconds to import

    with resumable("finished results are kept, the same command goes on with the rest"):
        if args.which_protocol is not None:
            text, outcome = which_protocol(options, args.which_protocol, bar=not args.quiet)
        else:
            outcome = run(options, bar=not args.quiet)
            text = markdown(outcome, options) + "\n" + "".join(f"{path}\n" for path in outcome.files)
    sys.stdout.write(text)
    for line in outcome.failures:
        sys.stderr.write(f"warning: {line}\n")
    return 1 if outcome.failures else 0


def _options(args: argparse.Namespace) -> CompareOptions:
    """The option file's, or for a claim those of two folders."""
    folders = args.results is not None and args.gt is not None
    if (args.opt is None) != folders or (folders and args.which_protocol is None):
        raise OptionError("compare: expected -opt YML, or --which-protocol NUMBER --results DIR --gt DIR.")
    if args.opt is not None:
        return load_options(args.opt)
    models = [ModelOptions(args.results.name, results=args.results)]
    return CompareOptions("claim", models, [SetOptions(args.gt.name, lq=args.gt, gt=args.gt)])


def missing_files(options: CompareOptions) -> list[str]:
    """A line for each file or folder of a model that is not there."""
    lines = []
    for model in options.models:
        weights = None if model.weights == DEFAULT_WEIGHTS else model.weights
        network = model.network if isinstance(model.network, str) else None
        for key, path in (("weights", weights), ("network", network), ("results", model.results)):
            if path is not None and not Path(path).expanduser().exists():
                lines.append(f"{model.name}: {key}: there is no {path}.")
    return lines


def plan(options: CompareOptions) -> str:
    from unirain_plugin.compare.samples import list_samples

    lines = [f"output: {options.output_folder}", f"metrics: {', '.join(options.metric_names)}", "models:"]
    lines += [*(f"  {name}" for name in options.rows), "test sets:"]
    for test_set in options.test_sets:
        known = test_set.synthesize is None
        count = f"{len(list_samples(test_set, options.output_folder / 'data'))} images" if known else "to be rendered"
        lines.append(f"  {test_set.name}: {count}")
    return "\n".join(lines) + "\n"
