"""One run of Genarris: mpirun in a fresh folder, watched, and ended when its time is up."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packflow_core.baselines import genarris_guard
from packflow_core.baselines.genarris_program import GenarrisProgram, require_genarris
from packflow_core.baselines.genarris_progress import (
    STDERR_FILE,
    STDOUT_FILE,
    GenarrisProgress,
    ProgressReader,
)
from packflow_core.baselines.genarris_settings import (
    CONFIG_FILE,
    MOLECULE_FILE,
    REQUEST_FILE,
    GenarrisParams,
)
from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.worker_process import THREAD_VARIABLES

logger = logging.getLogger(__name__)

#: How the run ended, written by the guard.
RECORD_FILE = "packflow_run.json"

_INPUTS = frozenset({CONFIG_FILE, MOLECULE_FILE, REQUEST_FILE})
_POLL_S = 0.25
#: Between SIGTERM and SIGKILL: a launcher of MPI needs a moment to end its ranks.
_GRACE_S = 5.0
#: Variables by which a process knows that it is a rank; ours must not pass for Genarris'.
_RANK_VARIABLES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "HYDI_", "MPI_LOCAL")


@dataclass(frozen=True)
class GenarrisRun:
    """How a run ended.

    Attributes:
        returncode: exit code of mpirun, 128 + n where signal n ended it.
        ended: "by itself", "timeout", "cancelled", "ranks" (mpirun is of another MPI than
            Genarris) or "abandoned" (the process that had started it died).
        seconds: wall time.
    """

    returncode: int
    ended: str
    seconds: float


def run_genarris(
    folder: str | Path,
    params: GenarrisParams,
    on_progress: Callable[[GenarrisProgress], None] | None = None,
    *,
    program: GenarrisProgram | None = None,
) -> GenarrisRun:
    """Run Genarris on the input in a folder and wait for its end.

    A run that fails or is stopped is no error here: `outcome` and `read_structures` tell what
    became of it. No process of the run outlives this call, nor the process that makes it.

    Args:
        folder: as `write_inputs` left it; output and logs of the run go there, too.
        params: the settings that the input was written with (ranks and time limit are used).
        on_progress: called in this thread whenever the progress changed; what it raises ends the
            run and comes out here.
        program: the Genarris to run; the one of this machine if None.

    Raises:
        UserInputError: Genarris or mpirun is not there, the folder holds no input, or a run has
            been in it before.
        RunFailedError: the process that guards the run could not be started.
    """
    program = program or require_genarris()
    path = Path(folder).absolute()
    _check_fresh(path)
    # `--seed` decides the ids alone and is left at its default; the structures' is in ui.conf
    command = [
        str(program.mpirun), "-np", str(params.mpi_ranks), str(program.path),
        "--config", CONFIG_FILE,
    ]  # fmt: skip
    logger.info("%s in %s: %s", program.identity, path, " ".join(command))
    reader = ProgressReader(path)
    reported = GenarrisProgress()
    began = time.monotonic()
    guard = _start(command, path)
    why = b"c"  # unless we say otherwise: an exception of the caller's is a cancellation
    try:
        while not _ended(guard):
            now = reader.read()
            if now != reported:
                reported = now
                if on_progress is not None:
                    on_progress(now)
            if now.ranks and now.ranks != params.mpi_ranks:
                why = b"r"
                break
            if time.monotonic() - began > params.timeout_s:
                why = b"t"
                break
    finally:
        _stop(guard, why)
    now = reader.read()
    if on_progress is not None and now != reported:
        on_progress(now)
    run = read_run(path)
    if run is None:
        raise RunFailedError(
            f"The process that watches over Genarris died; see {STDERR_FILE} in '{path}'."
        )
    logger.info("Genarris ended %s with exit code %d", run.ended, run.returncode)
    return run


def read_run(folder: str | Path) -> GenarrisRun | None:
    """How the run in a folder ended, None where nothing is known of its end."""
    try:
        data: dict[str, Any] = json.loads((Path(folder) / RECORD_FILE).read_text())
        return GenarrisRun(int(data["returncode"]), str(data["ended"]), float(data["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_fresh(path: Path) -> None:
    """Refuse folders without input, and such that a run has been in.

    Genarris would silently load what an earlier run left.
    """
    if not ((path / CONFIG_FILE).is_file() and (path / MOLECULE_FILE).is_file()):
        raise UserInputError(
            f"The folder '{path}' holds no input of Genarris; write it with write_inputs first."
        )
    used = sorted({entry.name for entry in path.iterdir()} - _INPUTS)
    if used:
        raise UserInputError(
            f"The folder '{path}' has been used before ({used[0]}), and Genarris takes up what it "
            "finds; give a new one."
        )


def _start(command: list[str], path: Path) -> subprocess.Popen[bytes]:
    arguments = [
        sys.executable, "-I", genarris_guard.__file__, str(path / RECORD_FILE), str(_GRACE_S),
    ]  # fmt: skip
    with open(path / STDOUT_FILE, "wb") as stdout, open(path / STDERR_FILE, "wb") as stderr:
        try:
            return subprocess.Popen(
                [*arguments, *command],
                cwd=path,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # a signal to the terminal's group is for us alone
            )
        except OSError as error:
            raise RunFailedError(f"Genarris could not be started ({error}).") from error


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_RANK_VARIABLES)}
    threads = dict.fromkeys(THREAD_VARIABLES, "1")
    return {**kept, **threads, "PYTHONUNBUFFERED": "1"}


def _ended(guard: subprocess.Popen[bytes]) -> bool:
    try:
        guard.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(guard: subprocess.Popen[bytes], why: bytes) -> None:
    """Have the guard end the run, if it has not ended, and wait for it."""
    pipe = guard.stdin
    if pipe is not None:
        with contextlib.suppress(OSError):
            if guard.poll() is None:
                pipe.write(why)
            pipe.close()
    # A few seconds beyond the grace: the guard kills what is left and makes sure of it.
    try:
        guard.wait(_GRACE_S + 15.0)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
