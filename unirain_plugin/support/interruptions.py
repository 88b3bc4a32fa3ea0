"""Ctrl-C and SIGTERM: a program ends in order, and says what is kept. Imported first of all, so it imports little."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing half-written is left behind (in the main thread only).

    A second signal ends the process at once. What the parent wants ignored (``nohup``) is. The ranks of torchrun, which
    may wait for each other where Python sees no signal, end at the first as the system has it. What is raised in a
    callback, where Python would lose it, is raised again; so is what a library makes an error of its own of, as numpy's
    import does.
    """
    came: list[KeyboardInterrupt] = []
    again: list[threading.Timer] = []

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        came.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise came[-1]

    def told(lost: object) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
            return
        number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        signal.signal(number, end)
        again.append(threading.Timer(0.01, signal.pthread_kill, [main, number]))  # so that a wait of it breaks off
        again[-1].start()

    main, usual = threading.main_thread().ident, (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = threading.current_thread() is threading.main_thread() and "TORCHELASTIC_RUN_ID" not in os.environ
    before = {number: handler for number, handler in before.items() if ours and handler in usual}
    for number in before:
        signal.signal(number, end)
    hook = sys.unraisablehook
    sys.unraisablehook = told if before else hook
    try:
        yield
        if again:  # lost at the very end
            raise came[-1]
    except Exception:
        if came:
            raise came[-1] from None
        raise
    finally:
        sys.unraisablehook = hook
        try:
            for timer in again:  # too late, it would end the process by the handler of before
                timer.cancel()
                timer.join()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def resumable(advice: str) -> Iterator[None]:
    """Add to an interruption what is kept and how to go on, for the line that the program ends with; outermost wins."""
    try:
        yield
    except KeyboardInterrupt as end:
        end.args = (advice,)
        raise


def tell(end: KeyboardInterrupt) -> int:
    """Write the line that an interrupted program ends with; returns its exit status, 130 or 143."""
    word, status = ("terminated", 143) if isinstance(end, Terminated) else ("interrupted", 130)
    exec("")  # or Python would end by the signal, if that came where a string was executed (a dataclass is one)
    sys.stderr.write("; ".join([f"\n{word}", *map(str, end.args)]) + "\n")
    return status
