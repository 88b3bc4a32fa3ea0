"""Processes that this package starts end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TypeVar

from unirain_plugin.errors import DataError

_T = TypeVar("_T")
_R = TypeVar("_R")


def end_with_parent() -> None:
    """Call in a child process: it exits with status 1 once its parent is gone. In a main process nothing happens.

    The ranks of torchrun are children too (it gives them TORCHELASTIC_RUN_ID); torch's loader workers end with them.
    """
    parent = multiprocessing.parent_process()
    sentinel = None if parent is None else parent.sentinel
    if parent is None and "TORCHELASTIC_RUN_ID" in os.environ and hasattr(os, "pidfd_open"):
        sentinel = os.pidfd_open(os.getppid())
    if sentinel is not None:
        threading.Thread(target=_exit_after, args=(sentinel,), daemon=True).start()


def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, *arguments: object, preload: Sequence[str] = ()
) -> ProcessPoolExecutor:
    """A pool of ``workers`` fresh processes that end with this one; each begins with ``initializer(*arguments)``.

    ``preload``: modules that a fork server imports once for all of them (without threads or CUDA).
    """
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    return _Pool(workers, context, initializer=_begin, initargs=(initializer, arguments))


class _Pool(ProcessPoolExecutor):
    def submit(self, *task: object, **keywords: object) -> Future:
        with uninterrupted():  # here its processes are started
            return super().submit(*task, **keywords)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that are started inside the block never see Ctrl-C, which is for this one: it ends them in order.

    A signal that comes meanwhile acts after the block: Python loses what is raised in the middle of a fork.
    """
    resource_tracker.ensure_running()  # as it starts it would lift the mask
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: handler for number, handler in handlers.items() if in_main and callable(handler)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))  # another thread may take what this one blocks
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for this process and those that are started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def map_in_order(
    pool: Executor, function: Callable[[_T], _R], items: Iterable[_T], ahead: int, chunk: int = 1
) -> Iterator[_R]:
    """Map lazily and in order, ``ahead`` chunks of ``chunk`` items at a time; what is left is given up at an error."""
    source, waiting = iter(items), deque()
    try:
        while batch := list(islice(source, chunk)):
            waiting.append(pool.submit(_apply, function, batch))
            if len(waiting) >= ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def map_in_processes(
    function: Callable[[_T], _R], items: Iterable[_T], workers: int, chunk: int = 16, or_else: str = ""
) -> Iterator[_R]:
    """Map in order and lazily: few items (below ``chunk``²) or ``workers`` ≤ 1 in this process, else in fresh ones.

    There OpenCV has one thread. If one of them dies, a DataError says what helps, ``or_else`` too.
    """
    source = iter(items)
    first = list(islice(source, chunk**2))
    if workers <= 1 or len(first) < chunk**2:
        yield from map(function, chain(first, source))
        return
    import cv2  # most who start processes read no images

    try:
        with process_pool(workers, cv2.setNumThreads, 1) as pool:
            yield from map_in_order(pool, function, chain(first, source), 3 * workers + 1, chunk)
    except BrokenProcessPool:
        raise DataError(f"a worker process died, perhaps for lack of memory: use fewer --workers{or_else}.") from None


def _apply(function: Callable[[_T], _R], batch: list[_T]) -> list[_R]:
    return [function(item) for item in batch]


def _begin(initializer: Callable[..., None] | None, arguments: Sequence[object]) -> None:
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
