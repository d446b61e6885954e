"""The launcher as a guarded process: it and all that it started end when we want, or die."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from packflow_core.baselines import genarris_guard
from packflow_core.errors import RunFailedError

_RECORD = "launcher.json"
_OUTPUT = "launcher.txt"
#: Between SIGTERM and SIGKILL. Ranks look for the file that tells them to end every second.
_GRACE_S = 5.0
#: Beyond the grace, for the guard to make sure that nothing is left.
_MARGIN_S = 15.0


class GuardedLauncher:
    """A running launcher; a context manager that ends it.

    Args:
        command: its command line.
        folder: for what it prints and how it ended.
        environment: its variables.

    Raises:
        RunFailedError: it could not be started.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        guard = [
            sys.executable, "-I", genarris_guard.__file__, str(folder / _RECORD), str(_GRACE_S),
        ]  # fmt: skip
        with open(folder / _OUTPUT, "wb") as output:
            try:
                self._process = subprocess.Popen(
                    [*guard, *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # a signal to the terminal's group is for us alone
                )
            except OSError as error:
                raise RunFailedError(f"MPI ranks could not be started ({error}).") from error

    def ended(self, wait_s: float) -> bool:
        """Whether it has ended, after waiting for it so long."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it, if it has not ended, and wait until nothing of it is left."""
        pipe = self._process.stdin
        if pipe is not None:
            with contextlib.suppress(OSError):
                if self._process.poll() is None:
                    pipe.write(b"c")
                pipe.close()
        if not self.ended(_GRACE_S + _MARGIN_S):
            self._process.kill()
            self._process.wait()

    @property
    def returncode(self) -> int | None:
        """Exit code of the launcher, 128 + n for signal n; None where its guard was killed."""
        try:
            return int(json.loads((self._folder / _RECORD).read_bytes())["returncode"])
        except (OSError, ValueError, KeyError):
            return None

    @property
    def output(self) -> str:
        """What the launcher printed."""
        with contextlib.suppress(OSError):
            return (self._folder / _OUTPUT).read_text(errors="replace")
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
