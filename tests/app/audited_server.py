"""Runs a command of the package; connections and look-ups that leave this machine are refused and noted in a file."""

import sys
from pathlib import Path

LOG = Path(sys.argv[1])
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def watch(event, arguments):
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        return
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = host[0] if isinstance(host, tuple) else host
    if host is None or str(host).startswith(LOCAL) or str(host).startswith("/"):
        return
    with LOG.open("a") as file:
        file.write(f"{event} {host}\n")
    raise OSError(f"no way out to {host}")


sys.addaudithook(watch)

from unirain_plugin.__main__ import main  # noqa: E402
from unirain_plugin.app import command  # noqa: E402


def serve_where_gradio_fetches_from_this_machine(*parts, serve=command.serve):
    from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST

    PUBLIC_HOSTNAME_WHITELIST.append("127.0.0.1")  # by itself it refuses such addresses: our refusal is to be tested
    return serve(*parts)


command.serve = serve_where_gradio_fetches_from_this_machine

sys.exit(main(sys.argv[2:]))
