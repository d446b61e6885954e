"""Functions that workers run in tests; pytest itself is too slow an import for every worker."""

import ctypes
import os
import signal
import time
from pathlib import Path


class Unreadable:
    def __reduce__(self):
        return (int, ("not a number",))


def note(folder, text):
    """One line in one write, so that lines of several processes stay whole."""
    with open(Path(folder, "attempts"), "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def attempts(folder):
    return Path(folder, "attempts").read_text().splitlines()


def await_file(path):
    while not Path(path).exists():
        time.sleep(0.01)


def scripted(members, folder):
    """Treats one member after the other, as its payload says; the group and each member noted."""
    note(folder, "group " + " ".join(str(key) for key, _ in members))
    for key, how in members:
        note(folder, key)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "exit":
            os._exit(0)
        if how == "hang":
            ctypes.CDLL(None).sleep(120)
        if how == "raise":
            raise ValueError(f"no {key}")
        if how == "return":
            return
        if how == "skip":
            continue
        if how == "foreign":
            yield "stranger", 1
        if how == "again":
            yield key, "first"
        if how == "shapeless":
            yield key
        yield key, {"unpicklable": lambda: 1, "unreadable": Unreadable()}.get(how, f"{key} {how}")


def values_then(members, end):
    for key, size in members:
        yield key, b"x" * size
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "raise":
        raise ValueError("too late")
    if end == "hang":
        time.sleep(120)


def in_step(members, folder):
    """Goes on after each member only when the parent says that it has its value."""
    for key, _ in members:
        yield key, key
        await_file(Path(folder, str(key)))


def counted(members, folder):
    for key, size in members:
        note(folder, key)
        yield key, b"x" * size


def pulsing(members, pause):
    """Each payload is the time in s that the member takes."""
    for key, seconds in members:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield None
            time.sleep(pause)
        yield key, os.getpid()


def flood(members, pulses):
    for key, _ in members:
        for _ in range(pulses):
            yield None
        yield key, None


def relaxation(members, folder):
    """Steps of all members in turn, with a checkpoint after each; "bad" dies at its third."""
    state = dict(members)
    note(folder, "group " + " ".join(f"{key}={step}" for key, step in members))
    while state:
        for key in list(state):
            if key == "bad" and state[key] == 3:
                os._exit(1)
            state[key] += 1
            Path(folder, key).write_text(str(state[key]))
            note(folder, f"{key} {state[key]}")
            if state[key] == 10:
                yield key, state.pop(key)


def unreadable_early(members, folder):
    note(folder, " ".join(str(key) for key, _ in members))
    for key, how in members:
        yield key, Unreadable() if how == "unreadable" else key
    Path(folder, "sent").touch()
    time.sleep(120)


def unreadable_late(members, folder):
    for key, _ in members:
        if key == "b":
            await_file(Path(folder, "go"))
            yield key, Unreadable()
            Path(folder, "sent").touch()
        else:
            yield key, key


def identify(members, barrier=None, size=0):
    for key, _ in members:
        if barrier is not None:
            Path(barrier, str(key)).touch()
            while len(list(Path(barrier).iterdir())) < size:
                time.sleep(0.01)
        yield key, (os.environ["PACKFLOW_DEVICE"], os.environ["CUDA_VISIBLE_DEVICES"], os.getpid())


def plain_list(members):
    return [(key, payload) for key, payload in members]


def double(x):
    return 2 * x


def meet(folder, size, key):
    """Returns when `size` items run at once."""
    Path(folder, str(key)).touch()
    while len(list(Path(folder).iterdir())) < size:
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def die():
    os._exit(1)


def dies_once(members, flag):
    """The process dies before its last member, the first time only."""
    for key, payload in members:
        if key == "c" and not Path(flag).exists():
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield key, payload


def naps(members):
    for key, seconds in members:
        time.sleep(seconds)
        yield key, None


def no_gpu(members, folder):
    if os.environ["PACKFLOW_DEVICE"] == "cuda":
        raise RuntimeError("CUDA error: device-side assert triggered")
    for key, _ in members:
        yield key, "cpu"
