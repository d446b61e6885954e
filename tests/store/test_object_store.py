"""Runs in an object store, against a real server on loopback."""

import json
import threading
from pathlib import Path

import pytest
from s3_server import PAGE

from packflow_core.errors import UserInputError
from packflow_core.store import object_lock, object_mirror
from packflow_core.store.object_lock import LOCK_OBJECT, ObjectLock, ObjectLockLostError
from packflow_core.store.object_mirror import RECORD, Mirror, MirroredRun, scratch_folder
from packflow_core.store.object_store import (
    ConditionError,
    ObjectFolder,
    ObjectStoreError,
    object_uri,
)
from packflow_core.store.stage_store import StageStore


def objects(uri):
    """Names of the objects of a run, without the store's own."""
    return sorted(o.name for o in ObjectFolder(uri).list() if not o.name.startswith(".packflow/"))


@pytest.mark.parametrize(
    ("given", "proper"),
    [
        ("s3://b/runs/a", "s3://b/runs/a"),
        (Path("s3://b/runs/a/"), "s3://b/runs/a"),  # a path has lost a slash
        ("s3://b//runs//a/", "s3://b/runs/a"),
        ("runs/s3/a", None),
        ("/s3:/b", None),
    ],
)
def test_uris(given, proper):
    assert object_uri(given) == proper


def test_a_whole_bucket_is_refused():
    with pytest.raises(UserInputError, match="s3://b/runs/a"):
        object_uri("s3://b/")


def test_writes_on_condition(bucket):
    folder = ObjectFolder(f"{bucket}/x")
    assert folder.get("a") is None
    etag = folder.put("a", b"one", new=True)
    with pytest.raises(ConditionError):
        folder.put("a", b"two", new=True)
    other = folder.put("a", b"two", etag=etag)
    with pytest.raises(ConditionError):
        folder.put("a", b"three", etag=etag)
    data, stored = folder.get("a")
    assert (data, stored.etag, stored.size) == (b"two", other, 3)
    assert [o.name for o in folder.list()] == ["a"]
    assert list(ObjectFolder(f"{bucket}/xy").list()) == []
    folder.remove("a")
    folder.remove("a")
    assert folder.get("a") is None


def test_more_objects_than_a_listing_holds(bucket):
    folder = ObjectFolder(f"{bucket}/many")
    names = {f"{i:04d}" for i in range(PAGE + 10)}
    for name in names:
        folder.put(name, b"")
    assert {o.name for o in folder.list()} == names


def test_what_is_wrong_is_one_sentence(bucket, monkeypatch):
    with pytest.raises(UserInputError, match="There is no bucket nowhere"):
        list(ObjectFolder("s3://nowhere/a").list())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ObjectStoreError, match="does not answer"):
        ObjectFolder(f"{bucket}/a").get("b")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(UserInputError, match=r"No credentials .* AWS_ACCESS_KEY_ID"):
        ObjectFolder(f"{bucket}/a")


def test_without_boto3_one_sentence_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserInputError, match=r"packflow-csp\[s3\]"):
        ObjectFolder("s3://b/a")


def from_elsewhere(monkeypatch):
    """What comes now comes from another machine."""
    monkeypatch.setattr(object_lock.socket, "gethostname", lambda: "elsewhere")


def test_one_process_at_a_time(bucket, monkeypatch):
    folder = ObjectFolder(f"{bucket}/run")
    first, second = ObjectLock(folder), ObjectLock(folder)
    first.acquire()
    with pytest.raises(UserInputError, match=r"in use by process \d+ on .*until 300 s"):
        second.acquire()
    assert second.is_held()
    first.renew()
    first.release()
    assert not second.is_held()
    second.acquire()


def test_a_lock_without_a_sign_of_life_is_taken_over(bucket, monkeypatch):
    folder = ObjectFolder(f"{bucket}/run")
    lost = ObjectLock(folder)
    lost.acquire()
    from_elsewhere(monkeypatch)
    monkeypatch.setenv(object_lock.STALE_VARIABLE, "0")
    heir = ObjectLock(folder)
    heir.acquire()
    with pytest.raises(ObjectLockLostError, match=r"taken .* over"):
        lost.renew()
    lost.release()  # is not its own any more
    heir.renew()
    assert json.loads(folder.get(LOCK_OBJECT)[0])["session"] == heir.session


