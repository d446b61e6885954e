"""A worker process, seen from its parent: its place, how it is started, ended, and found dead."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from packflow_core import worker_main

#: What decides about the threads of numerical libraries when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_DEVICE = re.compile(r"cpu|cuda:(\d+)")


@dataclass(frozen=True)
class Seat:
    """A place for one worker process: where it computes and with how many threads.

    Attributes:
        device: "cpu", or "cuda:i" for the i-th GPU that this process may use. The worker sees
            that GPU alone, as its first.
        threads: threads of the numerical libraries. Two single-threaded processes beat one with
            two threads; a process that feeds a GPU may have more.

    Raises:
        ValueError: another device, or fewer than one thread.
    """

    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"a seat's device is 'cpu' or 'cuda:0', 'cuda:1', not {self.device!r}")
        if self.threads < 1:
            raise ValueError(f"a seat needs at least one thread, not {self.threads}")

    def environment(self) -> dict[str, str]:
        """Environment variables that put a process on this seat.

        Raises:
            ValueError: this process sees fewer GPUs, by its own CUDA_VISIBLE_DEVICES.
        """
        threads = {name: str(self.threads) for name in THREAD_VARIABLES}
        if self.device == "cpu":
            return {**threads, "PACKFLOW_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        number = int(self.device.removeprefix("cuda:"))
        gpu = {**threads, "PACKFLOW_DEVICE": "cuda"}
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        if listed is None:
            # The numbers that nvidia-smi shows; CUDA's own default is the fastest first.
            order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            return {**gpu, "CUDA_DEVICE_ORDER": order, "CUDA_VISIBLE_DEVICES": str(number)}
        entries = [entry.strip() for entry in listed.split(",")]
        if number >= len(entries) or not entries[number]:
            raise ValueError(f"no {self.device} among CUDA_VISIBLE_DEVICES={listed!r}")
        return {**gpu, "CUDA_VISIBLE_DEVICES": entries[number]}


class WorkerProcess:
    """One process and our end of its connection.

    Args:
        seat: where it computes.
        log: file to which its standard output and error are appended; discarded when None.

    Attributes:
        seat: where it computes.
        process: the process.
        connection: speaks the protocol of `worker_main`.
        up: whether the process has said that it listens.

    Raises:
        OSError: the process cannot be started.
        ValueError: the seat is on a GPU that this process does not see.
    """

    def __init__(self, seat: Seat, log: Path | None) -> None:
        self.seat = seat
        environment = {**os.environ, **seat.environment()}
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
                    str(seat.threads),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # a signal to the terminal's group is for the parent
            )
        self.connection = Connection(ours.detach())
        self.up = False
        with contextlib.suppress(OSError):  # it died already: found out when it is waited for
            self.connection.send_bytes(pickle.dumps(sys.path))

    def send(self, *frames: bytes) -> None:
        """Give a listening worker its work; a dead one shows when it is waited for."""
        with contextlib.suppress(OSError):
            for frame in frames:
                self.connection.send_bytes(frame)

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
