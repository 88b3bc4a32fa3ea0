"""Processes that this package starts end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Call in a child process: it exits with status 1 once its parent is gone. In a main process nothing happens.

    A killed parent cannot end its children. They would wait for work for ever, or go on writing into its folder.
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
    """A pool of fresh processes that end with this one.

    Args:
        workers: How many.
        initializer: Called in each with ``arguments`` before it takes up work.
        *arguments: Its arguments.
        preload: Modules that a fork server imports once for all of them (without threads or CUDA); else each process
            imports anew.
    """
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(initializer, arguments))


def _begin(initializer: Callable[..., None] | None, arguments: Sequence[object]) -> None:
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
