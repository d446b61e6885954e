"""What runs inside a worker process; see `packflow_core.workers` for the other side.

Started as a script with three arguments: the file descriptor of its connection, the parent's
process id and the number of threads. Only the standard library is imported until the first work
names its function.

Messages, parent to worker: the parent's `sys.path` first, then for each work three frames: ITEM or
GROUP, the pickled function and its pickled arguments. Worker to parent: (UP,), then for each work
(STARTED,) once the function is imported, or (BROKEN, text) when it cannot be, and

- for an item one of (DONE, pickled value, seconds) and (RAISED, text, seconds);
- for a group any number of (VALUE, place of the member, pickled value, seconds) and (PULSE,), and
  at the end (DONE, b"", seconds), which says that every member had its value, or
  (RAISED, text, seconds).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

ITEM, GROUP = b"item", b"group"
UP, STARTED, BROKEN = "up", "started", "broken"
VALUE, PULSE, DONE, RAISED = "value", "pulse", "done", "raised"

#: Seconds between two looks at whether the parent still lives.
_PARENT_POLL_S = 0.5
#: Seconds at least from a sign of life to a pulse: a generator may offer one at every step.
_PULSE_S = 0.5

#: Native code puts its work arrays on the stack; 8 MB, the usual limit, is too little for it.
_STACK_BYTES = 1 << 30


def main(descriptor: int, parent: int, threads: int) -> None:
    """Serve work until the parent closes the connection or dies."""
    # The parent decides about Ctrl-C, which the terminal sends to the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(Exception):  # no file descriptor to write to
        faulthandler.enable()
    _set_limits()
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    try:
        sys.path[:] = pickle.loads(connection.recv_bytes())
        connection.send((UP,))
        while True:
            _serve(connection, threads, *(connection.recv_bytes() for _ in range(3)))
    except (EOFError, OSError):
        os._exit(0)


def _serve(
    connection: Connection, threads: int, kind: bytes, function_pickle: bytes, pickled: bytes
) -> None:
    try:
        function = pickle.loads(function_pickle)
        arguments = pickle.loads(pickled)
    except BaseException as error:
        connection.send((BROKEN, _describe(error)))
        return
    torch = sys.modules.get("torch")
    if torch is not None:  # an engine may have changed the number; a later import obeys OMP's
        torch.set_num_threads(threads)
    connection.send((STARTED,))
    began = time.perf_counter()
    answer: tuple[str, Any]
    try:
        if kind == GROUP:
            _run_group(connection, function, *arguments)
            answer = (DONE, b"")
        else:
            answer = (DONE, pickle.dumps(function(*arguments), protocol=pickle.HIGHEST_PROTOCOL))
    except BaseException as error:  # a SystemExit of the function is its fault, too
        traceback.print_exc()
        answer = (RAISED, _describe(error))
    wall_s = time.perf_counter() - began
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send((*answer, wall_s))


def _run_group(
    connection: Connection, function: Any, members: list[tuple[Any, Any]], extra: tuple[Any, ...]
) -> None:
    """Send each member's value at once, so that nothing later can take it back.

    Raises:
        RuntimeError: the generator breaks the rule of one value for each member.
    """
    began = spoken = time.perf_counter()
    places = {key: place for place, (key, _) in enumerate(members)}
    done: set[Any] = set()
    for item in function(members, *extra):
        if item is None:
            # Where the parent is slow to listen it has enough to read: a pulse must not wait.
            if time.perf_counter() - spoken >= _PULSE_S and _writable(connection):
                connection.send((PULSE,))
                spoken = time.perf_counter()
            continue
        key, value = item
        if key in done:
            raise RuntimeError(f"the key {key!r} came twice")
        if key not in places:
            raise RuntimeError(f"the key {key!r} is not in the group")
        pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        connection.send((VALUE, places[key], pickled, time.perf_counter() - began))
        spoken = time.perf_counter()
        done.add(key)
    if len(done) < len(places):
        raise RuntimeError(f"the generator ended after {len(done)} of {len(places)} members")


def _writable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


def _describe(error: BaseException) -> str:
    """Type, message and place of an exception in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _watch_parent(parent: int) -> None:
    """End this process, busy or not, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)


def _set_limits() -> None:
    """A large stack for native code, and no core dumps in the user's folder."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        soft = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
