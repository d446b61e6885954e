import logging
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from group_functions import (
    attempts,
    await_file,
    counted,
    die,
    dies_once,
    double,
    flood,
    identify,
    in_step,
    meet,
    naps,
    no_gpu,
    plain_list,
    pulsing,
    relaxation,
    scripted,
    unreadable_early,
    unreadable_late,
    values_then,
)

from packflow_core import worker_main
from packflow_core.errors import RunFailedError
from packflow_core.worker_groups import GroupMap
from packflow_core.workers import Seat, WorkerPool


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as shared:
        yield shared


def collect(iterator):
    """Outcomes by key, each exactly once."""
    outcomes = list(iterator)
    by_key = {outcome.key: outcome for outcome in outcomes}
    assert len(by_key) == len(outcomes)
    return by_key


def gone(pid):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


# -- results -----------------------------------------------------------------------------------
def test_every_member_has_one_outcome(pool, tmp_path):
    sizes = [1, 7, 0, 3, 12, 1]
    groups = [
        ([(f"{g}.{m}", "fine") for m in range(size)], (str(tmp_path),))
        for g, size in enumerate(sizes)
    ]
    outcomes = collect(pool.map_groups(scripted, groups, 60.0))
    assert set(outcomes) == {f"{g}.{m}" for g, size in enumerate(sizes) for m in range(size)}
    for key, outcome in outcomes.items():
        assert (outcome.value, outcome.error, outcome.detail) == (f"{key} fine", None, "")
        assert outcome.device == "cpu"
        assert outcome.wall_s >= 0.0
    # an empty group never reaches a worker
    assert sum(line.startswith("group") for line in attempts(tmp_path)) == 5
    assert list(pool.map_groups(scripted, [], 60.0)) == []


def test_any_hashable_is_a_key_and_any_iterable_a_generator(pool):
    members = [((1, "a"), 0), (None, 1), (frozenset({2}), 2), (b"x", 3)]
    outcomes = collect(pool.map_groups(plain_list, [(members, ())], 60.0))
    assert {key: outcome.value for key, outcome in outcomes.items()} == dict(members)


def test_values_come_while_the_group_runs(pool, tmp_path):
    keys = ["a", "b", "c"]
    seen = []
    # the generator waits until its value is here: without streaming there is no first one
    for outcome in pool.map_groups(
        in_step, [([(key, None) for key in keys], (str(tmp_path),))], 20.0
    ):
        seen.append((outcome.key, outcome.error))
        (tmp_path / outcome.key).touch()
    assert seen == [(key, None) for key in keys]


def test_groups_are_drawn_as_workers_become_free(pool, tmp_path):
    drawn = []

    def groups():
        for k in range(100):
            drawn.append(k)
            yield [(k, "fine")], (str(tmp_path),)

    iterator = pool.map_groups(scripted, groups(), 60.0)
    next(iterator)
    assert len(drawn) < 10
    iterator.close()


def test_a_slow_consumer_holds_the_worker_up(pool, tmp_path):
    members = [(k, 1 << 20) for k in range(100)]
    iterator = pool.map_groups(counted, [(members, (str(tmp_path),))], 60.0)
    first = next(iterator)
    time.sleep(0.7)  # 100 MB would be here
    assert len(attempts(tmp_path)) < 20
    rest = list(iterator)
    assert len(first.value) == 1 << 20
    assert [o.key for o in (first, *rest)] == list(range(100))
    assert all(o.error is None for o in rest)


def test_times_count_from_the_start_of_the_group(pool):
    outcomes = collect(pool.map_groups(pulsing, [([("a", 0.2), ("b", 0.2)], (0.05,))], 60.0))
    assert outcomes["a"].wall_s >= 0.2
    assert outcomes["b"].wall_s >= outcomes["a"].wall_s + 0.2


