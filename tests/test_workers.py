import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from packflow_core.errors import RunFailedError
from packflow_core.workers import Seat, WorkerPool


# -- functions that run in workers -------------------------------------------------------------
def double(x):
    return 2 * x


def slow_double(x, seconds):
    time.sleep(seconds)
    return 2 * x


def environment(spoil=0):
    import torch

    before = torch.get_num_threads()
    if spoil:
        torch.set_num_threads(spoil)
    return {
        "threads": [os.environ[f"{n}_NUM_THREADS"] for n in ("OMP", "OPENBLAS", "MKL")],
        "torch": before,
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "main": sys.modules["__main__"].__file__,
    }


def misbehave(how, seconds=0.0):
    time.sleep(seconds)
    if how == "abort":
        os.abort()
    if how == "segv":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "hang":
        while True:
            time.sleep(1)
    if how == "raise":
        raise ValueError("no\nsuch thing")
    if how == "sys.exit":
        sys.exit("enough")
    if how == "unpicklable":
        return lambda: None
    if how == "chatter":
        sys.stdout.write("to stdout\n")
        sys.stderr.write("to stderr\n")
        os.write(1, b"raw to stdout\n")
    return how


def report_pid_and_hang(folder):
    Path(folder, str(os.getpid())).touch()
    ctypes.CDLL(None).sleep(120)  # native code: no Python instruction runs meanwhile


def leave_a_child(how, folder):
    if os.fork() == 0:
        while not Path(folder, "end").exists():
            time.sleep(0.05)
        os._exit(0)
    misbehave(how)


class Unreadable:
    def __reduce__(self):
        return (int, ("not a number",))


