"""``benchmark runtimes``: what each runtime makes of trained weights: differences, time and memory against torch.

The weights are exported (onnx, pt2, torchscript) and run on rendered rain, in one thread. Runtimes take turns, and the
processor time of their process is measured: on an idle machine it is the time that passes. Peak memory is that of
one restoration in a process of its own. int8 is onnxruntime's own quantisation of the ONNX file.
"""

import argparse
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch

from unirain_plugin.compare.report import markdown_table
from unirain_plugin.errors import OptionError
from unirain_plugin.inference.export import export_onnx, export_pt2, export_torchscript, export_weights
from unirain_plugin.inference.loading import load
from unirain_plugin.inference.onnx_network import INPUT, onnx_runtime
from unirain_plugin.metrics.complexity import peak_growth
from unirain_plugin.metrics.psnr_ssim import psnr
from unirain_plugin.rain.pair_files import cut, read_photo
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.benchmarks.arch import apart
from unirain_plugin.study.benchmarks.cli import expect_known, interleaved, tell, threads, work_folder
from unirain_plugin.support.packages import add_network_arguments, import_named, import_own

_tell = partial(tell, "runtimes")
Run = Callable[[np.ndarray], np.ndarray]  # maps ``(1, 3, H, W)`` float32 in [0, 1] to the restored image


def _in_torch(program: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    return lambda x: program(torch.from_numpy(x)).numpy()


def _onnxruntime(weights: Path, suffix: str = ".onnx") -> Run:
    runtime = onnx_runtime("benchmark runtimes")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(weights.with_suffix(suffix)), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {INPUT: x})[0]


def _openvino(weights: Path, **hints: str) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, **hints}
    compiled = openvino.Core().compile_model(str(weights.with_suffix(".onnx")), "CPU", settings)
    return lambda x: compiled(x)[0]


def _opencv(weights: Path) -> Run:
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(weights.with_suffix(".onnx")))

    def run(x: np.ndarray) -> np.ndarray:
        net.setInput(x)
        return net.forward()

    return run


RUNTIMES: dict[str, tuple[str, str, Callable[[Path], Run]]] = {
    "torch": ("torch", ".safetensors", lambda weights: _in_torch(load(weights, device="cpu"))),
    "pt2": ("torch", ".pt2", lambda weights: _in_torch(torch.export.load(weights.with_suffix(".pt2")).module())),
    "torchscript": ("torch", ".pt", lambda weights: _in_torch(torch.jit.load(str(weights.with_suffix(".pt"))))),
    "onnxruntime": ("onnxruntime", ".onnx", _onnxruntime),
    "openvino f32": ("openvino", ".onnx", lambda weights: _openvino(weights, INFERENCE_PRECISION_HINT="f32")),
    "openvino": ("openvino", ".onnx", _openvino),
    "opencv": ("cv2", ".onnx", _opencv),
    "int8 dynamic": ("onnxruntime", ".dynamic.onnx", lambda weights: _onnxruntime(weights, ".dynamic.onnx")),
    "int8 static": ("onnxruntime", ".static.onnx", lambda weights: _onnxruntime(weights, ".static.onnx")),
}
"""Name → (module whose version is shown, suffix of the file beside the weights, what runs it)."""
BASELINE = "torch"


def write_files(weights: Path, suffixes: Collection[str], calibration: list[np.ndarray]) -> None:
    """Export the weights to files beside them, and quantise the ONNX one."""
    net = load(weights, device="cpu")
    for export, suffix in ((export_onnx, ".onnx"), (export_pt2, ".pt2"), (export_torchscript, ".pt")):
        if any(wanted.endswith(suffix) for wanted in suffixes):
            _tell(f"exporting {suffix}")
            export(net, weights.with_suffix(suffix))
    if not {".dynamic.onnx", ".static.onnx"} & set(suffixes):
        return
    onnx_runtime("benchmark runtimes")
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        images = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image}

    _tell("quantising")
    source = weights.with_suffix(".onnx")
    quantize_dynamic(source, weights.with_suffix(".dynamic.onnx"))
    quantize_static(source, weights.with_suffix(".static.onnx"), Reader(), per_channel=True)


