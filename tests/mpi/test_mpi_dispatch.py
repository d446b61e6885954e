"""What ranks share, and how their deaths are told, without any rank."""

import json
import threading
from collections import Counter

import pytest

from packflow_core.mpi import rank as rank_module
from packflow_core.mpi.dispatch import (
    ALIVE,
    ERROR,
    STOP,
    TOLD,
    Claims,
    Job,
    LogReader,
    RankLog,
    RankSeen,
    cut,
    rank_name,
)
from packflow_core.mpi.rank import RollingJournal
from packflow_core.mpi.settle import death, lost_rows

HYDRA = """[mpiexec@one] Exit codes: [one.local] 0,9
[two] 768,0,11
"""


def test_blocks_keep_their_limits_and_further_attempts_are_alone():
    work = [(1, 1), (3, 1), (4, 2), (5, 1), (6, 1), (7, 3), (9, 1)]
    assert cut(work, 4) == [[(1, 1), (3, 1)], [(5, 1), (6, 1)], [(9, 1)], [(4, 2)], [(7, 3)]]
    # the same limits when other candidates are done already
    assert cut(work[1:], 4)[0] == [(3, 1)]
    assert cut([], 4) == []


@pytest.fixture
def folder(tmp_path):
    """Of a job with 40 blocks."""
    job = Job(tmp_path / "run", "generate", "label", 3, [[(i, 1)] for i in range(40)], "m:f", 9.0)
    job.write(tmp_path, {"A": "1"}, ["somewhere"])
    assert Job.read(tmp_path) == job
    return tmp_path


