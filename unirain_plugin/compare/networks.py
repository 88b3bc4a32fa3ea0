"""The networks of a comparison, each in a process of its own, so that the rest goes on if it dies; what they cost.

The process loads the network, says so, and then answers one request after the other. A request may be sent before the
last answer has been worked up, so that the parent scores one image while the next is being restored.
"""

import hashlib
import multiprocessing
import os
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unirain_plugin.checkpoints.weights import read_weights
from unirain_plugin.compare.options import CompareOptions, CostOptions, ModelOptions
from unirain_plugin.compare.samples import Source
from unirain_plugin.errors import CheckpointError, UniRainError, reason
from unirain_plugin.inference import loading
from unirain_plugin.inference.images import StoredImage, write_image
from unirain_plugin.inference.loading import build_network, choose_device
from unirain_plugin.inference.onnx_network import OnnxNetwork
from unirain_plugin.inference.restoring import CONFIDENCE, RestoreOptions, device_of, restore, restore_tensor
from unirain_plugin.metrics.complexity import complexity, peak_memory, seconds
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.support.files import canonical_hash
from unirain_plugin.support.journal import Journal
from unirain_plugin.support.packages import code_hashes, import_own, own_place
from unirain_plugin.support.processes import end_with_parent, uninterrupted
from unirain_plugin.version import __version__

_PRELOADED = [
    "unirain_plugin.compare.networks",
    "unirain_plugin.inference.streamed",
    "unirain_plugin.models.unirain_model",
    "basicsr.archs",
]
"""Imported once by the process from which the networks' processes are forked: each then starts in milliseconds. None
of them computes anything at its import, so no threads exist when the fork happens."""

_GRACE = 5  # seconds that a process has to end by itself


@dataclass(frozen=True)
class NetworkSpec:
    """One network, small enough to be sent to another process: its section, how images are restored, and where.

    ``threads``: of the CPU, or None for torch's choice; ``imports``: modules that register networks.
    """

    options: ModelOptions
    restoring: RestoreOptions
    device: str
    threads: int | None
    imports: tuple[str, ...] = ()

    @property
    def weights(self) -> Path | None:
        given = self.options.weights
        return None if given is None else loading.weights_path(given)

    def fingerprint(self) -> str:
        """Hash of all that a restored image depends on beside its input; CheckpointError if weights are missing."""
        o, r = self.options, self.restoring
        network: Any = Path(o.network).read_text("utf-8") if isinstance(o.network, str) else o.network
        if network is None and self.weights is not None:
            network = loading.experiment_network(self.weights)
        content = {
            "version": __version__,
            "weights": self.weights and _file_hash(self.weights),
            "network": network,
            "loading": [o.param_key, o.strict_load, o.pad_multiple],
            "restoring": [r.tile, r.overlap, r.precision, r.sizes, CONFIDENCE],
        }
        if r.context is not None:  # else as before there were contexts: finished images of then stay finished
            content["context"] = r.context
        if self.imports:
            content["code"] = code_hashes(self.imports)
        return canonical_hash(content)


def spec_of(model: ModelOptions, options: CompareOptions) -> NetworkSpec:
    """The network of a model's section; what it leaves out is as for all. OptionError if something is out of range."""
    keys = ("tile", "overlap", "precision", "sizes", "context")
    chosen = {key: getattr(options if getattr(model, key) is None else model, key) for key in keys}
    chosen["sizes"] = None if chosen["sizes"] is None else tuple(chosen["sizes"])
    paths = {key: path for key in ("weights", "network") if isinstance(path := getattr(model, key), str)}
    model = replace(model, **{key: os.path.expanduser(path) for key, path in paths.items()})
    own = (*options.imports, *_imports_of(model.network))
    return NetworkSpec(model, RestoreOptions(**chosen), options.device, options.cost.threads, own)


def specs_of(options: CompareOptions) -> dict[str, NetworkSpec]:
    """The networks by their models' names; an OptionError if the device or the settings of one are wrong."""
    device = choose_device(options.device)
    specs = {model.name: spec_of(model, options) for model in options.models if model.results is None}
    for spec in specs.values():
        spec.restoring.check_device(device)
    return specs


def _imports_of(network: dict[str, Any] | str | None) -> list[str]:
    """Modules that a network's own option file names, imported; what is wrong with it is told when it is loaded."""
    with suppress(UniRainError):
        modules = read_option_file(network).opt.get("imports") if isinstance(network, str) else None
        if modules:
            import_own(modules, Path(network).parent)
            return modules
    return []