def test_a_process_of_this_machine_that_died_holds_nothing(bucket):
    folder = ObjectFolder(f"{bucket}/run")
    note = {"session": "x", "host": object_lock.socket.gethostname(), "pid": 2**22 + 1}
    folder.put(LOCK_OBJECT, json.dumps(note).encode())
    ObjectLock(folder).acquire()


def test_a_race_for_a_stale_lock_has_one_winner(bucket, monkeypatch):
    folder = ObjectFolder(f"{bucket}/run")
    ObjectLock(folder).acquire()
    from_elsewhere(monkeypatch)
    monkeypatch.setenv(object_lock.STALE_VARIABLE, "0")
    seen = folder.get(LOCK_OBJECT)
    monkeypatch.setattr(folder, "get", lambda _: seen)  # both looked at the same moment
    ObjectLock(folder).acquire()
    with pytest.raises(UserInputError, match="by another process just now"):
        ObjectLock(folder).acquire()


def test_what_is_pushed_is_what_is_pulled(bucket, tmp_path):
    uri = f"{bucket}/run"
    mirror = Mirror(ObjectFolder(uri), tmp_path / "a")
    (tmp_path / "a" / "stage").mkdir()
    (tmp_path / "a" / "stage" / "part-1.parquet").write_bytes(b"rows")
    (tmp_path / "a" / "run.json").write_bytes(b"{}")
    (tmp_path / "a" / ".lock").write_bytes(b"")
    (tmp_path / "a" / ".tmp-1-x").write_bytes(b"half")
    mirror.push()
    assert objects(uri) == ["run.json", "stage/part-1.parquet"]

    other = Mirror(ObjectFolder(uri), tmp_path / "b")
    (tmp_path / "b" / "stray").write_bytes(b"of an older run")
    other.pull()
    assert (tmp_path / "b" / "stage" / "part-1.parquet").read_bytes() == b"rows"
    assert not (tmp_path / "b" / "stray").exists()

    (tmp_path / "a" / "stage" / "part-1.parquet").unlink()
    (tmp_path / "a" / "run.json").write_bytes(b"{1}")
    mirror.push()
    other.pull()
    assert (tmp_path / "b" / "run.json").read_bytes() == b"{1}"
    assert not (tmp_path / "b" / "stage" / "part-1.parquet").exists()


def test_only_what_changed_travels(bucket, tmp_path, monkeypatch):
    remote = ObjectFolder(f"{bucket}/run")
    mirror = Mirror(remote, tmp_path / "a")
    for name in ("x", "y"):
        (tmp_path / "a" / name).write_bytes(b"1")
    mirror.push()
    sent, put = [], remote.put
    monkeypatch.setattr(
        remote, "put", lambda name, *a, **k: sent.append(name) or put(name, *a, **k)
    )
    mirror.push()
    assert sent == []
    (tmp_path / "a" / "y").write_bytes(b"22")
    mirror.push()
    assert sent == ["y"]
    fetched, get = [], remote.get
    monkeypatch.setattr(remote, "get", lambda name: fetched.append(name) or get(name))
    Mirror(remote, tmp_path / "a").pull()
    assert fetched == []


class LostError(Exception):
    """The machine is gone."""


@pytest.mark.parametrize("calls", range(5))
def test_a_machine_lost_in_an_upload_leaves_every_row_in_the_store(
    bucket, tmp_path, monkeypatch, make_row, calls
):
    """A journal became a part; whichever request is the last, no row is missing."""
    uri = f"{bucket}/run"
    remote = ObjectFolder(uri)
    mirror = Mirror(remote, tmp_path / "a")
    store = StageStore(tmp_path / "a", "relax", "0" * 64)
    store.prepare()
    with store.open_journal("0-9") as journal:
        for index in range(3):
            journal.append(make_row(index))
        mirror.push()
    assert len(objects(uri)) == 1
    left = [calls]

    def last(function):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise LostError
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(remote, "put", last(remote.put))
    monkeypatch.setattr(remote, "remove", last(remote.remove))
    try:
        mirror.push()
    except LostError:
        assert calls < 2
    there = tmp_path / "b"
    Mirror(ObjectFolder(uri), there).pull()
    rows = StageStore(there, "relax", "0" * 64).rows()
    assert [row["index"] for row in rows] == [0, 1, 2]