# -- the guilty one ----------------------------------------------------------------------------
GUILTY = {
    "kill": ("worker_lost", "worker died with SIGKILL"),
    "exit": ("worker_lost", "worker ended with exit code 0"),
    "hang": ("timeout", "no sign of life for 0.5 s"),
    "stop": ("timeout", "no sign of life for 0.5 s"),
    "raise": ("exception", "ValueError: no 12 (group_functions.py:"),
    "return": ("exception", "RuntimeError: the generator ended after 0 of 1 members"),
    "unpicklable": ("exception", ""),
    "unreadable": ("exception", "result cannot be read: ValueError: invalid literal"),
    "foreign": ("exception", "RuntimeError: the key 'stranger' is not in the group"),
    "shapeless": ("exception", "TypeError: cannot unpack"),
}


@pytest.mark.parametrize("how", GUILTY)
def test_the_guilty_one_among_sixteen_is_found(pool, tmp_path, caplog, how):
    error, detail = GUILTY[how]
    members = [(k, how if k == 12 else "fine") for k in range(16)]
    limit = 0.5 if error == "timeout" else 60.0
    outcomes = collect(pool.map_groups(scripted, [(members, (str(tmp_path),))], limit))
    assert set(outcomes) == set(range(16))
    guilty = outcomes.pop(12)
    assert (guilty.error, guilty.value) == (error, None)
    assert guilty.detail.startswith(detail)
    assert detail or "pickle" in guilty.detail.lower()
    assert {(o.error, o.value) for o in outcomes.values()} == {
        (None, f"{k} fine") for k in range(16) if k != 12
    }
    if how == "unreadable":  # the parent finds out: how far the worker is by then is chance
        return
    done = attempts(tmp_path)
    whole = "group " + " ".join(str(k) for k in range(16))
    assert sorted(line for line in done if line.startswith("group")) == sorted(
        [whole, "group 12 13", "group 14 15", "group 12", "group 13"]
    )
    # what was yielded before is not attempted again; what came after was never begun before
    assert Counter(line for line in done if not line.startswith("group")) == {
        **{str(k): 1 for k in range(16)}, "12": 3
    }  # fmt: skip
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "group of 16" in warned[0]
    assert "12 finished, to attempt again: 2 + 2" in warned[0]
    assert "0 finished, to attempt again: 1 + 1" in warned[1]
    assert warned[2].startswith("item 12: ")
    assert len(warned) == 3


@pytest.mark.parametrize(("how", "value"), [("again", "first"), ("skip", None)])
def test_a_key_twice_or_never(pool, tmp_path, how, value):
    members = [(k, how if k == 2 else "fine") for k in range(5)]
    outcomes = collect(pool.map_groups(scripted, [(members, (str(tmp_path),))], 60.0))
    assert {k: outcomes[k].value for k in range(5) if k != 2} == {
        k: f"{k} fine" for k in range(5) if k != 2
    }
    # the first value stands, the second is the generator's fault; none is the member's
    assert outcomes[2].value == value
    assert outcomes[2].error == (None if value else "exception")
    done = Counter(attempts(tmp_path))
    if how == "skip":  # the others had their values: only the one without is attempted again
        assert done == {"group 0 1 2 3 4": 1, "group 2": 1, **{str(k): 1 for k in range(5)}, "2": 2}
    else:
        assert done == {
            "group 0 1 2 3 4": 1, "group 3": 1, "group 4": 1, **{str(k): 1 for k in range(5)}
        }  # fmt: skip


@pytest.mark.parametrize("places", [(0, 1), (3, 11), (14, 15)])
def test_two_guilty_ones(pool, tmp_path, places):
    ways = dict(zip(places, ("kill", "raise"), strict=True))
    members = [(k, ways.get(k, "fine")) for k in range(16)]
    outcomes = collect(pool.map_groups(scripted, [(members, (str(tmp_path),))], 60.0))
    assert {k: o.error for k, o in outcomes.items()} == {
        **dict.fromkeys(range(16)), places[0]: "worker_lost", places[1]: "exception",
    }  # fmt: skip
    fine = {k: o.value for k, o in outcomes.items() if k not in places}
    assert fine == {k: f"{k} fine" for k in range(16) if k not in places}