def _file_hash(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error.strerror or error}.") from None


def load_network(spec: NetworkSpec) -> tuple[nn.Module, str]:
    """Build the network and load its weights: ready to restore, with a remark (empty in the usual case).

    A CheckpointError if the weights are missing, broken or another network's; an OptionError for network or device.
    """
    import_own(spec.imports)
    o, remark = spec.options, ""
    where = f"models: {o.name}: network"
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    spec.restoring.check_device(device)
    if o.untrained or not o.strict_load:
        section = (
            loading.network_section(Path(o.network), with_imports=True) if isinstance(o.network, str) else o.network
        )
        torch.manual_seed(0)
        if section is None:
            raise CheckpointError(f"{where}: strict_load: false needs the network's `type` and arguments.")
        net = build_network(section, where)
        if not o.untrained:
            remark = _fill_partly(net, spec)
        net = net.eval().requires_grad_(False).to(device)
    else:
        net = loading.load(spec.weights, o.network, device, o.param_key)
    multiple = o.pad_multiple or int(net.architecture.get("window_size", 1))
    return (_Padded(net, multiple).eval() if multiple > 1 else net), remark


def _fill_partly(net: nn.Module, spec: NetworkSpec) -> str:
    file = read_weights(spec.weights, spec.options.param_key)
    wanted = net.state_dict()
    fitting = {k: v for k, v in file.state_for(wanted).items() if k in wanted and wanted[k].shape == v.shape}
    if not fitting:
        loading.fill(net, file, str(net.architecture["type"]))  # tells which keys differ
    net.load_state_dict(fitting, strict=False)
    return "" if len(fitting) == len(wanted) else f"{len(fitting)} of {len(wanted)} weights loaded (strict_load: false)"


class _Padded(nn.Module):
    """Pads at the right and bottom to a multiple, and cuts the result back."""

    def __init__(self, net: nn.Module, multiple: int) -> None:
        super().__init__()
        self.net, self.multiple = net, multiple
        self.architecture = net.architecture
        self.restore_sizes, self.restore_context = getattr(net, "restore_sizes", ()), getattr(net, "restore_context", 0)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        mode = "reflect" if bottom < height and right < width else "replicate"
        return self.net(F.pad(x, (0, right, 0, bottom), mode))[..., :height, :width]


class NetworkError(UniRainError):
    """A request failed; the process goes on."""


class NetworkDied(UniRainError):  # noqa: N818  it names an event
    """The process has ended: it could not load the network, crashed, or was killed."""


