"""Bodies of network processes that go wrong; imported by name in the process itself."""

import errno
import os
import signal

from unirain_plugin.compare import networks
from unirain_plugin.support.files import write_errors

_serve = networks._serve  # before a test puts another in its place


def killed(connection, spec):
    """As if the system had no memory left, at the second request."""
    _with_requests(connection, spec, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 2 else None)


def out_of_memory(connection, spec):
    """The second image does not fit."""

    def fail(number):
        if number == 2:
            raise MemoryError("DefaultCPUAllocator: can't allocate memory")

    _with_requests(connection, spec, fail)


def full_disk(connection, spec):
    """The second image finds no room."""

    def fail(number):
        if number == 2:
            with write_errors("001.png"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _with_requests(connection, spec, fail)


def leaving(connection, spec):
    """Ends without a word."""
    os._exit(7)


def _with_requests(connection, spec, before):
    requests = networks._requests

    def counted(net, spec):
        table, number = requests(net, spec), 0

        def restore(*arguments):
            nonlocal number
            number += 1
            before(number)
            return table["restore"](*arguments)

        return {**table, "restore": restore}

    networks._requests = counted
    _serve(connection, spec)
