import errno
import os
import signal
import subprocess
import sys

import pytest

from packflow_core.errors import UserInputError
from packflow_core.store.lock import LOCK_NAME, Lease, LeaseLostError, RunLock, is_locked

HOLDER = """
import subprocess, sys
from pathlib import Path
from packflow_core.store.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_second_process_gets_one_sentence_and_a_kill_frees_the_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(holder.stdout.readline())
    try:
        assert is_locked(tmp_path)
        with pytest.raises(UserInputError, match=f"in use .*process {holder.pid} on") as caught:
            RunLock(tmp_path).acquire()
        assert str(tmp_path) in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        # The child of the holder lives on, but holds no lock.
        os.kill(child, 0)
        assert not is_locked(tmp_path)
        with RunLock(tmp_path):
            assert is_locked(tmp_path)
        assert not is_locked(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait()


def test_asking_neither_creates_nor_takes_a_lock(tmp_path):
    assert not is_locked(tmp_path)
    assert not (tmp_path / LOCK_NAME).exists()
    with RunLock(tmp_path):
        pass
    assert not is_locked(tmp_path)
    with RunLock(tmp_path):
        assert is_locked(tmp_path)


def test_a_lease_ends_with_the_run_that_gave_it(tmp_path):
    with RunLock(tmp_path):
        lease = Lease(tmp_path)
        lease.check(every_s=0.0)  # still held
    with pytest.raises(LeaseLostError, match="attempts its candidates again"):
        lease.check(every_s=0.0)
    lease.check()  # looked a moment ago
    with RunLock(tmp_path), pytest.raises(LeaseLostError):
        lease.check(every_s=0.0)  # held again, but by another session


def test_without_a_lock_there_is_no_lease_to_lose(tmp_path):
    lease = Lease(tmp_path)
    lease.check(every_s=0.0)
    with RunLock(tmp_path):
        pass
    lease.check(every_s=0.0)


def test_a_file_system_without_locks_is_refused_in_one_sentence(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserInputError, match=r"cannot lock files \(No locks available\)"):
        RunLock(tmp_path).acquire()
