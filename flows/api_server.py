"""Uvicorn with Prefect's API for one run: ends when the process that started it ends.

Prefect's own temporary server survives a kill -9 of its parent for ever. Run as
``python -P api_server.py HOME UVICORN-ARGUMENT...``; HOME, when not empty, is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time

_POLL_S = 1.0


def main() -> None:
    """Watch the parent and serve."""
    home, *arguments = sys.argv[1:]
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        if home:
            shutil.rmtree(home, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    # A Ctrl-C in the terminal reaches the whole group; the parent decides when to stop us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    import uvicorn

    uvicorn.main(arguments)


if __name__ == "__main__":
    main()
