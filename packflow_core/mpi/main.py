"""Program of a rank, as the launcher of MPI starts it: python -P main.py FOLDER.

FOLDER is the job's (see `dispatch`). Only the standard library is imported until it has told where
this package is. What must be done first, and only here: learn the rank from MPI, and break the
ties to the launcher by which the death of one rank would end the others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_WORK = "work.json"
_WORLD = Path(__file__).with_name("world.py")
#: A rank that died in the beginning leaves the others waiting in MPI for ever.
_WORLD_TIMEOUT_S = 120.0


def main(folder: Path) -> int:
    """Work until nothing is left; returns the exit code."""
    # The launcher of MPICH says so that another rank has died; it is meant for MPI.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # The process that started the ranks decides about Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads((folder / _WORK).read_bytes())
    os.environ.update(job["environment"])
    told = _ask_mpi()
    if told is None:
        return 1
    sys.path[:] = job["path"]
    from packflow_core.mpi import dispatch

    name = dispatch.rank_name(told["rank"], os.uname().nodename, os.getpid())
    _leave_output(folder / f"{name}{dispatch.OUTPUT_SUFFIX}")
    with contextlib.suppress(Exception):
        faulthandler.enable()
    from packflow_core.mpi import rank  # takes a second: first the ties, then this

    return rank.serve(folder, dispatch.RankLog(folder, name), told)


def _ask_mpi() -> dict[str, Any] | None:
    """What `world.py` says; None where it fails, having said why on standard error."""
    try:
        answer = subprocess.run(
            [sys.executable, "-P", str(_WORLD)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WORLD_TIMEOUT_S,
            check=False,
            close_fds=False,  # launchers speak through a file descriptor that they hand down
        )
    except subprocess.TimeoutExpired:
        os.write(2, f"MPI did not start within {_WORLD_TIMEOUT_S:g} s\n".encode())
        return None
    with contextlib.suppress(ValueError, IndexError):
        told: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
        return told
    os.write(2, answer.stderr or b"MPI told no rank\n")
    return None


def _leave_output(path: Path) -> None:
    """Print to a file of the rank's own, and let go of the pipes to the launcher.

    While one of its ranks has such a pipe open, the launcher of MPICH (5.0, hydra) kills all of a
    node when one of them is killed, whatever its options say; when all have closed theirs it waits
    for each. It hands the pipes down twice, under 1 and 2 and under other numbers.
    """
    ours = {_identity(1), _identity(2)}
    for number in _descriptors():
        if number > 2 and _identity(number) in ours:
            with contextlib.suppress(OSError):
                os.close(number)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return []


def _identity(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
