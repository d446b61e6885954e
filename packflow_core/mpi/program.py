"""Where the launcher of MPI programs is on this machine, and whether it starts ranks.

mpi4py and MPICH come with `pip install "packflow-csp[mpi]"`; the launcher is then beside Python.
Another MPI, or a batch system's launcher, is named by `PACKFLOW_MPIEXEC`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packflow_core.errors import UserInputError
from packflow_core.mpi import world

#: Names the launcher with its options, as in "srun --mpi=pmi2" or "mpirun --bind-to core"; the
#: number of ranks replaces "{n}", or follows as -n N.
VARIABLE = "PACKFLOW_MPIEXEC"
INSTALL = 'pip install "packflow-csp[mpi]"'

_NAMES = ("mpiexec", "mpirun")
_NUMBER = "{n}"
#: What else MPICH's launcher (hydra) should do: leave the others alone when a rank dies, and tell
#: how each one ended.
_HYDRA_OPTIONS = ("-disable-auto-cleanup", "-print-all-exitcodes")
#: Variables by which a process knows that it is a rank; ours must not pass for those of a job.
_RANK_VARIABLES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "HYDI_", "MPI_LOCAL")
_TRIAL_TIMEOUT_S = 60.0
_VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Launcher:
    """A launcher of MPI programs.

    Attributes:
        words: the command and its options; "{n}" stands for the number of ranks.
        found: where it was found, in words.
    """

    words: tuple[str, ...]
    found: str

    def __str__(self) -> str:
        return shlex.join(self.words)

    def command(self, ranks: int, program: list[str]) -> list[str]:
        """The command line that starts a program on so many ranks."""
        words = [word.replace(_NUMBER, str(ranks)) for word in self.words]
        if not any(_NUMBER in word for word in self.words):
            words += ["-n", str(ranks)]
        return words + program


def require_mpi() -> Launcher:
    """The launcher of this machine; mpi4py is installed, too.

    Raises:
        UserInputError: one of them is not there; says what to do.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise UserInputError(f"MPI ranks need mpi4py, which is not installed: {INSTALL}.")
    found = _find_launcher()
    if found is None:
        raise UserInputError(
            f"MPI ranks need a launcher, and there is no mpiexec beside Python or on PATH: "
            f"{INSTALL}, or set {VARIABLE}."
        )
    return found


def find_mpi() -> str:
    """What MPI there is, tried with two ranks, or how to get one.

    Raises:
        UserInputError: `PACKFLOW_MPIEXEC` is set to nothing that works, or the launcher does not
            fit mpi4py.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return f"optional, not installed; {INSTALL}"
    launcher = _find_launcher()
    if launcher is None:
        return f"mpi4py is here, but no mpiexec; {INSTALL}, or set {VARIABLE}"
    library = _trial(launcher)
    return f"{library} by mpi4py {metadata.version('mpi4py')}, started by {launcher.found}"


def mismatch(launcher: Launcher, ranks: int, size: int, library: str) -> UserInputError:
    """The error that the launcher belongs to another MPI than mpi4py has loaded.

    Args:
        launcher: what started the ranks.
        ranks: how many it was to start.
        size: how many there are, as one of them says.
        library: that told the rank so.
    """
    return UserInputError(
        f"The MPI launcher '{launcher}' was to start {ranks} ranks together, but each knows of "
        f"{size} only: it does not belong to the MPI of mpi4py ({library}); set {VARIABLE} to the "
        "mpiexec of that one."
    )


def rank_environment() -> dict[str, str]:
    """This process's environment without what would tell another process its rank."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_RANK_VARIABLES)}


def _find_launcher() -> Launcher | None:
    named = os.environ.get(VARIABLE, "").strip()
    if named:
        try:
            words = shlex.split(named)
        except ValueError as error:
            raise UserInputError(
                f"{VARIABLE} is '{named}', which cannot be read: {error}."
            ) from error
        program = shutil.which(os.path.expanduser(words[0]))
        if program is None:
            raise UserInputError(
                f"{VARIABLE} is '{named}', but there is no command '{words[0]}'; set it to the "
                "mpiexec of the MPI that mpi4py uses, or unset it."
            )
        return _with_options([program, *words[1:]], VARIABLE)
    for name in _NAMES:
        beside = Path(sys.executable).parent / name  # not resolved: environments link to Python
        if os.access(beside, os.X_OK):
            return _with_options([str(beside)], f"{beside}")
    for name in _NAMES:
        on_path = shutil.which(name)
        if on_path is not None:
            return _with_options([on_path], on_path)
    return None


def _with_options(words: list[str], found: str) -> Launcher:
    """The launcher, told not to end all ranks with the first, if it can be told."""
    try:
        says = subprocess.run(
            [words[0], "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        says = ""
    hydra = "HYDRA" in says and "Intel" not in says
    return Launcher((*words, *(_HYDRA_OPTIONS if hydra else ())), found)


def _trial(launcher: Launcher) -> str:
    """Library of two ranks that know of each other."""
    command = launcher.command(2, [sys.executable, "-P", world.__file__])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_TIMEOUT_S,
            env=rank_environment(),
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserInputError(f"The MPI launcher '{launcher}' does not start: {error}.") from error
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(told) != 2:
        why = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise UserInputError(
            f"The MPI launcher '{launcher}' started {len(told)} of 2 ranks (exit code "
            f"{done.returncode}): {why}."
        )
    if told[0]["size"] != 2:
        raise mismatch(launcher, 2, told[0]["size"], told[0]["library"])
    return str(told[0]["library"])
