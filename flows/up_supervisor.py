"""The process behind `csp up`: starts server and workers, and starts them again when they end.

Run as ``python -m flows.up_supervisor STATE_FOLDER SETUP_JSON``. SIGTERM ends everything in order:
workers first, then the server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from flows.local_api import start_from_template
from flows.up_services import Service, dashboard, environment, server, workers
from flows.up_state import Setup, State, StateFolder
from packflow_core.errors import PackflowError, RunFailedError
from packflow_core.store.lock import RunLock

logger = logging.getLogger(__name__)

#: Deployments of this package, beside the packages in a source tree and in an installation.
PREFECT_YAML = Path(__file__).resolve().parents[1] / "deployments" / "prefect.yaml"
_POLL_S = 0.25
_START_S, _SETUP_S = 120.0, 300.0
#: Time for flow runs to end when everything goes down, and for their workers to report it, s.
_RUNS_END_S, _REPORT_S = 15.0, 1.0
#: Pause before a program that ended is started again, s, doubled each time up to the longest.
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: A program that ran for so long starts with the shortest pause again, s.
_STABLE_S = 600.0


class _StopAsked(Exception):  # noqa: N818  not a fault
    """SIGTERM came."""


class Child:
    """A service with its process.

    Args:
        service: what to run.
        folder: where its log goes.
        variables: environment.
        working_folder: where it runs.
    """

    def __init__(
        self, service: Service, folder: StateFolder, variables: dict[str, str], working_folder: str
    ) -> None:
        self.service = service
        self._log = folder.logs / f"{service.name}.log"
        self._variables = {**variables, **service.environment}
        self._cwd = working_folder
        self.restarts = 0
        self._failures = 0
        self._started = 0.0
        self._again_at: float | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it prints is appended to its log."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.service.command, env=self._variables, cwd=self._cwd,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._started = time.monotonic()
        self._again_at = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def keep_alive(self) -> bool:
        """Start it again if it ended, after a pause; returns whether anything changed."""
        if self.alive:
            return False
        now = time.monotonic()
        if self._again_at is None:
            code = self.process.returncode if self.process else None
            self._failures = 0 if now - self._started > _STABLE_S else self._failures + 1
            pause = min(_PAUSE_S * 2 ** max(self._failures - 1, 0), _LONGEST_PAUSE_S)
            self._again_at = now + pause
            logger.warning(
                "%s ended (%s); it starts again in %.0f s", self.service.name, code, pause
            )
            return False
        if now < self._again_at:
            return False
        self.restarts += 1
        self.start()
        logger.info("%s started again", self.service.name)
        return True

    def stop(self) -> None:
        """Ask it to end, wait, then kill it."""
        if self.process is None or not self.alive:
            return
        self.process.terminate()
        try:
            self.process.wait(self.service.grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end in order and is killed", self.service.name)
            self.process.kill()
            self.process.wait()


class Supervisor:
    """Everything of one `csp up`.

    Args:
        folder: its state folder, held by this process.
        setup: what to bring up.
    """

    def __init__(self, folder: StateFolder, setup: Setup) -> None:
        self._folder, self._setup = folder, setup
        self._variables = environment(setup, folder)
        self._state = State(setup, os.getpid())
        self._server = self._child(server(setup))
        page = dashboard(setup)
        self._workers = [
            self._child(service) for service in (*workers(setup), *([page] if page else []))
        ]

    def run(self) -> None:
        """Bring everything up and keep it up until SIGTERM comes."""
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        try:
            self._bring_up()
            while True:
                time.sleep(_POLL_S)
                if any([child.keep_alive() for child in (self._server, *self._workers)]):
                    self._record()
        except _StopAsked:
            self._state.status = "stopping"
            self._record()
        except PackflowError as error:
            self._state.status, self._state.error = "failed", str(error)
            logger.error("%s", error)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._bring_down()
        if self._state.status == "failed":
            self._record()
            sys.exit(1)
        self._folder.forget()
        logger.info("everything is down")

    def _bring_up(self) -> None:
        self._record()
        with self._timed("server"):
            start_from_template(self._folder.prefect_home)
            self._server.start()
            self._record()
            self._await_server()
        with self._timed("deployments"):
            self._set_up()
        Path(self._setup.folder, "runs").mkdir(exist_ok=True)
        for worker in self._workers:
            worker.start()
        self._state.status = "ready"
        self._record()
        logger.info("up: %s, workers for %s", self._setup.address, ", ".join(self._setup.pools))

    def _await_server(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if not self._server.alive:
                raise RunFailedError(
                    f"Prefect's server ended at once: {self._folder.last_lines('server')}"
                )
            if answers(self._setup.api):
                return
            time.sleep(_POLL_S)
        raise RunFailedError(
            f"Prefect's server did not answer within {_START_S:.0f} s; see "
            f"{self._folder.logs / 'server.log'}."
        )

    def _set_up(self) -> None:
        command = [
            sys.executable, "-P", "-m", "flows.up_setup",
            str(PREFECT_YAML), str(self._setup.schedules),
        ]  # fmt: skip
        with (self._folder.logs / "setup.log").open("ab") as log:
            try:
                done = subprocess.run(
                    command, env=self._variables, cwd=self._setup.folder, check=False,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=_SETUP_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise RunFailedError(
                    f"The deployments were not registered within {_SETUP_S:.0f} s; see "
                    f"{self._folder.logs / 'setup.log'}."
                ) from error
        if done.returncode:
            raise RunFailedError(
                f"The deployments could not be registered: {self._folder.last_lines('setup')}"
            )

    def _bring_down(self) -> None:
        """Runs first, then workers, so that both can still tell the server how they ended."""
        self._end_runs()
        for worker in self._workers:
            worker.stop()
        spare = [self._server.process.pid] if self._server.process else []
        self._folder.end_processes(spare=(*spare, *self._of_server()))
        self._server.stop()
        self._folder.end_processes()

    def _end_runs(self) -> None:
        """Ask the flow runs to end while their workers can report it."""
        workers = {child.process.pid for child in self._workers if child.process is not None}

        def runs() -> list[int]:
            return [pid for pid in self._folder.processes() if _parent(pid) in workers]

        for pid in runs():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _RUNS_END_S
        while time.monotonic() < end and runs():
            time.sleep(_POLL_S)
        if workers and self._state.status == "stopping":
            time.sleep(_REPORT_S)

    def _of_server(self) -> list[int]:
        """Processes that the server started."""
        if self._server.process is None:
            return []
        mine = {self._server.process.pid}
        children = []
        for pid in sorted(self._folder.processes()):
            if _parent(pid) in mine:
                mine.add(pid)
                children.append(pid)
        return children

    def _child(self, service: Service) -> Child:
        return Child(service, self._folder, self._variables, self._setup.folder)

    def _record(self) -> None:
        self._state.services = {
            child.service.name: {"pid": child.process.pid, "restarts": child.restarts}
            for child in (self._server, *self._workers)
            if child.process is not None
        }
        self._folder.write(self._state)

    def _timed(self, name: str) -> _Timer:
        return _Timer(self._state.seconds, name)


class _Timer:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = round(time.monotonic() - self._start, 1)


def answers(api: str) -> bool:
    """Whether a Prefect server answers at an API's address."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _StopAsked


def main() -> None:
    """Hold the state folder and supervise."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    values = json.loads(sys.argv[2])
    folder = StateFolder(Path(sys.argv[1]))
    with RunLock(folder.path):
        Supervisor(folder, Setup(**{**values, "pools": tuple(values["pools"])})).run()


if __name__ == "__main__":
    main()
