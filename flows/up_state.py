"""The state folder of `csp up`: what runs, who holds it, where its logs are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packflow_core.errors import UserInputError
from packflow_core.store.atomic import make_folder, write_json
from packflow_core.store.lock import is_locked

#: Environment variable that all processes of one `csp up` carry: its state folder.
MARK = "PACKFLOW_UP"
_STATE = "up.json"
_POLL_S = 0.1


@dataclass(frozen=True)
class Setup:
    """What is to be brought up.

    Attributes:
        host: address that the server binds to.
        port: its port.
        pools: work pools that get a worker each.
        folder: below which runs are written.
        schedules: whether deployments with a schedule start by themselves.
        dashboard_port: port of the dashboard on this machine; 0 for none.
    """

    host: str
    port: int
    pools: tuple[str, ...]
    folder: str
    schedules: bool = False
    dashboard_port: int = 0

    @property
    def address(self) -> str:
        """Address for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def api(self) -> str:
        """Value of PREFECT_API_URL for clients on this machine."""
        return f"{self.address}/api"


@dataclass
class State:
    """What up.json holds.

    Attributes:
        setup: what is brought up.
        pid: the supervisor.
        status: starting, ready, stopping or failed.
        error: one sentence, when it failed.
        services: process id and number of restarts of each child, by name.
        seconds: how long each step of the start took, s.
    """

    setup: Setup
    pid: int
    status: str = "starting"
    error: str = ""
    services: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class StateFolder:
    """A folder that belongs to one `csp up`.

    Args:
        path: of the folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.path / "logs"

    @property
    def prefect_home(self) -> Path:
        """Prefect's own folder: database and profiles."""
        return self.path / "prefect"

    def make(self) -> None:
        """Create it, for this user alone.

        Raises:
            UserInputError: it cannot be written.
        """
        make_folder(self.path)
        for folder in (self.logs, self.prefect_home):
            make_folder(folder)
        with contextlib.suppress(OSError):  # not every file system has permissions
            self.path.chmod(0o700)

    @property
    def running(self) -> bool:
        """Whether a supervisor holds the folder; one that was killed does not."""
        return is_locked(self.path)

    def read(self) -> State | None:
        """The state, or None where there is none that can be read."""
        try:
            content = json.loads((self.path / _STATE).read_text(encoding="utf-8"))
            setup = content.pop("setup")
            return State(setup=Setup(**{**setup, "pools": tuple(setup["pools"])}), **content)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, state: State) -> None:
        """Record the state."""
        write_json(self.path / _STATE, asdict(state))

    def forget(self) -> None:
        """Remove the state of what is gone."""
        (self.path / _STATE).unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Environment of all its processes, before what each needs by itself."""
        return {**os.environ, MARK: str(self.path)}

    def processes(self) -> list[int]:
        """Process ids of what carries the mark of this folder, ours excepted.

        They are found by their environment in /proc, so that a number which the kernel gave to
        another program is never mistaken for one of ours.
        """
        wanted = f"{MARK}={self.path}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # ended, or another user's
                continue
            if wanted in variables and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def end_processes(self, patience_s: float = 10.0, *, spare: tuple[int, ...] = ()) -> int:
        """End what carries the mark: ask, wait, then kill.

        Args:
            patience_s: how long to wait.
            spare: processes that are left alone.

        Returns:
            How many there were.
        """
        there = [pid for pid in self.processes() if pid not in spare]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in [pid for pid in self.processes() if pid not in spare]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            end = time.monotonic() + patience_s
            while time.monotonic() < end:
                if not set(self.processes()) - set(spare):
                    return len(there)
                time.sleep(_POLL_S)
        return len(there)

    def last_lines(self, name: str) -> str:
        """The end of a log, as one line."""
        try:
            text = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-400:]


def default_state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of the state when the user names none: PACKFLOW_STATE, or that of the platform."""
    if given := environment.get("PACKFLOW_STATE"):
        return Path(given)
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "packflow-csp"


def check_setup(setup: Setup, environment: Mapping[str, Any], without_password: bool) -> None:
    """Refuse a server that anybody on the network could use.

    Raises:
        UserInputError: the address is not of this machine alone, and there is no password.
    """
    loopback = setup.host in ("127.0.0.1", "localhost", "::1") or setup.host.startswith("127.")
    if loopback or without_password or environment.get("PREFECT_SERVER_API_AUTH_STRING"):
        return
    raise UserInputError(
        f"--host {setup.host} lets everybody who reaches port {setup.port} run programs on this "
        "machine; set PREFECT_SERVER_API_AUTH_STRING=user:password, or say --without-password "
        "where something else keeps strangers out."
    )