def rainy_pairs(photos: list[Path], size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A rendered window ``(1, 3, size, size)`` in [0, 1] of each photograph and rain type, with the clean (H, W, 3)."""
    rng, pairs = np.random.default_rng(seed), []
    for path in photos:
        for rain_type in RAIN_TYPES:
            pair = render_rain(cut(read_photo(path, convert=("exif",)), (size, size), rng), rain_type, rng)
            pairs.append((np.ascontiguousarray(pair.lq.transpose(2, 0, 1)[None], np.float32) / 255, pair.gt))
    return pairs


def peak_memory(name: str, weights: Path, image: np.ndarray, imports: Sequence[str] = ()) -> int | None:
    """Bytes by which loading and the first restoration raise the peak of this process."""
    import_own(imports)
    torch.set_num_threads(1)
    with torch.inference_mode():
        return peak_growth(lambda: RUNTIMES[name][-1](weights)(image), torch.device("cpu"))


def measure(
    names: list[str],
    weights: Path,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    rounds: int,
    imports: Sequence[str],
) -> list[list[str]]:
    """A row of cells for each runtime: version, largest difference, mean change of the PSNR, time and memory."""
    image = pairs[0][0]
    memory = {}
    for name in names:
        _tell(f"{name}: peak memory")
        memory[name] = apart(peak_memory, name, weights, image, imports)
    _tell("differences and times")
    runs = {name: RUNTIMES[name][-1](weights) for name in names}
    results = {name: [run(lq) for lq, _ in pairs] for name, run in runs.items()}
    clean = [gt for _, gt in pairs]
    scores = {name: mean(map(psnr, map(_image, found), clean)) for name, found in results.items()}
    actions = {name: lambda run=run: run(image) for name, run in runs.items()}
    seconds = interleaved(actions, rounds, "cpu", time.process_time)
    rows = []
    for name in names:
        version = re.match("[0-9.]*", importlib.import_module(RUNTIMES[name][0]).__version__)[0]
        difference = max(np.abs(a - b).max() for a, b in zip(results[name], results[BASELINE], strict=True))
        change = round(scores[name] - scores[BASELINE], 3) + 0.0  # no -0.000
        ratios = [f"{table[name] / table[BASELINE]:.2f}" for table in (seconds, memory)]
        rows.append([name, version, f"{difference:.1e}", f"{change:+.3f}", *ratios])
    return rows


def _image(restored: np.ndarray) -> np.ndarray:
    return (restored[0].transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def compare(args: argparse.Namespace, names: list[str]) -> list[list[str]]:
    with work_folder(None) as folder, torch.inference_mode():
        weights = folder / "w.safetensors"
        export_weights(load(args.weights, args.network, device="cpu"), weights)
        calibration = [lq for lq, _ in rainy_pairs(sample_photos("train")[:2], args.size, 1)]
        write_files(weights, {RUNTIMES[name][1] for name in names}, calibration)
        return measure(names, weights, rainy_pairs(sample_photos("held-out"), args.size, 0), args.rounds, args.imports)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="benchmark runtimes", description=__doc__)
    p.add_argument("--weights", metavar="FILE", help="default: those the package ships")
    add_network_arguments(p)
    known = f"of {', '.join(RUNTIMES)} (default: those that are installed)"
    p.add_argument("--runtimes", nargs="+", default=(), metavar="NAME", help=known)
    p.add_argument("--size", type=int, default=256, help="edge of the images (default: 256)")
    p.add_argument("--rounds", type=int, default=5, help="counted turns; the median is reported (default: 5)")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    missing = {name for name, (module, *_) in RUNTIMES.items() if importlib.util.find_spec(module) is None}
    expect_known("--runtimes", args.runtimes, RUNTIMES)
    for name in args.runtimes:
        if name in missing:
            raise OptionError(f"--runtimes: {name} needs the package {RUNTIMES[name][0]}, which is not installed.")
    if missing and not args.runtimes:
        _tell(f"left out, not installed: {', '.join(sorted(missing))}")
    if args.size < 16 or args.rounds < 1:
        raise OptionError(f"expected --size ≥ 16 and --rounds ≥ 1; found {args.size} and {args.rounds}.")
    import_named(args)
    names = list(dict.fromkeys([BASELINE, *(args.runtimes or [name for name in RUNTIMES if name not in missing])]))
    with threads(1):
        rows = compare(args, names)
    titles = ["runtime", "version", "largest difference", "PSNR, dB", "time ÷ torch", "peak memory ÷ torch"]
    sys.stdout.write(
        f"one thread, {args.size}² images, median of {args.rounds} turns; PSNR: mean change on rendered rain\n\n"
        f"{markdown_table(titles, rows)}"
    )
    return 0
