"""Ranks of MPI, started for real: what they record, and what is left when they die."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import rank_functions
from waiting import wait_for

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.mpi.launch import find_mpi, require_mpi, run_ranks
from packflow_core.stages.chunk import run_chunk
from packflow_core.stages.generators import make_rows
from packflow_core.stages.run_store import LOG
from packflow_core.store.rows import same_result

pytest.importorskip("mpi4py")
try:
    require_mpi()
except UserInputError as error:
    pytest.skip(str(error), allow_module_level=True)

OK, LOST = ("ok", "", 1), ("failed", "worker_lost", 1)
MADE = {i: ("rejected", "bad_cell", 1) if i % 5 == 4 else OK for i in range(12)}


class InThread(threading.Thread):
    """Calls a function in a thread; `result` waits for what it returns or raises."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = (function, args, kwargs)
        self._outcome = {}
        self.start()

    def run(self):
        function, args, kwargs = self._call
        try:
            self._outcome["value"] = function(*args, **kwargs)
        except BaseException as error:
            self._outcome["error"] = error

    def result(self):
        self.join(timeout=300)
        assert self._outcome, "it did not end"
        if "error" in self._outcome:
            raise self._outcome["error"]
        return self._outcome["value"]


def hold(run, *indices):
    for index in indices:
        (run.folder / f"hold-{index}").touch()


def release(run, *indices):
    for index in indices:
        (run.folder / f"release-{index}").touch()


def holder(run, index, attempt=1):
    """Process that has a candidate in hand."""
    path = run.folder / f"holding-{index}-{attempt}"
    return int(wait_for(lambda: path.exists() and path.read_text(), f"candidate {index}"))


def numbers(run):
    """Rank of each process that lives, by process id."""
    found = {}
    for log in run.stage("generate").folder.glob("ranks/*/rank-*.jsonl"):
        first = json.loads(log.read_text().splitlines()[0])
        found[first["pid"]] = first["rank"]
    return found


