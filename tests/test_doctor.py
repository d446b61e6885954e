"""Checks of `csp doctor` against machines and servers as they may be."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest

from packflow_core import doctor, doctor_sites

HERE = metadata.version("prefect")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program that prints `text` in the place of nvidia-smi."""

    def put(text, listing="GPU 0: X (UUID: GPU-1)"):
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\nif [ "$1" = -L ]; then echo "{listing}"; else echo "{text}"; fi\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(doctor_sites, "_torch_lacks_cuda", lambda: False)

    return put


def test_no_gpu_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_sites.gpus() == ("ok", "none; engines compute on the CPU")


def test_gpus_are_told_with_their_memory(smi, monkeypatch):
    smi("0, NVIDIA H200, 143771, 140000, 570.1")
    verdict, told = doctor_sites.gpus()
    assert verdict == "ok"
    assert told == "0: NVIDIA H200, 137 of 140 GiB free; driver 570.1"
    monkeypatch.setattr(doctor_sites, "_torch_lacks_cuda", lambda: True)
    verdict, told = doctor_sites.gpus()
    assert verdict == "warn"
    assert "without CUDA" in told


def test_a_gpu_that_others_fill_and_one_that_is_hidden(smi, monkeypatch):
    smi("0, A100, 81920, 2048, 570.1")
    verdict, told = doctor_sites.gpus()
    assert verdict == "warn"
    assert "2 of 80 GiB free" in told
    smi("0, A100, [N/A], [N/A], 570.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    verdict, told = doctor_sites.gpus()
    assert verdict == "ok"
    assert "memory unknown" in told
    assert "0 visible" in told


@pytest.fixture
def server():
    """Starts a server that gives these answers, by path; a number is an error."""
    started = []

    def start(answers):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = answers.get(self.path, 404)
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                if not isinstance(answer, int):
                    self.wfile.write(json.dumps(answer).encode())

            do_POST = do_GET

            def log_message(self, *_):
                pass

        found = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        started.append(found)
        return f"http://127.0.0.1:{found.server_port}/api"

    yield start
    for found in started:
        found.shutdown()
        found.server_close()


def test_a_prefect_server_of_the_same_version(server):
    pools = [{"name": "cpu", "status": "READY"}, {"name": "gpu", "status": "NOT_READY"}]
    url = server({"/api/admin/version": HERE, "/api/work_pools/filter": pools})
    verdict, told = doctor_sites.prefect_server(url)
    assert verdict == "ok"
    assert told.endswith(f"is {HERE}; work pools: cpu (ready), gpu (not_ready)")


def test_a_prefect_server_of_another_version_is_a_warning(server):
    url = server({"/api/admin/version": "2.20.1", "/api/work_pools/filter": []})
    verdict, told = doctor_sites.prefect_server(url + "/")
    assert verdict == "warn"
    assert "prefect==2.20.1" in told
    assert "work pools: none" in told


def test_a_prefect_server_behind_a_password_and_one_that_is_not_there(server):
    verdict, told = doctor_sites.prefect_server(server({"/api/admin/version": 401}))
    assert verdict == "ok"
    assert "asks for a password" in told
    verdict, told = doctor_sites.prefect_server("http://127.0.0.1:1/api")
    assert verdict == "fail"
    assert "nothing answers" in told


def test_disk_says_what_is_free_and_that_files_can_be_locked(tmp_path, monkeypatch):
    verdict, told = doctor_sites.disk(tmp_path)
    assert verdict == "ok"
    assert "files can be locked" in told
    assert list(tmp_path.iterdir()) == []

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    verdict, told = doctor_sites.disk(tmp_path)
    assert verdict == "fail"
    assert "cannot lock files" in told


def test_gated_weights(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert "no token" in doctor_sites.uma_access("m", "o/r")[1]
    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "forbids" in doctor_sites.uma_access("m", "o/r")[1]
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def silence(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(hub, "get_hf_file_metadata", silence)
    verdict, told = doctor_sites.uma_access("m", "o/r")
    assert verdict == "warn"
    assert "does not answer" in told
    assert "secret" not in told
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: None)
    assert doctor_sites.uma_access("m", "o/r") == ("ok", "the token of Hugging Face opens o/r")


def test_optional_packages():
    assert doctor_sites.optional("pytest", "pytest", "-")[1].startswith("pytest ")
    assert doctor_sites.optional("x", "no_such_module_here", "pip install x") == (
        "ok", "optional, not installed; pip install x",
    )  # fmt: skip


def test_every_check_has_a_name_and_none_raises(monkeypatch):
    def broken():
        raise RuntimeError("no")

    check = doctor._guarded("x", broken)
    assert (check.verdict, check.detail) == ("fail", "RuntimeError: no")
