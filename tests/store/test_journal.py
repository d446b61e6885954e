import errno
import os

import pytest

from packflow_core.store import journal as journal_module
from packflow_core.store.journal import JournalWriter, read_journal
from packflow_core.store.schema import stage_schema

SCHEMA = stage_schema("generate")


def indices(path):
    return [i for batch in read_journal(path) for i in batch.column("index").to_pylist()]


def test_rows_come_back_as_they_were(tmp_path, make_row):
    row = make_row(3, detail="überlappt, 1 Å", energy_eV=float("nan"), bonds_ok=None)
    with JournalWriter(tmp_path / "j", SCHEMA) as journal:
        journal.append([row])
    (batch,) = read_journal(tmp_path / "j")
    (back,) = batch.to_pylist()
    assert back["energy_eV"] != back["energy_eV"]
    assert {k: v for k, v in back.items() if k in row and k != "energy_eV"} == {
        k: v for k, v in row.items() if k != "energy_eV"
    }
    assert all(v is None for k, v in back.items() if k not in row)


def test_a_journal_cut_anywhere_keeps_every_whole_row(tmp_path, make_row):
    path, ends = tmp_path / "j", []
    with JournalWriter(path, SCHEMA) as journal:
        ends.append(path.stat().st_size)
        for index in range(3):
            journal.append([make_row(index)])
            ends.append(path.stat().st_size)  # on its way to the disk at once, not at close
    data = path.read_bytes()
    assert ends[-1] == len(data)
    cuts = {*range(0, len(data), 97), *(end + d for end in ends for d in (-1, 0, 1))}
    for cut in sorted(c for c in cuts if 0 <= c <= len(data)):
        path.write_bytes(data[:cut])
        assert indices(path) == list(range(sum(end <= cut for end in ends[1:]))), cut


def test_damaged_bytes_end_the_journal_instead_of_being_believed(tmp_path, make_row):
    path = tmp_path / "j"
    with JournalWriter(path, SCHEMA) as journal:
        journal.append([make_row(0)])
        size = path.stat().st_size
        journal.append([make_row(1)])
    data = bytearray(path.read_bytes())
    data[size + 400] ^= 0xFF
    path.write_bytes(bytes(data))
    assert indices(path) == [0]
    # A power cut may leave the right length with nothing in it.
    path.write_bytes(bytes(data[:size]) + bytes(len(data) - size))
    assert indices(path) == [0]


def test_a_full_disk_leaves_a_journal_that_can_be_read_to_its_end(tmp_path, make_row, monkeypatch):
    path, write = tmp_path / "j", os.write

    def full(fd, data):
        if len(data) > 300:
            return write(fd, data[:300])  # some of it still fits ...
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = JournalWriter(path, SCHEMA)
    journal.append([make_row(0)])
    size = path.stat().st_size
    monkeypatch.setattr(journal_module.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([make_row(1)])
    monkeypatch.setattr(journal_module.os, "write", write)
    assert path.stat().st_size == size
    with pytest.raises(OSError, match="failed write"):
        journal.append([make_row(2)])
    journal.close()
    assert indices(path) == [0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("colour", "red", "columns colour"), ("n_steps", "many", "does not fit")],
)
def test_a_row_that_does_not_fit_is_refused_whole(tmp_path, make_row, column, value, message):
    with JournalWriter(tmp_path / "j", SCHEMA) as journal:
        with pytest.raises(ValueError, match=message):
            journal.append([make_row(0, **{column: value})])
        journal.append([make_row(1)])
    assert indices(tmp_path / "j") == [1]