def gone(pid):
    """Whether a process has ended; a zombie has."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def launcher(tmp_path, text):
    """A program in the place of mpiexec."""
    path = tmp_path / "launcher"
    path.write_text(f"#!{sys.executable}\nimport subprocess, sys\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_two_ranks_make_what_one_process_makes(open_run, starts):
    with open_run(n=24, generator="random+press") as run:
        told = Counter()
        work = run.pending("generate")
        counts = run_ranks(run, "generate", work, 2, lambda status: told.update([status]), block=8)
        expected = make_rows(run, work)
        found = run.stage("generate").rows()
        assert len(found) == 24
        assert all(map(same_result, found, expected))
        assert [row["attempt"] for row in found] == [1] * 24
        assert counts == told == Counter(row["status"] for row in expected)
        assert starts == [2]
        # whatever was recorded is in parts, the ranks' own, and nothing else is left
        folder = run.stage("generate").folder
        assert {path.suffix for path in folder.iterdir()} == {".parquet"}


def test_a_chunk_of_a_run_has_its_candidates_made_by_ranks(run, starts):
    """What `csp run --ranks 2` does, without Prefect."""
    result = run_chunk(run.folder, "generate", run.pending("generate"), workers=1, ranks=2)
    found = Counter(row["status"] for row in run.stage("generate").rows())
    assert result.counts == found
    assert found.total() == 12
    assert starts == [1]  # one block


def test_what_is_recorded_is_not_made_again(run, attempt, results, starts):
    whole = run.pending("generate")
    attempt(run)
    assert run_ranks(run, "generate", whole, 2, print, function="rank_functions:die") == {}
    assert results(run) == MADE
    assert starts == [2]


def test_ranks_take_what_is_there_while_one_is_busy(run, attempt, results):
    """A rank has one candidate for as long as the other needs for all the rest."""
    hold(run, 0)
    told = []
    job = InThread(attempt, run, on_row=told.append)
    holder(run, 0)
    wait_for(lambda: len(told) == 10, "everything but the block that is held")
    assert set(results(run)) == set(range(2, 12))
    release(run, 0)
    assert sum(job.result().values()) == 12
    assert results(run) == MADE


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_loses_what_it_had_in_hand(run, attempt, results, starts, victim):
    hold(run, 0, 2, 8)
    told = []
    job = InThread(attempt, run, on_row=told.append)
    held = {holder(run, 0): (0, 1), holder(run, 2): (2, 3)}
    rank_of = numbers(run)
    (dead,) = (pid for pid in held if rank_of[pid] == victim)
    (other,) = set(held) - {dead}
    # The other one has finished rows behind it when the victim dies, and works on afterwards.
    release(run, held[other][0])
    assert holder(run, 8) == other
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: gone(dead), "the death")
    release(run, 8)
    counts = job.result()

    lost = held[dead]
    assert counts == Counter(told) == {"ok": 8, "rejected": 2, "failed": 2}
    assert results(run) == {**MADE, **dict.fromkeys(lost, LOST)}
    assert starts == [2]
    row = run.stage("generate").rows(lost[:1])[0]
    assert f"MPI rank {victim} (process {dead} on " in row["detail"]
    assert "killed by SIGKILL" in row["detail"]
    assert row["candidate_id"] == f"x-z1-{lost[0]:06d}"

    # the run's own rule gives them another attempt
    release(run, *lost)
    assert attempt(run) == {"ok": 2}
    assert results(run) == {**MADE, **dict.fromkeys(lost, ("ok", "", 2))}


def test_a_candidate_that_kills_its_rank_twice_is_alone_to_blame(run, attempt, results, starts):
    (run.folder / "die-3").write_text("2")
    attempt(run)
    assert results(run) == {**MADE, 2: LOST, 3: LOST}
    attempt(run)
    assert results(run) == {**MADE, 2: ("ok", "", 2), 3: ("failed", "worker_lost", 2)}
    assert run.pending("generate") == []
    assert starts == [2, 2]


def test_who_dies_together_with_another_is_not_to_blame(run, attempt, results, starts):
    """A launcher, or a node, may end all ranks with one; a second attempt is the last one."""
    for index in (3, 6):
        (run.folder / f"die-{index}").write_text("1")
    attempt(run)
    assert [pair for pair in run.pending("generate") if pair[0] in (3, 6)] == [(3, 2), (6, 2)]
    (run.folder / "die-6").write_text("2")
    hold(run, *(index for index, _ in run.pending("generate")))
    work = run.pending("generate")
    first, second = (index for index, _ in work[:2])
    job = InThread(attempt, run)
    # both ranks are killed with second attempts in hand
    for pid in [holder(run, index, 2) for index in (first, second)]:
        os.kill(pid, signal.SIGKILL)
    release(run, *(index for index, _ in work))
    job.result()
    again = {index: ("ok", "", 2) for index, _ in work}
    assert results(run) == {**MADE, **again, 6: ("failed", "worker_lost", 2)}
    assert 1 in starts


def test_a_rank_that_is_told_to_end_leaves_its_work_to_others(run, attempt, results, starts):
    """SIGTERM is what launchers send the other ranks when one has died."""
    hold(run, 0)
    job = InThread(attempt, run)
    os.kill(holder(run, 0), signal.SIGTERM)
    release(run, 0)
    job.result()
    assert results(run) == MADE
    assert starts == [2, 1]


def test_a_candidate_that_takes_too_long_costs_its_rank_no_more(run, attempt, results, starts):
    hold(run, 0)
    attempt(run, timeout_s=3.0)
    late = ("failed", "timeout", 1)
    assert results(run) == {**MADE, 0: late, 1: late}
    (row,) = run.stage("generate").rows([1])
    assert row["detail"].endswith("was ended: no result within 3 s; it had 2 candidates in hand")
    attempt(run, timeout_s=3.0)
    # alone, and in twice the time, it is still too long
    assert results(run) == {**MADE, 0: ("failed", "timeout", 2), 1: ("ok", "", 2)}
    (row,) = run.stage("generate").rows([0])
    assert row["detail"].endswith("was ended: no result within 6 s")
    assert starts == [2, 2]


def test_ranks_end_when_the_run_is_stopped(run, attempt, results):
    hold(run, 0, 4)
    told = []
    stop = threading.Event()
    job = InThread(attempt, run, on_row=told.append, stopping=stop.is_set)
    pids = [holder(run, 0), holder(run, 4)]
    stop.set()
    counts = job.result()
    assert all(map(gone, pids))
    # what was in the air is not recorded, what was finished is
    assert results(run) == {2: OK, 3: OK}
    assert counts == Counter(told) == {"ok": 2}
    assert not list(run.stage("generate").folder.glob("journal-*"))


def test_ranks_end_with_the_process_that_started_them(open_run, results):
    """Killed, it cannot end them; the next run finds what they had finished."""
    program = """if True:
        import sys
        sys.path[:] = sys.argv[2:]
        from pathlib import Path
        from packflow_core.mpi.launch import run_ranks
        from packflow_core.stages.run_store import RunStore
        run = RunStore(Path(sys.argv[1]))
        work = run.pending("generate")
        run_ranks(run, "generate", work, 2, print, block=2, function="rank_functions:make")
    """
    with open_run() as run:
        hold(run, 0, 4)
    parent = subprocess.Popen([sys.executable, "-c", program, str(run.folder), *sys.path])
    try:
        pids = [holder(run, 0), holder(run, 4)]
        assert not any(map(gone, pids))
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: all(map(gone, pids)), "the end of the ranks")
    with open_run() as run:
        assert results(run) == {2: OK, 3: OK}
        release(run, 0, 4)
        run_ranks(run, "generate", run.pending("generate"), 2, print, block=2,
                  function="rank_functions:make")  # fmt: skip
        assert results(run) == MADE
        assert not (run.stage("generate").folder / "ranks").exists()


def test_ranks_without_their_folder_end(run, attempt):
    """Where the parent's death cannot end them (another host), the loss of their folder does."""
    hold(run, 0, 2)
    job = InThread(attempt, run)
    pids = [holder(run, 0), holder(run, 2)]
    (folder,) = run.stage("generate").folder.glob("ranks/*")
    folder.rename(run.folder / "away")
    wait_for(lambda: all(map(gone, pids)), "the end of the ranks")
    with pytest.raises(RunFailedError):
        job.result()


