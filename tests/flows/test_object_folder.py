"""Folders in an object store, as commands see them."""

import io
import json
from pathlib import Path

import pytest
from s3_server import bucket, s3_server  # noqa: F401

from flows.console import Terminal
from flows.object_folder import at_hand
from packflow_core.errors import UserInputError
from packflow_core.store.lock import is_locked
from packflow_core.store.object_lock import ObjectLock
from packflow_core.store.object_store import ObjectFolder


def test_a_local_folder_is_itself(tmp_path):
    with at_hand(tmp_path / "run", write=True) as here:
        assert here == tmp_path / "run"
    assert not here.exists()


def test_what_is_written_is_seen_by_another_and_named_by_its_uri(bucket, monkeypatch, tmp_path):  # noqa: F811
    uri = f"{bucket}/runs/a"
    terminal = Terminal()
    terminal.out = io.StringIO()
    with at_hand(Path(uri), write=True, terminal=terminal) as here:
        (here / "run.json").write_text("{}")
        terminal.document({"report": str(here / "report.html")})
        with pytest.raises(UserInputError, match="in use by process"):
            ObjectLock(ObjectFolder(uri)).acquire()
    assert json.loads(terminal.out.getvalue()) == {"report": f"{uri}/report.html"}

    monkeypatch.setenv("PACKFLOW_SCRATCH", str(tmp_path / "elsewhere"))
    with at_hand(uri, write=False) as there:
        assert there != here
        assert (there / "run.json").read_text() == "{}"
        assert not is_locked(there)
    with at_hand(uri, write=True), at_hand(uri, write=False) as there:
        assert is_locked(there)  # shown as running


def test_looking_at_a_prefix_without_a_run_makes_nothing(bucket):  # noqa: F811
    with pytest.raises(UserInputError, match="holds no run"), at_hand(f"{bucket}/x", write=False):
        pass
    assert list(ObjectFolder(f"{bucket}/x").list()) == []
