"""Where Genarris is on this machine, and which one.

Genarris is no Python package of ours: it needs an MPI compiler and a Python of its own, and the
user installs it by its own instructions. We find the command `gnrs` on PATH, or beside the
interpreter that `GENARRIS_PYTHON` names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from packflow_core.errors import UserInputError

#: Names the Python interpreter (or the environment's folder) that Genarris is installed in.
PYTHON_VARIABLE = "GENARRIS_PYTHON"
#: Names the mpirun of the MPI that Genarris was built with.
MPIRUN_VARIABLE = "GENARRIS_MPIRUN"

INSTALL = (
    "install it from https://github.com/Yi5817/Genarris and put `gnrs` on PATH, or set "
    f"{PYTHON_VARIABLE} to the Python of its environment"
)
INSTALL_MPI = (
    "install the MPI that Genarris was built with and put `mpirun` on PATH, or set "
    f"{MPIRUN_VARIABLE} to it"
)

_LAUNCHERS = ("mpirun", "mpiexec")
_VERSION = "from importlib.metadata import version; print(version('gnrs'))"
_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class GenarrisProgram:
    """A Genarris on this machine.

    Attributes:
        path: the command `gnrs`.
        version: its version, "unknown" where its Python does not tell.
        mpirun: the launcher of MPI programs, None where there is none.
    """

    path: Path
    version: str
    mpirun: Path | None

    @property
    def identity(self) -> str:
        """For keys and ledgers."""
        return f"genarris {self.version}"


def find_genarris() -> GenarrisProgram | None:
    """The Genarris of this machine, None where there is none.

    Raises:
        UserInputError: `GENARRIS_PYTHON` or `GENARRIS_MPIRUN` is set, but to nothing that works.
    """
    gnrs = _find_gnrs()
    if gnrs is None:
        return None
    return GenarrisProgram(gnrs, _version(gnrs), _find_mpirun(gnrs))


def require_genarris() -> GenarrisProgram:
    """The Genarris of this machine, with a launcher.

    Raises:
        UserInputError: Genarris or mpirun is not there; says what to do.
    """
    found = find_genarris()
    if found is None:
        raise UserInputError(f"Genarris is not installed: {INSTALL}.")
    if found.mpirun is None:
        raise UserInputError(f"Genarris {found.version} needs `mpirun`: {INSTALL_MPI}.")
    return found


def _find_gnrs() -> Path | None:
    named = os.environ.get(PYTHON_VARIABLE)
    if not named:
        found = shutil.which("gnrs")
        return Path(found).absolute() if found else None
    python = Path(named).expanduser()
    folders = (python / "bin", python) if python.is_dir() else (python.parent,)
    for folder in folders:
        if _runs(folder / "gnrs"):
            return (folder / "gnrs").absolute()
    raise UserInputError(
        f"{PYTHON_VARIABLE} is '{named}', but there is no command `gnrs` beside it; set it to the "
        "Python of the environment in which Genarris is installed."
    )


def _find_mpirun(gnrs: Path) -> Path | None:
    """The launcher beside gnrs is more likely to be of its MPI than one on PATH."""
    named = os.environ.get(MPIRUN_VARIABLE)
    if named:
        found = shutil.which(Path(named).expanduser())
        if found is None:
            raise UserInputError(
                f"{MPIRUN_VARIABLE} is '{named}', which is no command; {INSTALL_MPI}."
            )
        return Path(found).absolute()
    for name in _LAUNCHERS:
        if _runs(gnrs.parent / name):
            return gnrs.parent / name
    on_path = [found for name in _LAUNCHERS if (found := shutil.which(name))]
    return Path(on_path[0]).absolute() if on_path else None


def _version(gnrs: Path) -> str:
    """Version that the Python of a gnrs knows, found without importing Genarris."""
    # not resolved: the interpreter of an environment is a link to one that lacks its packages
    for python in (*_interpreter(gnrs), gnrs.parent / "python", gnrs.parent / "python3"):
        if not _runs(python):
            continue
        try:
            answer = subprocess.run(
                [python, "-c", _VERSION],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_VERSION_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.stdout.strip():
            return answer.stdout.strip()
    return "unknown"


def _interpreter(script: Path) -> list[Path]:
    """The interpreter in the first line of a script."""
    try:
        with open(script, "rb") as file:
            first = file.readline(4096)
    except OSError:
        return []
    words = first.removeprefix(b"#!").split() if first.startswith(b"#!") else []
    return [Path(os.fsdecode(words[0]))] if words and b"python" in words[0] else []


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
