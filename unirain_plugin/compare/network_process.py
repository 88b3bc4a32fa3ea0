"""A network in a process of its own: whatever becomes of it, the comparison goes on.

The process loads the network, says so, and then answers one request after the other. A request may be sent before the
last answer has been worked up, so that the parent scores one picture while the next is being restored.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from unirain_plugin.compare.networks import NetworkSpec, load_network
from unirain_plugin.compare.samples import Source
from unirain_plugin.errors import UniRainError
from unirain_plugin.support.processes import end_with_parent

_PRELOADED = "unirain_plugin.compare.preloaded"
_GRACE = 5
"""Seconds that a process has to end by itself."""


class NetworkError(UniRainError):
    """A request failed; the process goes on."""


class NetworkDied(UniRainError):  # noqa: N818  it names an event
    """The process has ended: it could not load the network, crashed, or was killed."""


class NetworkProcess:
    """Runs one network in another process. A context manager; leaving it ends the process.

    Args:
        spec: The network.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        context = _context(spec.device)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> NetworkProcess:
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
        """The next answer; the first one, a remark on loading, comes unasked.

        Raises:
            NetworkError: If the request failed.
            NetworkDied: If the process has ended.
        """
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            raise NetworkDied(self._last_words()) from None
        if kind == "answer":
            return content
        raise (NetworkDied if kind == "dead" else NetworkError)(content)

    def call(self, request: str, *arguments: object) -> Any:
        """Send a request and wait for its answer.

        Raises:
            NetworkError: As :meth:`receive`.
            NetworkDied: Likewise.
        """
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


def _context(device: str) -> Any:
    """How processes are started: cheaply from one that has the imports done, where that is safe (not with CUDA)."""
    from unirain_plugin.inference.loading import choose_device

    if "forkserver" not in multiprocessing.get_all_start_methods() or choose_device(device).type != "cpu":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def _serve(connection: Connection, spec: NetworkSpec) -> None:
    """Body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process in order
    end_with_parent()
    try:
        net, remark = load_network(spec)
    except Exception as error:
        connection.send(("dead", reason(error)))
        return
    connection.send(("answer", remark))
    requests = _requests(net, spec)
    while (message := connection.recv()) is not None:
        name, arguments = message
        try:
            connection.send(("answer", requests[name](*arguments)))
        except Exception as error:  # a picture, or memory: other pictures may do
            connection.send(("error", reason(error)))


def _requests(net: Any, spec: NetworkSpec) -> dict[str, Callable[..., object]]:
    from unirain_plugin.compare import cost
    from unirain_plugin.inference.images import StoredImage, write_image
    from unirain_plugin.inference.restoring import restore

    options = spec.restore_options()

    def restore_picture(source: Source, target: Path) -> float:
        """Restore ``source`` into the PNG file ``target``; the seconds that the network took."""
        picture = source.picture()
        start = time.perf_counter()
        restored = restore(net, picture, **vars(options))
        seconds = time.perf_counter() - start
        write_image(target, StoredImage(restored))
        return seconds

    return {
        "restore": restore_picture,
        "peak": lambda size: cost.peak_memory(net, size, options),
        "seconds": lambda size: cost.seconds(net, size, options),
        "complexity": lambda size: cost.count(net, size),
    }


def reason(error: BaseException) -> str:
    """An error in one line for a table's row; unexpected kinds say what they are."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4])
    if isinstance(error, MemoryError):
        return f"out of memory {text}".strip()
    return text if isinstance(error, UniRainError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