def unreadable():
    return Unreadable()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def gone(pid, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not alive(pid):
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as shared:
        yield shared


def collect(iterator):
    return {outcome.key: outcome for outcome in iterator}


# -- results -----------------------------------------------------------------------------------
def test_every_item_has_one_outcome(pool):
    outcomes = list(pool.map(double, ((k, (k,)) for k in range(50)), 60.0))
    assert sorted(o.key for o in outcomes) == list(range(50))
    assert all(o.value == 2 * o.key and o.error is None and o.detail == "" for o in outcomes)
    assert len(pool.pids) == 2


def test_outcomes_come_in_order_of_completion_and_times_are_measured(pool):
    list(pool.map(double, [(0, (0,)), (1, (1,))], 60.0))  # both workers are up
    outcomes = list(pool.map(slow_double, [("slow", (1, 1.0)), ("quick", (2, 0.1))], 60.0))
    assert [o.key for o in outcomes] == ["quick", "slow"]
    assert 0.1 <= outcomes[0].wall_s < outcomes[1].wall_s
    assert outcomes[1].wall_s >= 1.0


def test_no_items(pool):
    assert list(pool.map(double, [], 60.0)) == []


def test_items_are_drawn_as_workers_become_free(pool):
    drawn = []

    def items():
        for k in range(100):
            drawn.append(k)
            yield k, (k,)

    iterator = pool.map(double, items(), 60.0)
    next(iterator)
    assert len(drawn) < 10
    iterator.close()


def test_workers_are_single_threaded_and_never_import_the_parents_main(pool, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with WorkerPool(1) as fresh:
        seen = next(fresh.map(environment, [(0, ())], 60.0)).value
    assert seen["threads"] == ["1", "1", "1"]
    assert seen["torch"] == 1
    assert seen["pid"] != os.getpid()
    assert seen["cwd"] == os.getcwd()
    assert seen["main"].endswith("worker_main.py")
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_threads_are_those_of_the_seat_whatever_an_item_did():
    with WorkerPool([Seat("cpu", 2)]) as fresh:
        seen = [o.value for o in fresh.map(environment, [(k, (3,)) for k in range(2)], 60.0)]
    assert [s["threads"] for s in seen] == [["2", "2", "2"]] * 2
    assert [s["torch"] for s in seen] == [2, 2]
    assert seen[0]["pid"] == seen[1]["pid"]


# -- faults ------------------------------------------------------------------------------------
def test_a_dying_worker_costs_its_item_only(pool):
    items = [(k, ("fine",)) for k in range(8)]
    items[1:1] = [("abort", ("abort",)), ("segv", ("segv",)), ("exit", ("exit",))]
    outcomes = collect(pool.map(misbehave, items, 60.0))
    assert [outcomes[k].value for k in range(8)] == ["fine"] * 8
    assert {outcomes[k].error for k in ("abort", "segv", "exit")} == {"worker_lost"}
    assert outcomes["abort"].detail == "worker died with SIGABRT"
    assert outcomes["segv"].detail == "worker died with SIGSEGV"
    assert outcomes["exit"].detail == "worker ended with exit code 3"


def test_a_worker_killed_from_outside(pool):
    def killer():
        time.sleep(0.3)
        os.kill(pool.pids[0], signal.SIGKILL)

    threading.Thread(target=killer).start()
    outcomes = list(pool.map(slow_double, [(k, (k, 0.9)) for k in range(3)], 60.0))
    assert sorted(o.error or "" for o in outcomes) == ["", "", "worker_lost"]
    lost = next(o for o in outcomes if o.error)
    assert lost.detail == "worker died with SIGKILL"


def test_an_idle_worker_killed_from_outside_costs_nothing(pool):
    list(pool.map(double, [(0, (0,)), (1, (1,))], 60.0))
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    outcomes = list(pool.map(double, [(k, (k,)) for k in range(4)], 60.0))
    assert sorted(o.value for o in outcomes) == [0, 2, 4, 6]


def test_a_hanging_item_is_killed_and_the_others_go_on(pool, tmp_path):
    items = [("hang", ("hang",))] + [(k, ("fine",)) for k in range(4)]
    outcomes = collect(pool.map(misbehave, items, 0.6))
    assert outcomes["hang"].error == "timeout"
    assert outcomes["hang"].wall_s >= 0.6
    assert all(outcomes[k].value == "fine" for k in range(4))

    native = next(pool.map(report_pid_and_hang, [(0, (str(tmp_path),))], 0.6))
    assert native.error == "timeout"
    (pid,) = [int(p.name) for p in tmp_path.iterdir()]
    assert gone(pid)


def test_a_death_is_found_though_a_child_holds_the_line(pool, tmp_path):
    outcomes = collect(
        pool.map(leave_a_child, [(how, (how, str(tmp_path))) for how in ("hang", "exit")], 0.6)
    )
    assert outcomes["hang"].error == "timeout"
    assert outcomes["exit"].error == "worker_lost"
    assert outcomes["exit"].detail == "worker ended with exit code 3"
    (tmp_path / "end").touch()


def test_the_limit_counts_from_the_start_of_the_item(tmp_path, monkeypatch):
    (tmp_path / "late_riser.py").write_text(
        f"import os, time\nif os.getpid() != {os.getpid()}:\n    time.sleep(1.2)\n"
        "def function():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import late_riser

    with WorkerPool(1) as fresh:
        outcome = next(fresh.map(late_riser.function, [(0, ())], 0.6))
    assert (outcome.error, outcome.value) == (None, 1)


def test_exceptions_are_told_in_one_line(pool):
    outcomes = collect(
        pool.map(misbehave, [(h, (h,)) for h in ("raise", "sys.exit", "unpicklable")], 60.0)
    )
    assert {o.error for o in outcomes.values()} == {"exception"}
    assert outcomes["raise"].detail.startswith("ValueError: no such thing (test_workers.py:")
    assert outcomes["sys.exit"].detail.startswith("SystemExit: enough")
    assert "pickle" in outcomes["unpicklable"].detail.lower()


def test_a_result_that_cannot_be_read_is_an_exception(pool):
    outcome = next(pool.map(unreadable, [(0, ())], 60.0))
    assert outcome.error == "exception"
    assert "cannot be read" in outcome.detail


def test_a_closed_iterator_kills_what_is_in_the_air(pool, tmp_path):
    list(pool.map(double, [(0, (0,)), (1, (1,))], 60.0))  # both workers are up
    items = [("hang", ("hang",)), ("pid", ("fine", 0.5))]
    iterator = pool.map(misbehave, items, timeout_s=1e9)
    assert next(iterator).key == "pid"
    before = pool.pids
    iterator.close()
    assert len(before) == 2
    assert len(pool.pids) == 1
    assert sum(gone(p, 0.4) for p in before) == 1
    assert sorted(o.value for o in pool.map(double, [(k, (k,)) for k in range(4)], 60)) == [
        0, 2, 4, 6,
    ]  # fmt: skip


def test_an_exception_in_the_consumer_frees_the_workers(tmp_path):
    with WorkerPool(2) as fresh:

        def consume():
            for _ in fresh.map(misbehave, [(0, ("fine",)), (1, ("hang",))], 1e9):
                raise KeyError

        with pytest.raises(KeyError):
            consume()
        assert next(fresh.map(double, [(0, (4,))], 60.0)).value == 8


# -- sharing -----------------------------------------------------------------------------------
def test_threads_share_the_workers(pool):
    results = {}

    def use(name):
        results[name] = [o.value for o in pool.map(double, [(k, (k,)) for k in range(20)], 60.0)]

    threads = [threading.Thread(target=use, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {n: sorted(v) for n, v in results.items()} == {
        n: [2 * k for k in range(20)] for n in range(5)
    }
    assert len(pool.pids) <= 2


def test_a_short_map_does_not_wait_for_a_long_one():
    with WorkerPool(1) as fresh:
        order = []

        def long():
            for outcome in fresh.map(slow_double, [(k, (k, 0.1)) for k in range(10)], 60.0):
                order.append(("long", outcome.key))

        thread = threading.Thread(target=long)
        thread.start()
        while not order:
            time.sleep(0.01)
        order += [("short", o.key) for o in fresh.map(double, [(0, (0,))], 60.0)]
        thread.join()
    assert order.index(("short", 0)) < 8


# -- start-up ----------------------------------------------------------------------------------
def test_a_function_that_cannot_be_imported_fails_the_run(tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text(
        "import os\n"
        f"if os.getpid() != {os.getpid()}:\n    raise ImportError('gone missing')\n"
        "def function():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import here_only

    with WorkerPool(1) as fresh, pytest.raises(RunFailedError, match="gone missing"):
        list(fresh.map(here_only.function, [(k, ()) for k in range(5)], 60.0))


def test_workers_that_die_at_once_fail_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with WorkerPool(2) as fresh, pytest.raises(RunFailedError, match="exit code 1"):
        list(fresh.map(double, [(k, (k,)) for k in range(5)], 60.0))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with WorkerPool(2) as fresh, pytest.raises(RunFailedError, match="cannot be started"):
        list(fresh.map(double, [(0, (0,))], 60.0))


def test_functions_of_main_are_refused(pool, monkeypatch):
    with pytest.raises(ValueError, match="importable"):
        pool.map(lambda: 1, [], 60.0)
    monkeypatch.setattr(double, "__module__", "__main__")
    with pytest.raises(ValueError, match="importable"):
        pool.map(double, [], 60.0)


# -- the end -----------------------------------------------------------------------------------
def test_a_closed_pool_refuses_work_and_leaves_no_process():
    fresh = WorkerPool(2)
    list(fresh.map(double, [(k, (k,)) for k in range(4)], 60.0))
    pids = fresh.pids
    fresh.close()
    assert len(pids) == 2
    assert all(gone(p) for p in pids)
    with pytest.raises(RunFailedError, match="closed"):
        list(fresh.map(double, [(0, (0,))], 60.0))


def test_closing_ends_a_map_of_another_thread(tmp_path):
    fresh = WorkerPool(1)
    caught = []

    def use():
        try:
            list(fresh.map(report_pid_and_hang, [(0, (str(tmp_path),))], 1e9))
        except RunFailedError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    fresh.close()
    thread.join(10)
    assert len(caught) == 1
    assert gone(int(next(tmp_path.iterdir()).name))


def test_output_goes_to_the_log_and_not_to_the_terminal(tmp_path, capfd):
    with WorkerPool(1, log=tmp_path / "log") as fresh:
        list(fresh.map(misbehave, [(0, ("chatter",)), (1, ("raise",)), (2, ("abort",))], 60.0))
    log = (tmp_path / "log").read_text()
    assert "raw to stdout" in log
    assert "to stderr" in log
    assert "ValueError: no" in log
    assert "Fatal Python error: Aborted" in log
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from packflow_core.workers import Seat, WorkerPool
from test_workers import report_pid_and_hang

if __name__ == "__main__":
    try:
        with WorkerPool(2) as pool:
            list(pool.map(report_pid_and_hang, [(k, ({folder!r},)) for k in range(2)], 1e9))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    folder = tmp_path / "pids"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), folder=str(folder))
    )
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[1],
                              env={**os.environ, "PYTHONPATH": os.getcwd()})  # fmt: skip
    try:
        end = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
            assert parent.poll() is None
            time.sleep(0.05)
        pids = [int(p.name) for p in folder.iterdir()]
        assert len(pids) == 2
        assert all(alive(p) for p in pids)
        parent.send_signal(how)
        assert parent.wait(timeout=120) == (130 if how == signal.SIGINT else -how)
        assert all(gone(p) for p in pids)
    finally:
        parent.kill()