def test_all_guilty(pool, tmp_path):
    members = [(k, "exit") for k in range(3)]
    outcomes = collect(pool.map_groups(scripted, [(members, (str(tmp_path),))], 60.0))
    assert [outcomes[k].error for k in range(3)] == ["worker_lost"] * 3
    # 0 1 2, then 0 1 and 2, then 0 and 1
    assert sum(line.startswith("group") for line in attempts(tmp_path)) == 5


def test_the_last_one_left_is_not_blamed_for_what_it_had_company_in(pool, tmp_path):
    flag = tmp_path / "once"
    outcomes = collect(pool.map_groups(dies_once, [([(k, 0) for k in "abc"], (str(flag),))], 60.0))
    assert {k: (o.error, o.value) for k, o in outcomes.items()} == {
        "a": (None, 0), "b": (None, 0), "c": (None, 0),
    }  # fmt: skip


def test_other_groups_go_on(pool, tmp_path):
    groups = [
        ([(f"{g}.{m}", "kill" if (g, m) == (1, 1) else "fine") for m in range(3)], (str(tmp_path),))
        for g in range(6)
    ]
    outcomes = collect(pool.map_groups(scripted, groups, 60.0))
    assert {k for k, o in outcomes.items() if o.error} == {"1.1"}
    assert len(outcomes) == 18
    done = Counter(attempts(tmp_path))
    assert all(done[f"{g}.{m}"] == 1 for g in (0, 2, 3, 4, 5) for m in range(3))


# -- nothing that was yielded is lost ----------------------------------------------------------
@pytest.mark.parametrize("end", ["kill", "raise", "hang"])
def test_a_fault_after_the_last_value_harms_nobody(pool, end):
    sizes = [1, 100, 50_000] * 20
    limit = 0.5 if end == "hang" else 60.0
    outcomes = collect(pool.map_groups(values_then, [(list(enumerate(sizes)), (end,))], limit))
    assert {k: len(o.value) for k, o in outcomes.items()} == dict(enumerate(sizes))
    assert next(iter(pool.map_groups(values_then, [([(0, 1)], ("",))], 60.0))).value == b"x"


def test_what_was_sent_before_the_worker_is_killed_counts(tmp_path):
    members = [("a", ""), ("b", "unreadable"), ("c", ""), ("d", "")]
    with WorkerPool(1) as fresh:
        iterator = fresh.map_groups(unreadable_early, [(members, (str(tmp_path),))], 0.6)
        first = next(iterator)
        await_file(tmp_path / "sent")  # b, c and d are on the way, and b is the worker's end
        outcomes = collect([first, *iterator])
    assert attempts(tmp_path) == ["a b c d", "b"]
    assert {k: o.error for k, o in outcomes.items()} == {
        "a": None, "b": "exception", "c": None, "d": None,
    }  # fmt: skip


def test_a_value_that_cannot_be_read_is_told_though_the_group_ended_well(pool, tmp_path):
    groups = [([(key, None)], (str(tmp_path),)) for key in "ab"]
    iterator = pool.map_groups(unreadable_late, groups, 60.0)
    assert next(iterator).key == "a"
    (tmp_path / "go").touch()
    await_file(tmp_path / "sent")
    time.sleep(0.3)  # the end of the group is on the way, too
    (outcome,) = iterator
    assert (outcome.key, outcome.error) == ("b", "exception")
    assert outcome.detail.startswith("result cannot be read: ValueError")


def test_values_on_the_way_are_delivered_before_an_error_of_the_map(tmp_path):
    def groups():
        yield [("a", "fine")], (str(tmp_path),)
        raise KeyError("no more")

    seen = []
    with WorkerPool(1) as fresh:
        iterator = fresh.map_groups(scripted, groups(), 60.0)
        with pytest.raises(KeyError, match="no more"):
            seen.extend(o.value for o in iterator)
        with pytest.raises(StopIteration):
            next(iterator)
        items = ((k, ([1][k],)) for k in range(2))
        with pytest.raises(IndexError):
            seen.extend(o.value for o in fresh.map(double, items, 60.0))
        assert seen == ["a fine", 2]