def test_what_ranks_print_goes_to_the_log(run, attempt):
    attempt(run)
    log = (run.folder / LOG).read_text()
    assert sorted(line for line in log.splitlines() if line.startswith("made")) == sorted(
        f"made [{i}, {i + 1}]" for i in range(0, 12, 2)
    )


def test_an_error_of_the_user_ends_the_job(run, attempt, results):
    with pytest.raises(UserInputError, match=r"^This molecule cannot be; give another\.$"):
        attempt(run, "refuse")
    assert results(run) == {}


@pytest.mark.parametrize(
    ("function", "how"),
    [
        ("die", "was killed by SIGKILL"),
        ("end_early", "ended with exit code 3"),
        ("break_down", "ended with ValueError: a bug"),
    ],
)
def test_ranks_that_only_die_are_given_up(run, attempt, results, starts, function, how):
    """Three starts of one rank lose a block each."""
    with pytest.raises(RunFailedError, match="recorded nothing"):
        attempt(run, function, ranks=1)
    assert starts == [1, 1, 1]
    assert results(run) == dict.fromkeys(range(6), LOST)
    assert all(how in row["detail"] for row in run.stage("generate").rows())


def test_too_much_for_memory_is_attempted_alone(run, attempt, results, starts):
    attempt(run, "eat")
    assert results(run) == dict.fromkeys(range(12), ("failed", "out_of_memory", 1))
    attempt(run, "eat")
    assert results(run) == {i: (status, reason, 2) for i, (status, reason, _) in MADE.items()}
    assert starts == [2, 2]


def test_a_generator_that_forgets_a_candidate_is_a_bug(run, attempt):
    with pytest.raises(RunFailedError, match="without a row for"):
        attempt(run, "forget")


def test_a_launcher_of_another_mpi_is_recognised(run, attempt, monkeypatch, tmp_path):
    """Its ranks find nobody who tells them their number: each is alone."""
    alone = launcher(
        tmp_path,
        "n = int(sys.argv[sys.argv.index('-n') + 1])\n"
        "program = sys.argv[sys.argv.index('-n') + 2:]\n"
        "for one in [subprocess.Popen(program) for _ in range(n)]: one.wait()",
    )
    monkeypatch.setenv("PACKFLOW_MPIEXEC", alone)
    with pytest.raises(UserInputError, match="does not belong to the MPI of mpi4py"):
        attempt(run)
    with pytest.raises(UserInputError, match="does not belong to the MPI of mpi4py"):
        find_mpi()


def test_a_launcher_that_fails_is_quoted(run, attempt, results, monkeypatch, tmp_path):
    failing = launcher(tmp_path, "sys.exit('not enough slots available')")
    monkeypatch.setenv("PACKFLOW_MPIEXEC", failing)
    sentence = rf"'{failing}' ended with exit code 1: not enough slots available"
    with pytest.raises(RunFailedError, match=sentence):
        attempt(run)
    with pytest.raises(UserInputError, match=r"started 0 of 2 ranks.*not enough slots available"):
        find_mpi()
    assert results(run) == {}


def test_the_mpi_of_this_machine_is_tried():
    assert "started by" in find_mpi()


def test_the_stand_in_is_the_same_function_everywhere(run):
    """The other tests compare with what this process would have made."""
    rows = rank_functions.make(run, [(4, 1), (5, 1)])
    assert [(row["status"], row["attempt"]) for row in rows] == [("rejected", 1), ("ok", 1)]
