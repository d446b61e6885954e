"""What `csp up` and `csp down` do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from flows.console import Terminal
from flows.up_services import environment
from flows.up_state import MARK, Setup, State, StateFolder, check_setup
from flows.up_supervisor import PREFECT_YAML, answers
from packflow_core.errors import EXIT_OK, EXIT_RUN_FAILED, RunFailedError, UserInputError

#: How long everything may take to come up, and to go down, s.
_UP_S, _DOWN_S = 480.0, 90.0
_POLL_S = 0.2


def up(
    terminal: Terminal,
    folder: StateFolder,
    setup: Setup,
    *,
    without_password: bool = False,
    foreground: bool = False,
) -> int:
    """Bring server and workers up, or see that they are; returns the exit code.

    Raises:
        UserInputError: the port is taken, something else is up already, or strangers could use it.
        RunFailedError: something did not start; the sentence says what, and where its log is.
    """
    if not PREFECT_YAML.is_file():
        raise UserInputError(
            f"The deployments of packflow-csp are not installed ({PREFECT_YAML} is missing); "
            "install the package again."
        )
    check_setup(setup, os.environ, without_password)
    folder.make()
    if folder.running:
        _again(terminal, folder, setup)
        return show(terminal, folder)
    _clean(terminal, folder)
    check_port(setup.host, setup.port, "--port")
    if setup.dashboard_port:
        check_port("127.0.0.1", setup.dashboard_port, "--dashboard-port")
    if foreground:
        os.environ[MARK] = str(folder.path)
        os.execv(sys.executable, _command(folder, setup))
    terminal.say("Starting Prefect's server, deployments and workers ...")
    with (folder.logs / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            _command(folder, setup), env=folder.environment(), cwd=setup.folder,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # it stays when this terminal is closed
        )  # fmt: skip
    end = time.monotonic() + _UP_S
    while time.monotonic() < end:
        state = folder.read()
        if state and state.status == "ready":
            return show(terminal, folder)
        if supervisor.poll() is not None:
            break
        time.sleep(_POLL_S)
    state = folder.read()
    folder.forget()
    raise RunFailedError(
        (state.error if state and state.error else "Nothing came up.")
        + f" The logs are in {folder.logs}."
    )


def down(terminal: Terminal, folder: StateFolder) -> int:
    """End everything of a state folder; returns the exit code."""
    state = folder.read()
    if not folder.running:
        left = folder.end_processes()
        folder.forget()
        if terminal.json:
            terminal.document({"status": "down", "was": "left behind" if left else "down"})
        elif left:
            terminal.write(f"{left} processes that a killed 'csp up' had left were ended.")
        else:
            terminal.write("Nothing is up.")
        return EXIT_OK
    if state is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
    end = time.monotonic() + _DOWN_S
    while folder.running and time.monotonic() < end:
        time.sleep(_POLL_S)
    folder.end_processes()
    folder.forget()
    if terminal.json:
        terminal.document({"status": "down", "was": "up"})
    else:
        terminal.write("Server and workers are down. Runs that worked can be continued.")
    return EXIT_OK


def show(terminal: Terminal, folder: StateFolder) -> int:
    """Say what is up; exit code 1 when nothing is, or something is ill."""
    state = folder.read() if folder.running else None
    healthy = state is not None and state.status == "ready" and answers(state.setup.api)
    if terminal.json:
        terminal.document(_document(folder, state, healthy))
        return EXIT_OK if healthy else EXIT_RUN_FAILED
    if state is None:
        terminal.write("Nothing is up; 'csp up' starts a server and workers.")
        return EXIT_RUN_FAILED
    words = "answers" if healthy else f"{state.status}, does not answer"
    again = {name: service["restarts"] for name, service in state.services.items()}
    restarted = ", ".join(f"{name} {count} times" for name, count in again.items() if count)
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in state.seconds.items())
    page = state.setup.dashboard_port
    lines = [
        f"Prefect server  {state.setup.address}  ({words})",
        *([f"dashboard       http://127.0.0.1:{page}"] if page else []),
        f"workers         {', '.join(state.setup.pools)}",
        *([f"started again   {restarted}"] if restarted else []),
        f"runs go to      {state.setup.folder}/runs",
        f"logs            {folder.logs}",
        f"started in      {times}",
        "",
        f"export PREFECT_API_URL={state.setup.api}",
        "prefect deployment run csp/blind-test --watch",
    ]
    terminal.write("\n".join(lines))
    return EXIT_OK if healthy else EXIT_RUN_FAILED


def _document(folder: StateFolder, state: State | None, healthy: bool) -> dict[str, object]:
    if state is None:
        return {"status": "down", "healthy": False, "state_folder": str(folder.path)}
    return {
        "status": state.status,
        "healthy": healthy,
        "state_folder": str(folder.path),
        "url": state.setup.address,
        "api": state.setup.api,
        "dashboard": f"http://127.0.0.1:{page}" if (page := state.setup.dashboard_port) else None,
        "pid": state.pid,
        "pools": list(state.setup.pools),
        "services": state.services,
        "seconds": state.seconds,
        "logs": str(folder.logs),
    }


def _again(terminal: Terminal, folder: StateFolder, setup: Setup) -> None:
    """Everything is up: refuse another setup, register the deployments anew."""
    state = folder.read()
    if state is None or state.status != "ready":
        raise UserInputError(
            f"Another 'csp up' is starting or stopping with the state folder {folder.path}; "
            "wait for it."
        )
    for name in ("host", "port", "pools", "folder", "dashboard_port"):
        ours, theirs = getattr(setup, name), getattr(state.setup, name)
        if ours != theirs:
            shown = ", ".join(theirs) if isinstance(theirs, tuple) else theirs
            raise UserInputError(
                f"It is up already with another {name} ({shown}); 'csp down' first, or give "
                "another state folder with --state."
            )
    terminal.say("It is up already; the deployments are registered again ...")
    with (folder.logs / "setup.log").open("ab") as log:
        done = subprocess.run(
            [
                sys.executable, "-P", "-m", "flows.up_setup",
                str(PREFECT_YAML), str(setup.schedules),
            ],
            env=environment(setup, folder), cwd=setup.folder, check=False,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    if done.returncode:
        raise RunFailedError(
            f"The deployments could not be registered: {folder.last_lines('setup')}"
        )


def _clean(terminal: Terminal, folder: StateFolder) -> None:
    """End what a supervisor that was killed left behind."""
    if left := folder.end_processes():
        terminal.say(f"{left} processes that a killed 'csp up' had left were ended.")
    folder.forget()


def check_port(host: str, port: int, option: str) -> None:
    """Refuse a port that cannot be had.

    Args:
        host: address to bind to.
        port: to try.
        option: that chooses another.

    Raises:
        UserInputError: it is taken, or not ours to use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                prefect = answers(f"http://{host}:{port}/api")
                what = "a Prefect server" if prefect else "another program"
                raise UserInputError(
                    f"Port {port} of {host} is taken by {what}; end that, or choose another with "
                    f"{option}."
                ) from error
            raise UserInputError(
                f"{host}:{port} cannot be used ({error.strerror}); choose another with {option}."
            ) from error


def _command(folder: StateFolder, setup: Setup) -> list[str]:
    return [
        sys.executable, "-P", "-m", "flows.up_supervisor",
        str(folder.path), json.dumps(asdict(setup)),
    ]  # fmt: skip


def working_folder(given: Path | None) -> str:
    """Folder below which runs are written.

    Raises:
        UserInputError: it does not exist.
    """
    folder = (given or Path.cwd()).expanduser().resolve()
    if not folder.is_dir():
        raise UserInputError(f"The folder {folder} does not exist; make it, or leave --dir out.")
    return str(folder)
