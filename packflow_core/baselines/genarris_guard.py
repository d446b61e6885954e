"""Stands between us and mpirun, so that no process of a run outlives it or us.

Started as `python genarris_guard.py RECORD GRACE_S COMMAND...`; needs the standard library alone.
It runs the command and ends it when its standard input closes, which happens when the parent
wants it or is dead, however it died. A byte on standard input says why: `t` the time is up,
`c` cancelled, `r` the wrong number of ranks. The command gets SIGTERM, which launchers of MPI hand
on, and after the grace SIGKILL goes to every process that came from it, in whatever session:
launchers put their ranks into sessions of their own, where a signal to the process group would not
reach them. How it ended is written to RECORD.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

WHY = {b"t": "timeout", b"c": "cancelled", b"r": "ranks", b"": "abandoned"}
#: How a run ended that nobody stopped.
BY_ITSELF = "by itself"

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
_POLL_S = 0.05


def main(arguments: list[str]) -> int:
    """Run a command to its end or ours; returns its exit code, 128 + n for signal n."""
    record, grace_s, command = arguments[0], float(arguments[1]), arguments[2:]
    _adopt_orphans()
    stop = threading.Event()
    why = [b""]
    threading.Thread(target=_listen, args=(stop, why), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    began = time.monotonic()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        _write(record, returncode=127, ended=BY_ITSELF, seconds=0.0, error=str(error))
        return 127
    while child.poll() is None and not stop.is_set():
        stop.wait(_POLL_S)
    ended = BY_ITSELF if child.poll() is not None else WHY.get(why[0], WHY[b""])
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _kill_descendants()
    code = child.wait()
    code = 128 - code if code < 0 else code
    _write(record, returncode=code, ended=ended, seconds=time.monotonic() - began)
    return code


def _listen(stop: threading.Event, why: list[bytes]) -> None:
    """Wait until standard input says something or closes."""
    with suppress(OSError):
        why[0] = os.read(0, 1)
    stop.set()


def _write(record: str, **values: Any) -> None:
    """All or nothing: a reader must never see half a record."""
    with open(record + ".tmp", "w") as file:
        json.dump(values, file)
    os.replace(record + ".tmp", record)


def _adopt_orphans() -> None:
    """Become the parent of processes that a dead launcher leaves; Linux alone can do that."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """SIGKILL to all that came from this process, again until nothing is left."""
    for _ in range(100):
        living = _descendants()
        if not living:
            return
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _descendants() -> list[int]:
    """Living processes that have this one among their ancestors."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found, queue = [], [os.getpid()]
    while queue:
        for pid in children.get(queue.pop(), []):
            found.append(pid)
            queue.append(pid)
    return found


def _processes() -> list[tuple[int, int]]:
    """(pid, parent) of every process that is no zombie."""
    if os.path.isdir("/proc/self"):
        out = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    # the name of the program, in brackets, may hold anything
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    out.append((int(name), int(parent)))
        return out
    listing = subprocess.Popen(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True
    )
    text = listing.communicate()[0]
    rows = [line.split() for line in text.splitlines()]
    return [
        (int(pid), int(parent))
        for pid, parent, state in rows
        if not state.startswith("Z") and int(pid) != listing.pid
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