def test_a_journal_that_goes_while_the_upload_looks_is_not_lost(bucket, tmp_path, monkeypatch):
    uri = f"{bucket}/run"
    mirror = Mirror(ObjectFolder(uri), tmp_path / "a")
    (tmp_path / "a" / "journal-1").write_bytes(b"rows")
    mirror.push()
    listing = mirror._local_files

    def folded_meanwhile():
        monkeypatch.setattr(mirror, "_local_files", listing)
        found = listing()
        (tmp_path / "a" / "part-1").write_bytes(b"rows")
        (tmp_path / "a" / "journal-1").unlink()
        return {name: state for name, state in found.items() if name != "journal-1"}

    monkeypatch.setattr(mirror, "_local_files", folded_meanwhile)
    mirror.push()
    assert objects(uri) == ["part-1"]


def test_the_newest_state_wins(bucket, monkeypatch, tmp_path):
    uri = f"{bucket}/run"
    with MirroredRun(uri) as held:
        (held.local / "kept").write_bytes(b"1")
    # Killed here after it computed more: the folder is newer than the store.
    (scratch_folder(uri) / "more").write_bytes(b"2")
    with MirroredRun(uri) as held:
        assert (held.local / "more").read_bytes() == b"2"
    assert objects(uri) == ["kept", "more"]
    # Another machine goes on; what this one still has is older then.
    monkeypatch.setenv(object_mirror.SCRATCH_VARIABLE, str(tmp_path / "elsewhere"))
    with MirroredRun(uri) as held:
        assert (held.local / "more").read_bytes() == b"2"
        (held.local / "more").write_bytes(b"3")
    monkeypatch.setenv(object_mirror.SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    (scratch_folder(uri) / "old").write_bytes(b"x")
    with MirroredRun(uri) as held:
        assert (held.local / "more").read_bytes() == b"3"
        assert not (held.local / "old").exists()
        assert (held.local / RECORD).exists()
    assert not ObjectLock(ObjectFolder(uri)).is_held()


def test_a_run_that_was_taken_over_stops_and_says_so(bucket):
    uri = f"{bucket}/run"
    told = threading.Event()
    held = MirroredRun(uri, on_lost=told.set, every_s=0.05)
    held.__enter__()
    ObjectFolder(uri).put(LOCK_OBJECT, b'{"session": "other"}')
    assert told.wait(30)
    with pytest.raises(ObjectLockLostError):
        held.__exit__(None, None, None)


def test_what_could_not_be_uploaded_is_named(bucket, monkeypatch):
    def refuse(*_, **__):
        raise ObjectStoreError("The store is gone.")

    held = MirroredRun(f"{bucket}/run")
    held.__enter__()
    monkeypatch.setattr(held._remote, "put", refuse)
    with pytest.raises(ObjectStoreError, match=r"is in .*scratch.*csp resume s3://"):
        held.__exit__(None, None, None)


def test_a_write_whose_answer_was_lost_keeps_its_lock(bucket, monkeypatch):
    """The library repeats such a write, and the store refuses the second one."""
    lock = ObjectLock(ObjectFolder(f"{bucket}/answer"))
    real = ObjectFolder.put

    def twice(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise ConditionError("412")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectFolder, "put", twice)
        lock.acquire()
        lock.renew()
    lock.renew()  # with the etag of the note that is there
    lock.release()


def test_the_run_itself_travels_first_and_journals_last():
    names = [
        "relax-1/journal-000.bin",
        "conformers.parquet",
        "run.json",
        "generate-1/part-0.parquet",
    ]
    assert sorted(names, key=object_mirror._order) == [
        "run.json", "conformers.parquet", "generate-1/part-0.parquet", "relax-1/journal-000.bin",
    ]  # fmt: skip
