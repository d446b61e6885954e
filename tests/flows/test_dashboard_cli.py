"""`csp dashboard`: what it refuses, and that it serves its page until it is told to stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from flows import cli

pytest.importorskip("dash", reason="needs the extra dashboard")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dashboard(monkeypatch, capsys):
    """Call `csp dashboard` in this process: exit code, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["csp", "dashboard", *map(str, arguments)])
        monkeypatch.setattr(cli, "terminal", cli.Terminal())
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    return call


def test_a_root_that_is_no_folder_is_one_sentence(dashboard, tmp_path):
    code, err = dashboard(tmp_path / "nothing")
    assert code == 2
    assert err.count("\n") == 1
    assert "is not a folder" in err


def test_a_port_in_use_is_one_sentence(dashboard, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = dashboard(tmp_path, "--port", port)
    assert code == 2
    assert err.count("\n") == 1
    assert f"port {port}" in err
    assert "--port" in err


def test_what_is_not_installed_is_named(dashboard, tmp_path, monkeypatch):
    from flows import dashboard_commands

    monkeypatch.setattr(dashboard_commands.util, "find_spec", lambda name: None)
    code, err = dashboard(tmp_path, "--port", 0)
    assert code == 2
    assert "pip install 'packflow-csp[dashboard]'" in err


def test_it_serves_until_it_is_interrupted(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "dashboard", str(tmp_path), "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stderr.readline()
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(address, timeout=180) as answer:
            assert b"packflow-csp" in answer.read()
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=180) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
