"""What `csp dashboard` does."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

from flows.console import Terminal
from packflow_core.errors import UserInputError

#: Requests that are answered at the same time.
_THREADS = 8


def dashboard(
    terminal: Terminal, roots: Sequence[Path], *, port: int, host: str, **settings: Any
) -> None:
    """Serve the dashboard until Ctrl-C.

    Args:
        terminal: where to write the address.
        roots: folders below which runs are looked for.
        port: 0 for a free one.
        host: address to listen on.
        settings: further fields of `dashboard.settings.Settings`.

    Raises:
        UserInputError: a root is no folder, the address cannot be had, or the extra `dashboard`
            is not installed.
    """
    for root in roots:
        if not root.is_dir():
            raise UserInputError(f"{root} is not a folder; give the folder that holds the runs.")
    for package in ("dash", "waitress"):
        if util.find_spec(package) is None:
            raise UserInputError(
                f"The dashboard needs {package}; install it with "
                "pip install 'packflow-csp[dashboard]'."
            )
    listener = _listen(host, port)
    import waitress

    from dashboard.app import make_app
    from dashboard.settings import Settings

    # A page asks for many things at once; that some wait for a moment is no news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    chosen = Settings(roots=tuple(roots), host=host, **settings)
    app = make_app(chosen)
    shown = f"[{host}]" if ":" in host else host
    terminal.say(
        f"The dashboard is at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)."
    )
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        more = ", and start work" if chosen.allow_actions else ""
        terminal.say(f"There is no login: whoever reaches {host} can read all runs{more}.")
    with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt):
        waitress.serve(app.server, sockets=[listener], threads=_THREADS, _quiet=True)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is said in one sentence before anything is read."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # who opens the address at once waits instead of being refused
    except OSError as error:
        raise UserInputError(
            f"The dashboard cannot listen on {host}, port {port} ({error.strerror or error}); "
            "choose others with --host and --port."
        ) from error
    return listener
