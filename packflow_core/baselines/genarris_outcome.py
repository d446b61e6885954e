"""What became of a run of Genarris, in one sentence.

Its exit code alone tells little: it is 0 for an unknown task and for an element that Genarris does
not know. A run is a success when the exit code is 0 and the final line is there and the last
task's `structures.json` holds a structure.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packflow_core.baselines.genarris_output import count_final, read_config, read_entries
from packflow_core.baselines.genarris_program import MPIRUN_VARIABLE
from packflow_core.baselines.genarris_progress import (
    FINAL_LINE,
    STDERR_FILE,
    STDOUT_FILE,
    parse_progress,
)
from packflow_core.baselines.genarris_run import GenarrisRun, read_run
from packflow_core.baselines.genarris_settings import PRESS, read_request

LOG_FILE = "Genarris.log"

#: Lines at the end of the standard output among which the final line must be.
_LAST_LINES = 5
#: More than this at the end of a log is never needed.
_LOG_BYTES = 200_000

_UNKNOWN_TASK = re.compile(r"Unknown task: (\S+)\.")
_UNKNOWN_ELEMENT = re.compile(r"atom not found -> *(\S+)")
_MPICH_EXIT = re.compile(r"EXIT CODE: (\d+)")


@dataclass(frozen=True)
class GenarrisOutcome:
    """What became of a run.

    Attributes:
        state: success; partial, where it did not end well but left structures; failed.
        sentence: what happened and, where something went wrong, what to do.
        structures: structures that can be read, the complete ones of the last task in a success.
    """

    state: Literal["success", "partial", "failed"]
    sentence: str
    structures: int


def outcome(folder: str | Path) -> GenarrisOutcome:
    """What became of the run in a folder; needs nothing but its files, and never raises."""
    path = Path(folder)
    run = read_run(path)
    stdout = _tail(path / STDOUT_FILE)
    final = any(FINAL_LINE in line for line in stdout.rstrip().splitlines()[-_LAST_LINES:])
    complete = count_final(path)
    if run is not None and run.returncode == 0 and final and complete:
        sentence = f"Genarris made {_counted(complete)} in {run.seconds:.0f} s."
        return GenarrisOutcome("success", sentence, complete)
    cause = _cause(path, run, stdout, final)
    entries = [entry for entry in read_entries(path) if not entry.error]
    if not entries:
        return GenarrisOutcome("failed", f"{cause}; it left no structure.", 0)
    pressed = sum(entry.press is not None for entry in entries)
    of_them = f", {pressed} of them pressed" if PRESS in read_config(path).tasks else ""
    sentence = f"{cause}; {_counted(len(entries))} could be salvaged{of_them}."
    return GenarrisOutcome("partial", sentence, len(entries))


def _cause(path: Path, run: GenarrisRun | None, stdout: str, final: bool) -> str:
    """Why a run was no success, without a full stop."""
    stopped = _stopped(path, run, stdout)
    if stopped is not None:
        return stopped
    log = _tail(path / LOG_FILE)
    if found := _UNKNOWN_ELEMENT.search(stdout):
        return f"Genarris stopped at the element {found[1]}, which it does not know"
    if found := _UNKNOWN_TASK.search(stdout):
        return f"Genarris does not know the task '{found[1]}', check the tasks in ui.conf"
    error = _last_line(log) if "Traceback (most recent call last)" in log else ""
    if "zero-size array" in error:
        return (
            "Genarris could place no structure in any space group, try another Z, a larger "
            "ucv_mult or more attempts"
        )
    if "Can not create rotation" in log:
        return (
            "Genarris' press stopped at a molecule that is not a rigid copy of the conformer, try "
            "another seed or the method plain"
        )
    if error:
        return f"Genarris stopped with an error ({error})"
    code = run.returncode if run is not None else None
    if found := _MPICH_EXIT.search(stdout):
        code = int(found[1])
    if code == 127:
        said = _last_line(_tail(path / STDERR_FILE))
        return f"mpirun or gnrs could not be started ({said or 'exit code 127'})"
    name = _signal_name(code)
    if name:
        return f"Genarris was ended by {name}"
    if code:
        said = _last_line(_tail(path / STDERR_FILE))
        return f"Genarris ended with exit code {code}" + (f" ({said})" if said else "")
    if run is None:
        return "It is not known how Genarris ended"
    if final:
        return "Genarris says that it succeeded, but its structures cannot be read"
    return f"Genarris ended without its final line, see {STDOUT_FILE} and {LOG_FILE} in '{path}'"


def _stopped(path: Path, run: GenarrisRun | None, stdout: str) -> str | None:
    """Why we ended the run; None where we did not."""
    if run is None:
        return None
    if run.ended == "timeout":
        return (
            f"Genarris was stopped at its time limit after {run.seconds:.0f} s, raise timeout_s "
            "or ask for fewer structures"
        )
    if run.ended == "cancelled":
        return f"Genarris was cancelled after {run.seconds:.0f} s"
    if run.ended == "abandoned":
        return (
            f"Genarris was stopped after {run.seconds:.0f} s, for the process that had started it "
            "died"
        )
    request = read_request(path)
    if run.ended == "ranks" or (request is not None and _wrong_ranks(stdout, request.mpi_ranks)):
        asked = f"{request.mpi_ranks} ranks" if request is not None else "its ranks"
        return (
            f"mpirun did not join {asked} into one run of Genarris, so it belongs to another MPI "
            f"than the one Genarris was built with, set {MPIRUN_VARIABLE} to the right one"
        )
    return None


def _wrong_ranks(stdout: str, wanted: int) -> bool:
    ranks = parse_progress(stdout).ranks
    return ranks not in (0, wanted)


def _signal_name(code: int | None) -> str:
    """Name of the signal behind an exit code; MPICH gives the bare number, shells 128 more."""
    if code is None:
        return ""
    number = code - 128 if code > 128 else code
    # 1 to 3 are ordinary exit codes far more often than SIGHUP, SIGINT and SIGQUIT.
    if number <= 3:
        return ""
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _counted(n: int) -> str:
    return "1 structure" if n == 1 else f"{n} structures"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200].rstrip(".") if lines else ""


def _tail(path: Path) -> str:
    """The end of a text file, empty where there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