# -- signs of life -----------------------------------------------------------------------------
def test_pulses_keep_a_slow_member_alive(pool):
    members = [("a", 1.4)]
    (outcome,) = pool.map_groups(pulsing, [(members, (0.05,))], 1.0)
    assert outcome.error is None
    (outcome,) = pool.map_groups(pulsing, [(members, (1.4,))], 0.6)
    assert outcome.error == "timeout"
    assert outcome.wall_s >= 0.6


def test_values_are_signs_of_life_too(pool, tmp_path):
    members = [(k, 0.25) for k in range(4)]
    outcomes = collect(pool.map_groups(naps, [(members, ())], 0.8))
    assert [outcomes[k].error for k in range(4)] == [None] * 4


def test_pulses_are_cheap(pool, monkeypatch):
    heard = []
    answer = GroupMap.answer

    def listen(self, worker, kind, content):
        heard.append(kind)
        return answer(self, worker, kind, content)

    monkeypatch.setattr(GroupMap, "answer", listen)
    (outcome,) = pool.map_groups(flood, [([("a", None)], (200_000,))], 60.0)
    # one in half a second at most, however many are offered
    assert heard.count(worker_main.PULSE) <= 2 * outcome.wall_s
    assert outcome.error is None


def test_a_worker_is_not_killed_because_nobody_listened(pool):
    members = [("a", 0.0), ("b", 1.2)]
    iterator = pool.map_groups(pulsing, [(members, (0.02,))], 0.8)
    first = next(iterator)
    time.sleep(1.0)  # longer than the limit; the worker pulses meanwhile
    assert [first.error, *(o.error for o in iterator)] == [None, None]


# -- renewal -----------------------------------------------------------------------------------
def test_members_continue_from_their_newest_checkpoint(pool, tmp_path):
    asked = []

    def renew(key, payload):
        asked.append((key, payload, os.getpid()))
        return int((tmp_path / key).read_text())

    members = [("x", 0), ("bad", 0), ("y", 0), ("z", 8)]
    outcomes = collect(
        pool.map_groups(relaxation, [(members, (str(tmp_path),))], 60.0, renew=renew)
    )
    assert {k: o.error for k, o in outcomes.items()} == {
        "x": None, "bad": "worker_lost", "y": None, "z": None,
    }  # fmt: skip
    done = attempts(tmp_path)
    # z was ready after two steps; x had four when bad stood before its own fourth, y had three
    assert next(line for line in done if line.startswith("group")) == "group x=0 bad=0 y=0 z=8"
    groups = {line for line in done if line.startswith("group")}
    assert groups >= {"group x=4 bad=3", "group y=3", "group bad=3"}
    assert {(k, p) for k, p, _ in asked} >= {("x", 0), ("bad", 0), ("y", 0), ("bad", 3)}
    assert {pid for *_, pid in asked} == {os.getpid()}
    assert "z" not in {k for k, *_ in asked}
    # no step of an innocent member was done twice
    steps = Counter(line for line in done if not line.startswith("group"))
    assert {key: sum(steps[f"{key} {s}"] for s in range(11)) for key in "xyz"} == {
        "x": 10, "y": 10, "z": 2,
    }  # fmt: skip


def test_an_error_of_renew_ends_the_map(tmp_path):
    def renew(key, payload):
        raise OSError("checkpoint unreadable")

    members = [("a", "fine"), ("b", "raise"), ("c", "fine")]
    seen = []
    with WorkerPool(1) as fresh:
        iterator = fresh.map_groups(scripted, [(members, (str(tmp_path),))], 60.0, renew=renew)
        with pytest.raises(OSError, match="checkpoint unreadable"):
            seen.extend(o.key for o in iterator)
        assert next(fresh.map(double, [(0, (4,))], 60.0)).value == 8
    assert seen == ["a"]


