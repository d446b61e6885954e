"""A worker process, seen from its parent: how it is started, ended, and found dead."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from packflow_core import worker_main

#: One thread per worker; two single-threaded processes beat one with two threads.
ENVIRONMENT = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}


class WorkerProcess:
    """One process and our end of its connection.

    Args:
        log: file to which its standard output and error are appended; discarded when None.

    Attributes:
        process: the process.
        connection: speaks the protocol of `worker_main`.
        up: whether the process has said that it listens.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, log: Path | None) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.callback(theirs.close)
            output: Any = subprocess.DEVNULL
            if log is not None:
                output = stack.enter_context(open(log, "ab"))
            self.process = subprocess.Popen(
                # -P: the folder of the script must not shadow modules of other packages
                [
                    sys.executable,
                    "-P",
                    worker_main.__file__,
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **ENVIRONMENT},
                pass_fds=(theirs.fileno(),),
                process_group=0,  # a signal to the terminal's group is for the parent
            )
        self.connection = Connection(ours.detach())
        self.up = False
        with contextlib.suppress(OSError):  # it died already: found out when it is waited for
            self.connection.send_bytes(pickle.dumps(sys.path))

    def kill(self) -> None:
        """End the process; harmless when it is dead."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.connection.close()

    def death(self) -> str:
        """How the process ended, after its connection broke."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "worker closed its connection"
        if code < 0:
            try:
                return f"worker died with {signal.Signals(-code).name}"
            except ValueError:
                return f"worker died with signal {-code}"
        return f"worker ended with exit code {code}"
