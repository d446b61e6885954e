"""A real S3 server in a process of its own, on loopback; conftests import its fixtures."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from waiting import wait_for

#: Objects that the server lists at once.
PAGE = 50


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Environment variables that lead to the server."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=log, stderr=log, env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=2).close()
        except OSError:
            return False
        return True

    try:
        wait_for(answers, "the S3 server", timeout=120)
        yield {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }  # fmt: skip
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path, request):
    """URI of an empty bucket; the environment leads to it, scratch folders are the test's own."""
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACKFLOW_SCRATCH", str(tmp_path / "scratch"))
    name = f"b{abs(hash(request.node.nodeid)) % 10**9}-{os.getpid()}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"