# -- processes ---------------------------------------------------------------------------------
def test_a_worker_is_kept_after_success_and_thrown_away_after_an_exception(tmp_path):
    with WorkerPool(1) as fresh:
        (one,) = fresh.map_groups(identify, [([(0, None)], ())], 60.0)
        (two,) = fresh.map_groups(identify, [([(0, None)], ())], 60.0)
        assert one.value == two.value
        (bad,) = fresh.map_groups(scripted, [([(0, "raise")], (str(tmp_path),))], 60.0)
        assert bad.error == "exception"
        assert gone(one.value[2])
        (three,) = fresh.map_groups(identify, [([(0, None)], ())], 60.0)
        assert three.value[2] != one.value[2]
        # an exception after the last value: nobody's fault, but the process is suspect
        list(fresh.map_groups(values_then, [([(0, 1)], ("raise",))], 60.0))
        assert gone(three.value[2])


def test_maps_of_both_kinds_share_the_workers(pool, tmp_path):
    results = {}

    def items(name):
        results[name] = {
            o.key: o.value for o in pool.map(double, [(k, (k,)) for k in range(30)], 60.0)
        }

    def groups(name):
        folder = tmp_path / name
        folder.mkdir()
        work = [
            ([(f"{g}.{m}", "kill" if (g, m) == (2, 1) else "fine") for m in range(4)],
             (str(folder),))
            for g in range(4)
        ]  # fmt: skip
        results[name] = {o.key: o.value for o in pool.map_groups(scripted, work, 60.0)}

    threads = [
        threading.Thread(target=f, args=(f"{f.__name__}{k}",))
        for f in (items, groups)
        for k in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    keys = [f"{g}.{m}" for g in range(4) for m in range(4)]
    for k in "ab":
        assert results[f"items{k}"] == {k: 2 * k for k in range(30)}
        assert results[f"groups{k}"] == {
            key: None if key == "2.1" else f"{key} fine" for key in keys
        }
    assert len(pool.pids) <= 2


def test_a_map_gets_a_worker_between_two_groups():
    with WorkerPool(1) as fresh:
        order = []

        def long():
            groups = [([(g, 0.1)], (0.02,)) for g in range(10)]
            order.extend(("long", o.key) for o in fresh.map_groups(pulsing, groups, 60.0))

        thread = threading.Thread(target=long)
        thread.start()
        while not order:
            time.sleep(0.01)
        order += [("short", o.key) for o in fresh.map(double, [(0, (0,))], 60.0)]
        thread.join()
    assert order.index(("short", 0)) < 8


# -- seats -------------------------------------------------------------------------------------
@pytest.fixture
def four_gpus(monkeypatch):
    """What a machine with GPUs would show; nobody opens one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-abc,5,4")


def test_workers_sit_on_their_seats_and_outcomes_say_where(four_gpus, tmp_path):
    seats = [Seat("cuda:1", 2), Seat("cuda:0"), Seat()]
    expected = {"cuda:1": ("cuda", "GPU-abc"), "cuda:0": ("cuda", "7"), "cpu": ("cpu", "")}
    with WorkerPool(seats) as fresh:
        assert fresh.workers == 3
        assert fresh.seats == tuple(seats)
        groups = [([(k, None)], (str(tmp_path), 3)) for k in range(3)]
        outcomes = list(fresh.map_groups(identify, groups, 60.0))
        assert {o.device: o.value[:2] for o in outcomes} == expected
        # a single piece of work goes to the first seat
        assert next(fresh.map(double, [(0, (0,))], 60.0)).device == "cuda:1"


def test_a_replaced_worker_takes_the_seat_of_the_lost_one(four_gpus, tmp_path):
    seats = [Seat("cuda:0"), Seat("cuda:2"), Seat(), Seat()]
    with WorkerPool(seats) as fresh:
        for turn in range(2):
            folder = tmp_path / str(turn)
            folder.mkdir()
            # four at once: each seat has exactly one worker
            seen = list(fresh.map(meet, [(k, (str(folder), 4, k)) for k in range(4)], 60.0))
            assert sorted(o.device for o in seen) == ["cpu", "cpu", "cuda:0", "cuda:2"]
            visible = {"cuda:0": "7", "cuda:2": "5", "cpu": ""}
            assert all(o.value[0] == visible[o.device] for o in seen)
            if turn == 0:
                lost = list(fresh.map(die, [(k, ()) for k in range(3)], 60.0))
                assert {o.error for o in lost} == {"worker_lost"}
                assert {o.device for o in lost} <= {"cuda:0", "cuda:2", "cpu"}


def test_a_group_that_failed_on_one_device_may_end_on_another(four_gpus, tmp_path):
    with WorkerPool([Seat("cuda:0"), Seat()]) as fresh:
        members = [(k, None) for k in range(4)]
        outcomes = collect(fresh.map_groups(no_gpu, [(members, (str(tmp_path),))], 60.0))
        for outcome in outcomes.values():
            if outcome.error is None:
                assert outcome.value == outcome.device == "cpu"
            else:
                assert outcome.device == "cuda:0"
        assert len(outcomes) == 4


def test_pools_that_make_no_sense(monkeypatch):
    for seats in (0, -1, []):
        with pytest.raises(ValueError, match="at least one"):
            WorkerPool(seats)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match="cuda:1"):
        WorkerPool([Seat(), Seat("cuda:1")])


# -- the end -----------------------------------------------------------------------------------
def test_a_closed_iterator_kills_the_groups_in_the_air(tmp_path):
    with WorkerPool(2) as fresh:
        groups = [([(f"{g}", 1), (f"{g}!", 1)], ("hang",)) for g in range(5)]
        iterator = fresh.map_groups(values_then, groups, 1e9)
        next(iterator)
        before = fresh.pids
        assert before
        iterator.close()
        assert all(gone(pid) for pid in before)
        assert fresh.pids == []
        assert next(fresh.map(double, [(0, (4,))], 60.0)).value == 8


def test_closing_the_pool_ends_a_map_of_groups():
    fresh = WorkerPool(1)
    seen, caught = [], []

    def use():
        try:
            for outcome in fresh.map_groups(values_then, [([("a", 1)], ("hang",))], 1e9):
                seen.append(outcome)
        except RunFailedError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    while not seen:
        time.sleep(0.01)
    pids = fresh.pids
    fresh.close()
    thread.join(20)
    assert len(caught) == 1
    assert all(gone(pid) for pid in pids)
    with pytest.raises(RunFailedError, match="closed"):
        list(fresh.map_groups(values_then, [([("a", 1)], ("",))], 60.0))


# -- start-up ----------------------------------------------------------------------------------
def test_a_generator_that_cannot_be_imported_fails_the_run(tmp_path, monkeypatch):
    (tmp_path / "groups_here_only.py").write_text(
        "import os\n"
        f"if os.getpid() != {os.getpid()}:\n    raise ImportError('gone missing')\n"
        "def function(members):\n    yield from members\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import groups_here_only

    with WorkerPool(1) as fresh, pytest.raises(RunFailedError, match="gone missing"):
        list(fresh.map_groups(groups_here_only.function, [([(0, 0), (1, 1)], ())], 60.0))


def test_workers_that_die_at_once_fail_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with WorkerPool(2) as fresh, pytest.raises(RunFailedError, match="exit code 1"):
        list(fresh.map_groups(plain_list, [([(0, 0), (1, 1)], ())], 60.0))


def test_misuse_is_refused(pool):
    with pytest.raises(ValueError, match="importable"):
        pool.map_groups(lambda members: members, [], 60.0)
    with pytest.raises(ValueError, match="twice"):
        list(pool.map_groups(plain_list, [([(0, 0), (1, 1), (0, 2)], ())], 60.0))
    assert next(pool.map(double, [(0, (4,))], 60.0)).value == 8
