"""`csp up` without Prefect: state folder, supervision, and what is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import wait_for

from flows import up_commands, up_supervisor
from flows.console import Terminal
from flows.up_services import POOLS, Service, dashboard, environment, server, workers
from flows.up_state import (
    MARK,
    Setup,
    State,
    StateFolder,
    check_setup,
    default_state_folder,
)
from packflow_core.errors import UserInputError
from packflow_core.store.lock import RunLock

ROOT = Path(__file__).parents[2]
SETUP = Setup("127.0.0.1", 4200, ("cpu",), "/tmp")
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def folder(tmp_path):
    state = StateFolder(tmp_path / "state")
    state.make()
    yield state
    state.end_processes(2.0)


def marked(folder, *command):
    return subprocess.Popen(command or SLEEP, env=folder.environment(), start_new_session=True)


def test_the_state_is_read_as_it_was_written(folder):
    assert folder.read() is None
    state = State(SETUP, 17, "ready", services={"server": {"pid": 3, "restarts": 0}})
    folder.write(state)
    assert folder.read() == state
    assert oct(folder.path.stat().st_mode)[-3:] == "700"
    (folder.path / "up.json").write_text("{")
    assert folder.read() is None
    folder.forget()
    assert not (folder.path / "up.json").exists()


def test_it_runs_while_its_lock_is_held(folder):
    assert not folder.running
    with RunLock(folder.path):
        assert folder.running
    assert not folder.running


def test_its_processes_are_known_by_their_mark(folder, tmp_path):
    other = StateFolder(tmp_path / "other")
    other.make()
    ours, theirs = marked(folder), marked(other)
    try:
        wait_for(lambda: folder.processes() == [ours.pid], "the process")
        assert folder.end_processes() == 1
        assert ours.wait(5) == -signal.SIGTERM
        assert theirs.poll() is None
        assert folder.processes() == []
    finally:
        theirs.kill()
        theirs.wait()


def test_who_does_not_listen_is_killed(folder):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
    command = [sys.executable, "-c", f"{deaf}; time.sleep(600)"]
    process = subprocess.Popen(command, env=folder.environment(), stdout=subprocess.PIPE)
    process.stdout.readline()
    assert folder.end_processes(0.3) == 1
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()


def test_the_state_folder_follows_the_environment(tmp_path):
    assert default_state_folder({"PACKFLOW_STATE": "/a"}) == Path("/a")
    assert default_state_folder({"XDG_STATE_HOME": "/b"}) == Path("/b/packflow-csp")
    assert default_state_folder({}) == Path.home() / ".local/state/packflow-csp"


def test_strangers_are_kept_out(folder):
    check_setup(SETUP, {}, without_password=False)
    wide = Setup("0.0.0.0", 4200, ("cpu",), "/tmp")
    with pytest.raises(UserInputError, match="lets everybody who reaches port 4200"):
        check_setup(wide, {}, without_password=False)
    check_setup(wide, {"PREFECT_SERVER_API_AUTH_STRING": "me:secret"}, without_password=False)
    check_setup(wide, {}, without_password=True)
    assert wide.api == "http://127.0.0.1:4200/api"


def test_programs_talk_to_our_server_and_the_password_is_no_argument(folder, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:secret")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    variables = environment(SETUP, folder)
    assert variables["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert variables["PREFECT_API_AUTH_STRING"] == "me:secret"
    assert variables["PREFECT_HOME"] == str(folder.prefect_home)
    assert variables[MARK] == str(folder.path)
    assert dashboard(SETUP) is None
    page = dashboard(Setup("0.0.0.0", 4200, ("cpu",), "/tmp", dashboard_port=8050))
    assert page.command[page.command.index("--host") + 1] == "127.0.0.1"  # it has no login
    services = [server(SETUP), *workers(Setup("127.0.0.1", 4200, POOLS, "/tmp"))]
    assert [s.name for s in services] == ["server", "worker-cpu", "worker-gpu", "worker-mpi"]
    assert not [s for s in services if "secret" in " ".join(s.command)]


def test_browsers_are_told_an_address_that_they_can_reach(monkeypatch):
    monkeypatch.delenv("PREFECT_UI_API_URL", raising=False)

    def told(host):
        return server(Setup(host, 4200, ("cpu",), "/tmp")).environment["PREFECT_UI_API_URL"]

    assert told("127.0.0.1") == "http://127.0.0.1:4200/api"
    assert told("0.0.0.0") == f"http://{socket.gethostname()}:4200/api"
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://csp.example.org/api")
    assert told("0.0.0.0") == "https://csp.example.org/api"


def test_a_taken_port_is_one_sentence(folder, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserInputError, match=rf"Port {port} of 127\.0\.0\.1 is taken by") as e:
            up_commands.up(Terminal(), folder, Setup("127.0.0.1", port, ("cpu",), str(tmp_path)))
    assert "choose another with --port" in str(e.value)
    assert not folder.running


def test_what_a_killed_one_left_is_ended(folder, capsys):
    left = marked(folder)
    folder.write(State(SETUP, 2**22 - 1, "ready"))  # a stale process id
    wait_for(folder.processes, "the process")
    terminal = Terminal()
    assert up_commands.show(terminal, folder) == 1
    assert up_commands.down(terminal, folder) == 0
    assert left.wait(5) == -signal.SIGTERM
    assert folder.read() is None
    assert "1 processes that a killed 'csp up' had left" in capsys.readouterr().out
    assert up_commands.down(terminal, folder) == 0
    assert capsys.readouterr().out == "Nothing is up.\n"


def test_the_folder_for_runs_must_exist(tmp_path):
    assert up_commands.working_folder(tmp_path) == str(tmp_path)
    with pytest.raises(UserInputError, match="does not exist"):
        up_commands.working_folder(tmp_path / "gone")


def test_a_program_that_ends_starts_again_with_longer_pauses(folder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(up_supervisor.time, "monotonic", lambda: clock[0])
    quick = Service("quick", [sys.executable, "-c", ""])
    child = up_supervisor.Child(quick, folder, dict(os.environ), str(folder.path))
    child.start()
    pauses = []
    for _ in range(4):
        child.process.wait()
        assert not child.keep_alive()  # noticed; the pause begins
        began = clock[0]
        while not child.keep_alive():
            clock[0] += 0.5
        pauses.append(clock[0] - began)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert child.restarts == 4
    # One that ran long enough begins anew.
    clock[0] += 1000.0
    child.process.wait()
    assert not child.keep_alive()
    clock[0] += 1.0
    assert child.keep_alive()


def fake_services(tmp_path):
    """A supervisor with stand-ins for Prefect, as a program."""
    program = tmp_path / "supervise.py"
    program.write_text(f"""