def test_every_block_is_taken_once(folder):
    taken = {}
    begin = threading.Barrier(4)

    def take(owner):
        claims = Claims(folder, 40)
        begin.wait()
        taken[owner] = list(iter(lambda: claims.take(owner), None))

    threads = [threading.Thread(target=take, args=(f"rank-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for numbers in taken.values() for number in numbers) == list(range(40))
    claims = Claims(folder, 40)
    assert {i: claims.owner(i) for i in range(40)} == {
        number: owner for owner, numbers in taken.items() for number in numbers
    }
    assert claims.take("late") is None
    assert claims.taken() == 40


def test_blocks_are_taken_in_order_and_the_rest_is_nobodys(folder):
    first, second = Claims(folder, 40), Claims(folder, 40)
    assert [first.take("a"), second.take("b"), second.take("b"), first.take("a")] == [0, 1, 2, 3]
    assert [first.owner(i) for i in range(5)] == ["a", "b", "b", "a", None]
    assert first.taken() == 4


def test_logs_are_read_line_by_line_as_they_grow(tmp_path):
    reader = LogReader(tmp_path)
    assert list(reader.news()) == []
    log = RankLog(tmp_path, rank_name(1, "node/7", 42))
    log.write(rank=1, size=2, pid=42, host="node/7", library="MPI")
    log.write(block=0, counts=Counter(ok=2, failed=1))
    path = tmp_path / "rank-00001-node_7-42.jsonl"
    with open(path, "ab") as torn:
        torn.write(json.dumps({"block": 1, "counts": {"ok": 3}}).encode())
    assert list(reader.news()) == [{"ok": 2, "failed": 1}]
    seen = reader.seen["rank-00001-node_7-42"]
    assert (seen.rank, seen.size, seen.pid, seen.end) == (1, 2, 42, "")
    with open(path, "ab") as rest:
        rest.write(b"\n")
    log.end(ERROR, "no space", exit_code=1)
    assert list(reader.news()) == [{"ok": 3}]
    assert list(reader.news()) == []
    assert (seen.end, seen.text, seen.exit_code) == (ERROR, "no space", 1)
    assert str(seen) == "MPI rank 1 (process 42 on node/7)"


@pytest.mark.parametrize(
    ("rank", "how"),
    [
        (0, "ended with exit code 0"),
        (1, "was killed by SIGKILL"),
        (3, "ended with exit code 3"),
        (7, "was killed by SIGSEGV"),
    ],
)
def test_exit_codes_of_hydra_belong_to_the_ranks_of_each_host_in_order(rank, how):
    hosts = {0: "one", 1: "one", 3: "two.local", 5: "two.local", 7: "two.local"}
    seen = {str(i): RankSeen(str(i), rank=i, host=host) for i, host in hosts.items()}
    assert death(seen[str(rank)], seen, HYDRA) == how


def test_the_words_of_other_launchers_are_quoted():
    rank = RankSeen("a", rank=11, host="n1", pid=5)
    slurm = "srun: error: n0: task 1: Exited with exit code 1\nsrun: error: n1: task 11: Killed\n"
    assert death(rank, {"a": rank}, slurm) == "died; the launcher says 'task 11: Killed'"
    prte = "-----\nprterun noticed that process rank 11 with PID 5 on node n1 exited on\nsignal 9"
    assert death(rank, {"a": rank}, prte).endswith(
        "'rank 11 with PID 5 on node n1 exited on signal 9'"
    )
    assert death(rank, {"a": rank}, "") == "died, nobody saw how"
    # hydra's codes say nothing where a rank of the host has left no log
    assert "SIG" not in death(rank, {"a": rank}, "Exit codes: [n1] 0,9\n")
    assert death(None, {}, slurm) == "died, nobody saw how"


def test_its_own_error_says_more_than_the_launcher():
    rank = RankSeen("a", rank=1, host="one", text="ValueError: a bug")
    assert death(rank, {"a": rank}, HYDRA) == "ended with ValueError: a bug"


def test_rows_of_what_was_lost_name_the_rank(run):
    rank = RankSeen("a", rank=3, host="far", pid=77)
    rows = lost_rows(run, [(4, 1), (5, 1)], rank, "was killed by SIGKILL")
    assert [row["index"] for row in rows] == [4, 5]
    assert rows[1]["detail"] == (
        "MPI rank 3 (process 77 on far) was killed by SIGKILL; it had 2 candidates in hand"
    )
    assert {(row["host"], row["wall_s"], row["method"]) for row in rows} == {
        ("far", None, "random")
    }
    (unsigned,) = lost_rows(run, [(6, 2)], None, "died, nobody saw how")
    assert unsigned["detail"] == "an MPI rank died, nobody saw how"
    assert (unsigned["attempt"], unsigned["host"]) == (2, None)
    run.stage("generate").write_part([*rows, unsigned])


def test_a_long_campaign_has_many_journals(run, make_row):
    """A full journal becomes a part while the rank works on; an empty one leaves nothing."""
    store = run.stage("generate")
    with RollingJournal(store, "rank", rows=3) as journal:
        for index in range(7):
            journal.current().append(make_row(index))
        parts = list(store.folder.glob("part-*"))
        assert len(parts) == 2
        assert len(list(store.folder.glob("journal-rank-*"))) == 1
    assert len(list(store.folder.glob("part-*"))) == 3
    assert [row["index"] for row in store.rows()] == list(range(7))
    with RollingJournal(store, "rank", seconds=0.0) as journal:
        for index in (7, 8):
            journal.current().append(make_row(index))
    with RollingJournal(store, "rank"):
        pass
    assert len(list(store.folder.glob("part-*"))) == 5
    assert not list(store.folder.glob("journal-*"))


@pytest.mark.parametrize("reason", ["told", "silence", "no folder"])
def test_a_rank_that_nobody_wants_ends(tmp_path, monkeypatch, reason):
    """Where another host started it, its death shows in the folder alone."""

    class Left(Exception):  # noqa: N818
        pass

    def leave(code):
        raise Left(code)

    folder = tmp_path / "job"
    folder.mkdir()
    (folder / ALIVE).write_text("7")
    log = RankLog(folder, rank_name(0, "one", 1))
    monkeypatch.setattr(rank_module, "_POLL_S", 0.01)
    monkeypatch.setattr(rank_module.os, "_exit", leave)
    if reason == "told":
        (folder / STOP).touch()
    elif reason == "silence":
        monkeypatch.setattr(rank_module, "_PATIENCE_S", 0.1)
    else:
        folder.rename(tmp_path / "away")
    ended = []

    def watch():
        with pytest.raises(Left):
            rank_module.Watch(folder, log, 60.0).run()
        ended.append(True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert ended == [True]
    where = tmp_path / "away" if reason == "no folder" else folder
    (name,) = where.glob("*.jsonl")
    assert json.loads(name.read_text())["end"] == TOLD
