import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.store import stage_store as module
from packflow_core.store.atomic import StorageFullError, atomic_path, make_folder
from packflow_core.store.journal import JournalWriter
from packflow_core.store.rows import same_result
from packflow_core.store.stage_store import StageStore

KEY = "0123456789abcdef" * 4


class Killed(BaseException):
    """Stands for kill -9: nothing catches it on the way."""


@pytest.fixture
def store(tmp_path):
    store = StageStore(tmp_path, "generate", KEY)
    store.prepare()
    return store


def leave_journal(store, rows, name="journal-0-1-abcd.journal"):
    """What a killed process leaves."""
    journal = JournalWriter(store.folder / name, store.schema)
    for row in rows:
        journal.append([row])
    journal.close()


def found(store):
    return {row["index"]: row["attempt"] for row in store.rows()}


def test_a_chunk_is_readable_while_it_works_and_one_part_when_it_is_done(store, make_row):
    with store.open_journal("0-4") as journal:
        for index in (4, 0, 2):
            journal.append(make_row(index))
        assert list(found(store)) == [0, 2, 4]  # by index, whatever the order of completion
        assert not list(store.folder.glob("part-*"))
    assert list(found(store)) == [0, 2, 4]
    (part,) = store.folder.iterdir()
    assert part.match("part-00000000-00000004-*.parquet")
    back = store.table(columns=list(make_row(0))).to_pylist()
    assert all(same_result(row, make_row(row["index"])) for row in back)


def test_an_exception_in_a_chunk_keeps_its_rows(store, make_row):
    def chunk():
        with store.open_journal("0-1") as journal:
            journal.append(make_row(0))
            raise Killed

    with pytest.raises(Killed):
        chunk()
    assert found(store) == {0: 1}


@pytest.mark.parametrize("step", ["write_table", "fsync", "replace", "unlink"])
def test_a_kill_in_any_step_of_folding_loses_nothing_and_doubles_nothing(
    store, make_row, monkeypatch, step
):
    rows = [make_row(i) for i in range(5)]
    leave_journal(store, rows)

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "write_table":
            patch.setattr(module.pq, "write_table", die)
        elif step == "unlink":
            patch.setattr(Path, "unlink", die)
        else:
            patch.setattr(f"packflow_core.store.atomic.os.{step}", die)
        with pytest.raises(Killed):
            store.prepare()
    assert found(store) == dict.fromkeys(range(5), 1)
    store.prepare()
    store.prepare()
    assert found(store) == dict.fromkeys(range(5), 1)
    names = [p.name for p in store.folder.iterdir()]
    assert [name[:23] for name in names] == ["part-00000000-00000004-"]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_latest_attempt_counts_wherever_it_is(store, make_row, order):
    for attempt in order:
        store.write_part([make_row(7, "failed", "timeout", attempt, detail=f"try {attempt}")])
    leave_journal(store, [make_row(7, attempt=3, detail="try 3")])
    (row,) = store.rows()
    assert (row["attempt"], row["status"], row["detail"]) == (3, "ok", "try 3")
    store.prepare()
    assert store.rows() == [row]


def test_a_journal_that_somebody_else_folded_is_no_error(store, make_row):
    with store.open_journal("0-9") as journal:
        journal.append(make_row(1))
        store.prepare()  # of the next process, while this chunk is still at work
        journal.append(make_row(2))
    assert [row["index"] for row in store.rows()] == [1]  # 2 is attempted again


def test_a_journal_folded_while_we_look_is_found_as_a_part(store, make_row, monkeypatch):
    leave_journal(store, [make_row(0)])
    read = module.read_journal

    def late(path):  # another process folds between our listing and our reading
        monkeypatch.setattr(module, "read_journal", read)
        store.prepare()
        raise FileNotFoundError(path)

    monkeypatch.setattr(module, "read_journal", late)
    assert found(store) == {0: 1}


def test_only_wanted_candidates_are_read(store, make_row):
    for first in (0, 10, 20):
        store.write_part([make_row(first + i) for i in range(5)])
    assert [row["index"] for row in store.rows([22, 3, 11, 99])] == [3, 11, 22]
    assert store.rows([]) == []
    assert store.table(["index"], [10]).column_names == ["index"]


def test_an_empty_stage_is_an_empty_table(store):
    assert store.rows() == []
    assert store.write_part([]) is None
    assert store.table().schema.names == store.schema.names


def test_units_travel_with_the_file(store, make_row):
    path = store.write_part([make_row(0)])
    field = module.pq.read_schema(path).field("positions")
    assert field.metadata[b"unit"].decode() == "Å"


def test_a_damaged_part_is_named(store, make_row):
    path = store.write_part([make_row(0)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFailedError, match=path.name):
        store.rows()


def test_a_full_disk_is_one_sentence_and_leaves_no_half_part(store, make_row, monkeypatch):
    def full(table, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(StorageFullError, match="is full; free some space"):
        store.write_part([make_row(0)])
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("folder", ["/dev/null/x", "/proc/nothing/here"])
def test_an_unwritable_folder_is_one_sentence(folder):
    with pytest.raises(UserInputError, match="cannot be written") as caught:
        make_folder(Path(folder))
    assert folder in str(caught.value)


def test_an_atomic_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def half():
        with atomic_path(path) as temporary:
            temporary.write_text("new, but not whole")
            raise Killed

    with pytest.raises(Killed):
        half()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "new")]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 6)),
        st.tuples(st.just("kill"), st.sampled_from(["journal", "fold", "unlink"])),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("prepare"), st.none()),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=40)
@given(operations)
def test_any_history_of_attempts_kills_and_salvages_counts_each_candidate_once(
    tmp_path_factory, make_row, history
):
    folder = tmp_path_factory.mktemp("run")
    store = StageStore(folder, "generate", KEY)
    store.prepare()
    model, journal, number = {}, None, 0
    for what, detail in history:
        if what == "append":
            if journal is None:
                number += 1
                path = store.folder / f"journal-0-{number}-{number:08x}.journal"
                journal = JournalWriter(path, store.schema)
            model[detail] = model.get(detail, 0) + 1
            journal.append([make_row(detail, attempt=model[detail])])
        elif journal is not None and what in ("kill", "close"):
            journal.close()  # a killed process's descriptors are closed, too
            if what == "close":
                store.fold(journal.path)
            elif detail == "fold":  # ... after writing half a part
                (store.folder / ".tmp-1-x.parquet").write_bytes(b"half")
            elif detail == "unlink":  # ... after writing the part, before removing the journal
                content = journal.path.read_bytes()
                store.fold(journal.path)
                journal.path.write_bytes(content)
            journal = None
        elif what == "prepare" and journal is None:
            store.prepare()
            assert not list(store.folder.glob("journal-*"))
        assert found(store) == model
