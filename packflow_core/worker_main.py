"""What runs inside a worker process; see `packflow_core.workers` for the other side.

Started as a script with two arguments, the file descriptor of its connection and the parent's
process id. Only the standard library is imported until the first item names its function.

Messages, parent to worker: the parent's `sys.path` first, then one (function, arguments) pair of
pickles per item. Worker to parent: (UP,), then per item (STARTED,) once the function is imported
and one of (DONE, pickled value, seconds), (RAISED, text, seconds); or (BROKEN, text) when the
function cannot be imported.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

UP, STARTED, DONE, RAISED, BROKEN = "up", "started", "done", "raised", "broken"

#: Seconds between two looks at whether the parent still lives.
_PARENT_POLL_S = 0.5

#: Native code puts its work arrays on the stack; 8 MB, the usual limit, is too little for it.
_STACK_BYTES = 1 << 30


def main(descriptor: int, parent: int) -> None:
    """Serve items until the parent closes the connection or dies."""
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
            _serve(connection, connection.recv_bytes(), connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _serve(connection: Connection, function_pickle: bytes, arguments_pickle: bytes) -> None:
    try:
        function = pickle.loads(function_pickle)
        arguments = pickle.loads(arguments_pickle)
    except BaseException as error:
        connection.send((BROKEN, _describe(error)))
        return
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    connection.send((STARTED,))
    began = time.perf_counter()
    answer: tuple[str, Any]
    try:
        answer = (DONE, pickle.dumps(function(*arguments), protocol=pickle.HIGHEST_PROTOCOL))
    except BaseException as error:  # a SystemExit of the function is its fault, too
        traceback.print_exc()
        answer = (RAISED, _describe(error))
    wall_s = time.perf_counter() - began
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send((*answer, wall_s))


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
    main(int(sys.argv[1]), int(sys.argv[2]))