class NetworkProcess:
    """Runs one network in another process. A context manager; leaving it ends the process."""

    def __init__(self, spec: NetworkSpec) -> None:
        # started cheaply from one that has the imports done, where that is safe (not with CUDA)
        cheaply = choose_device(spec.device).type == "cpu"
        context = multiprocessing.get_context("forkserver" if cheaply else "spawn")
        if cheaply:
            context.set_forkserver_preload(_PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        with uninterrupted():
            self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with suppress(OSError):  # it has gone already
                self._connection.send(None)
                self._process.join(_GRACE)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def send(self, request: str, *arguments: object) -> None:
        """Send a request: ``restore``, ``peak``, ``seconds`` or ``complexity``, with the arguments of these."""
        with suppress(OSError):  # it has ended; receive tells why
            self._connection.send((request, arguments))

    def receive(self) -> Any:
        """The next answer (the first: a remark on loading); NetworkError if it failed, NetworkDied at the end."""
        try:
            kind, content, cause = self._connection.recv()
        except (EOFError, OSError):
            raise NetworkDied(self._last_words()) from None
        if kind == "answer":
            return content
        raise (NetworkDied if kind == "dead" else NetworkError)(content) from cause

    def call(self, request: str, *arguments: object) -> Any:
        """Send a request and wait for its answer, which may raise as :meth:`receive` does."""
        self.send(request, *arguments)
        return self.receive()

    def _last_words(self) -> str:
        self._process.join(_GRACE)
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "its process was killed (signal 9), most likely by the system for lack of memory"
        if code is not None and code < 0:
            return f"its process crashed ({signal.Signals(-code).name})"
        return f"its process ended unexpectedly (exit status {code})"


def _serve(connection: Connection, spec: NetworkSpec) -> None:
    end_with_parent()
    try:
        net, remark = load_network(spec)
    except Exception as error:
        connection.send(("dead", _in_one_line(error), None))
        return
    connection.send(("answer", remark, None))
    requests = _requests(net, spec)
    while (message := connection.recv()) is not None:
        name, arguments = message
        try:
            connection.send(("answer", requests[name](*arguments), None))
        except Exception as error:  # an image, or memory: other images may do
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else None  # a full disk is told by it
            connection.send(("error", _in_one_line(error), cause))


def _requests(net: nn.Module, spec: NetworkSpec) -> dict[str, Callable[..., object]]:
    device = device_of(net)
    is_onnx = isinstance(net.net if isinstance(net, _Padded) else net, OnnxNetwork)

    def once(image: Tensor) -> Tensor:
        return restore_tensor(net, image, spec.restoring)

    def restore_file(source: Source, target: Path) -> None:
        write_image(target, StoredImage(restore(net, source.pixels(), **vars(spec.restoring))))

    return {
        "restore": restore_file,
        "peak": lambda size: peak_memory(once, size, device),
        "seconds": lambda size: seconds(once, size, device),
        "complexity": lambda size: None if is_onnx else complexity(net, (size, size)),  # it cannot be counted
    }


def _in_one_line(error: BaseException) -> str:
    """An error in one line for a table's row; unexpected kinds say what they are."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4])
    if isinstance(error, MemoryError):
        return f"out of memory {text}".strip()
    if isinstance(error, UniRainError) and text:
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ") + own_place(error)


Costs = dict[str, dict[str, float | None]]  # network → the fields of ModelRow that tell its cost


def measure_costs(specs: Sequence[NetworkSpec], options: CostOptions, journal: Journal) -> tuple[Costs, dict[str, str]]:
    """Measure, or take over from the journal if nothing has changed since: costs, and network → what went wrong."""
    try:
        state = canonical_hash([asdict(options), [[s.options.name, s.device, s.fingerprint()] for s in specs]])
    except (UniRainError, OSError) as error:  # weights that have gone meanwhile
        return {}, {spec.options.name: reason(error) for spec in specs}
    records = {spec.options.name: journal.get("cost", spec.options.name) for spec in specs}
    if all(record is not None and record["state"] == state for record in records.values()):
        return {name: record["cost"] for name, record in records.items()}, {}
    failures: dict[str, str] = {}
    costs = _measure(specs, options, failures)
    for name, cost in costs.items():
        if name not in failures:  # what failed is tried anew next time
            journal.add(("cost", name), {"state": state, "cost": cost})
    return costs, failures


def _measure(specs: Sequence[NetworkSpec], options: CostOptions, failures: dict[str, str]) -> Costs:
    costs: Costs = {}
    with ExitStack() as stack:
        running: dict[str, NetworkProcess] = {}
        for spec in specs:
            name = spec.options.name
            process = stack.enter_context(NetworkProcess(spec))
            with _noted(failures, name):
                process.receive()
                peak = process.call("peak", options.size)
                costs[name] = {"peak_memory_mb": None if peak is None else peak / 2**20}
                running[name] = process
        times = _take_turns(running, options, failures)
        for name in [name for name in running if name not in failures]:
            counts = None, None
            with _noted(failures, name, "its multiply-adds cannot be counted: "):
                complexity = running[name].call("complexity", options.multiply_adds_size)
                counts = (complexity.parameters, complexity.multiply_adds) if complexity else counts
            latency = 1000 * statistics.median(times[name]) if times[name] else None
            costs[name] |= {"parameters": counts[0], "multiply_adds": counts[1], "latency_ms": latency}
    return costs


@contextmanager
def _noted(failures: dict[str, str], name: str, text: str = "") -> Iterator[None]:
    """What a network's process says or leaves unsaid does not concern the others."""
    try:
        yield
    except (NetworkDied, NetworkError) as error:
        failures[name] = f"{text}{reason(error)}"


def _take_turns(
    running: dict[str, NetworkProcess], options: CostOptions, failures: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds of each network and round; the first round, which warms up, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(options.rounds + 1):
        for name in [name for name in running if name not in failures]:
            with _noted(failures, name):
                seconds = running[name].call("seconds", options.size)
                times[name] += [seconds] if number else []
    return times