import json, sys
from pathlib import Path
from flows import up_supervisor as module
from flows.up_services import Service
module.server = lambda setup: Service("server", {SLEEP!r})
module.workers = lambda setup: [Service("worker-cpu", {SLEEP!r})]
module.answers = lambda api: True
module.start_from_template = lambda home: None
module.Supervisor._set_up = lambda self: None
module.main()
""")
    return program


def test_supervision_from_start_to_end(folder, tmp_path):
    setup = json.dumps({"host": "127.0.0.1", "port": 1, "pools": ["cpu"], "folder": str(tmp_path)})
    environment = {**folder.environment(), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(fake_services(tmp_path)), str(folder.path), setup],
        env=environment, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ready():
        assert process.poll() is None
        state = folder.read()
        return state if state and state.status == "ready" else None

    try:
        state = wait_for(ready, "the supervisor")
        assert set(state.services) == {"server", "worker-cpu"}
        assert folder.running
        worker = state.services["worker-cpu"]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: folder.read().services["worker-cpu"]["restarts"] == 1, "another worker")
        assert folder.read().services["worker-cpu"]["pid"] != worker
        assert folder.read().services["server"] == state.services["server"]
        terminal = Terminal()
        assert up_commands.down(terminal, folder) == 0
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert folder.processes() == []
    assert folder.read() is None


def test_a_killed_supervisor_leaves_what_the_next_command_ends(folder, tmp_path):
    setup = json.dumps({"host": "127.0.0.1", "port": 1, "pools": ["cpu"], "folder": str(tmp_path)})
    process = subprocess.Popen(
        [sys.executable, str(fake_services(tmp_path)), str(folder.path), setup],
        env={**folder.environment(), "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: (s := folder.read()) and s.status == "ready", "the supervisor")
    process.kill()
    process.wait()
    time.sleep(0.1)
    assert not folder.running
    assert len(folder.processes()) == 2
    assert up_commands.down(Terminal(), folder) == 0
    assert folder.processes() == []
