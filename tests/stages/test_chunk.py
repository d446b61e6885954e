"""Chunks, the ledger and the folder of a run, without processes: the pool is a stand-in."""

import json
import os

import pytest

from packflow_core import progress
from packflow_core.errors import RunFailedError, TooManyFailuresError, UserInputError
from packflow_core.spec import make_spec
from packflow_core.stages import chunk as module
from packflow_core.stages import generation
from packflow_core.stages.chunk import run_chunk
from packflow_core.stages.generators import block_size
from packflow_core.stages.pipeline import run_stages, verdict
from packflow_core.stages.pools import StoppedError
from packflow_core.stages.recording import device_name
from packflow_core.stages.registry import MAX_CHUNKS, chunks
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.store.rows import next_row, same_result
from packflow_core.store.schema import STAGES
from packflow_core.workers import Outcome

SPEC = {"smiles": "C=O", "name": "x", "z": [1, 2], "n": 40, "seed": 3}


class FakePool:
    """Does nothing to a candidate but let some of them fail, in a fixed way."""

    def __init__(self, faults=None, die_after=None):
        self.faults = faults or {}
        self.die_after = die_after
        self.done = []
        self.limits = []

    def map_groups(self, function, groups, timeout_s, renew=None):
        for members, arguments in groups:
            items = [
                (index, (payload[0] if isinstance(payload, tuple) else payload, *arguments))
                for index, payload in members
            ]
            yield from self.map(function, items, timeout_s)

    def map(self, function, items, timeout_s):
        self.limits.append(timeout_s)
        for key, arguments in items:
            if self.die_after is not None and len(self.done) == self.die_after:
                raise KeyboardInterrupt
            stage = function.__name__.removeprefix("run_")
            if stage == "relax" and arguments[3].protocol == "h_only":
                stage = "relax_h"
            self.done.append((stage, key))
            error = self.faults.get((stage, key))
            if function.__name__ == "run_rank":
                yield Outcome(key, self.rank(*arguments), None, "", 0.1)
            elif error is None:
                row = next_row(arguments[0], status="ok", energy_eV=-1.0 - 0.01 * key)
                yield Outcome(key, row, None, "", 0.1)
            elif isinstance(error, dict):
                yield Outcome(key, next_row(arguments[0], **error), None, "", 0.1)
            elif isinstance(error, str):
                yield Outcome(key, None, error, "in words", 0.1)
            else:
                yield Outcome(key, 42, None, "", 0.1)

    @staticmethod
    def rank(rows, params):
        return rows


@pytest.fixture
def pool(monkeypatch):
    def use(**kwargs):
        fake = FakePool(**kwargs)
        monkeypatch.setattr(module, "pool", lambda *args: fake)
        return fake

    return use


@pytest.fixture
def open_run(tmp_path, stub_generator):
    def open_it(**values):
        spec = make_spec({**SPEC, **values})
        return OpenRun(tmp_path / "run", plan_for(spec, tmp_path / "run"), command=["csp"])

    return open_it


def work_through(run, **kwargs):
    run_stages(run, workers=1, **kwargs)


def statuses(run, stage):
    return {i: (a.status, a.reason, a.attempt) for i, a in run.attempts(stage).items()}


def test_every_candidate_has_a_row_in_every_stage_it_reaches(open_run, pool):
    pool()
    with open_run() as run:
        work_through(run)
        ledger = {stage.stage: stage for stage in run.ledger()}
    assert (ledger["generate"].ok, ledger["generate"].rejected) == (32, 8)
    assert ledger["generate"].reasons == {"rejected: bad_cell": 8}
    for stage in STAGES[1:]:
        assert (ledger[stage].eligible, ledger[stage].ok, ledger[stage].pending) == (32, 32, 0)
    row = run.stage("relax").rows([5])[0]
    assert (row["candidate_id"], row["z"], row["campaign"]) == ("x-z2-000005", 2, "single")
    assert (row["target"], row["method"], row["seed"]) == ("x", "packflow-open", 3)
    assert row["stage_key"] == run.plan.key("relax")
    assert (row["attempt"], row["wall_s"]) == (1, 0.1)


def test_what_goes_wrong_around_a_stage_becomes_a_row_with_a_reason(open_run, pool):
    misfit = {"status": "ok", "colour": "red"}
    pool(
        faults={
            ("hydrogenate", 0): "timeout",
            ("hydrogenate", 1): "worker_lost",
            ("hydrogenate", 2): "exception",
            ("hydrogenate", 3): object(),
            ("hydrogenate", 5): misfit,
        }
    )
    with open_run() as run:
        work_through(run)
        found = statuses(run, "hydrogenate")
        details = {row["index"]: row["detail"] for row in run.stage("hydrogenate").rows()}
    # What may have been the neighbours' fault was attempted twice.
    assert found[0] == ("failed", "timeout", 2)
    assert found[1] == ("failed", "worker_lost", 2)
    assert [found[i] for i in (2, 3, 5)] == [("failed", "internal_error", 1)] * 3
    assert details[0] == "no result within 600 s"
    assert details[2] == "in words"
    assert "colour" in details[5]
    assert sum(status == "ok" for status, *_ in found.values()) == 27
    # The structure that failed can still be looked at.
    assert run.stage("hydrogenate").rows([0])[0]["positions"] is not None


def test_an_interrupted_run_continues_without_doing_anything_twice(open_run, pool, tmp_path):
    pool()
    with open_run() as run:
        work_through(run)
        unbroken = {stage: run.stage(stage).rows() for stage in STAGES}
    (tmp_path / "run").rename(tmp_path / "unbroken")

    done = []
    for die_after in (3, 40, 1, 33, 20, None):
        fake = pool(die_after=die_after)
        try:
            with open_run() as run:
                work_through(run)
        except KeyboardInterrupt:
            pass
        done += fake.done
    assert len(done) == len(set(done)) == 4 * 32
    for stage in STAGES:
        again = run.stage(stage).rows()
        assert len(again) == len(unbroken[stage])
        assert all(same_result(a, b) for a, b in zip(again, unbroken[stage], strict=True))


def test_generation_is_written_in_whole_blocks_and_never_repeated(
    open_run, pool, stub_generator, monkeypatch
):
    pool()
    with open_run(n=70, z=[1, 2]) as run:
        block = block_size(run.plan.spec)
        assert [len(c) for c in chunks("generate", run.pending("generate"), block)] == [70]
        monkeypatch.setattr(generation, "go_on", iter_then_stop(2))
        with pytest.raises(StoppedError):
            run_chunk(run.folder, "generate", run.pending("generate"), 1)
    assert stub_generator == [list(range(32)), list(range(32, 64))]
    monkeypatch.undo()


def iter_then_stop(times):
    left = iter(range(times))

    def go_on():
        if next(left, None) is None:
            raise StoppedError("stop")

    return go_on


def test_a_larger_n_only_adds_candidates(open_run, pool, stub_generator):
    pool()
    with open_run(n=10) as run:
        work_through(run)
        before = run.stage("generate").rows()
    stub_generator.clear()
    with open_run(n=25) as run:
        assert len(run.pending("generate")) == 15
        work_through(run)
        after = run.stage("generate").rows()
    assert stub_generator == [list(range(10, 25))]
    assert after[:10] == before
    assert len(run.stage("rank").rows()) == 20
    with pytest.raises(UserInputError, match="n is 25 there and 24 here"), open_run(n=24):
        pass


def test_only_failures_that_may_pass_are_tried_again_and_only_when_asked(open_run, pool):
    exploded = {"status": "failed", "reason": "exploded", "detail": "boom"}
    pool(faults={("relax", 0): "timeout", ("relax", 1): exploded})
    with open_run() as run:
        work_through(run)
    fake = pool(faults={("relax", 0): "timeout"})
    with open_run() as run:
        work_through(run)
        assert fake.done == []
        work_through(run, retry_failed=True)
        assert fake.done == [("relax", 0)]
        assert fake.limits == [4 * 3600.0]
        assert statuses(run, "relax")[0] == ("failed", "timeout", 3)
        assert statuses(run, "relax")[1] == ("failed", "exploded", 1)
    pool()
    with open_run() as run:
        work_through(run, retry_failed=True)
        assert statuses(run, "relax")[0] == ("ok", "", 4)
        assert statuses(run, "rank")[0] == ("ok", "", 1)
        assert len(run.stage("relax").rows()) == 32


def test_a_chunk_that_is_run_twice_does_its_work_once(open_run, pool):
    fake = pool()
    with open_run() as run:
        run_chunk(run.folder, "generate", run.pending("generate"), 1)
        work = run.pending("hydrogenate")
        assert run_chunk(run.folder, "hydrogenate", work, 1).counts == {"ok": 32}
        assert run_chunk(run.folder, "hydrogenate", work, 1).counts == {}
    assert len(fake.done) == 32


def test_a_generator_that_breaks_costs_its_block_and_says_so(open_run, pool, monkeypatch):
    from packflow_core.stages import generate

    working = generate.generate

    def broken(indices, **kwargs):
        if 33 in indices:
            raise ValueError("weights of wrong shape")
        return working(indices, **kwargs)[:-1]  # and one is left out

    monkeypatch.setattr(generate, "generate", broken)
    pool()
    with open_run() as run:
        work_through(run)
        rows = run.stage("generate").rows()
    assert len(rows) == 40
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["index"] for row in failed] == [31, *range(32, 40)]
    assert "left it out" in failed[0]["detail"]
    assert "wrong shape" in failed[1]["detail"]
    assert failed[1]["candidate_id"] == "x-z1-000032"


def test_the_verdict_names_what_went_wrong(open_run, pool):
    pool(faults={("relax", i): "timeout" for i in range(0, 40, 2)})
    with open_run() as run:
        work_through(run)
        assert verdict(run) is None  # 16 of 40
    with open_run(max_failed=0.1) as run:
        error = verdict(run)
    assert isinstance(error, TooManyFailuresError)
    assert "40% of the candidates failed, more than the 10% allowed" in str(error)


def test_a_run_without_survivors_failed_and_the_main_reason_is_named(open_run, pool):
    lost = {"status": "unconverged", "reason": "max_steps"}
    faults = {("relax", i): lost if i else "timeout" for i in range(40)}
    # Unconverged hydrogens are handed on, so that is not where the candidates were lost.
    pool(faults=faults | {("relax_h", i): lost for i in range(40)})
    with open_run() as run:
        work_through(run)
        error = verdict(run)
    assert isinstance(error, RunFailedError)
    assert "31 of 32 ended as 'unconverged: max_steps' in stage relax" in str(error)


def test_unconverged_candidates_are_ranked_when_the_spec_says_so(open_run, pool):
    pool(faults={("relax", i): {"status": "unconverged", "reason": "stress"} for i in range(40)})
    with open_run(rank={"include_unconverged": True}) as run:
        work_through(run)
        assert len(run.stage("rank").rows()) == 32


def test_chunks_are_few_whatever_the_size_of_the_run():
    for n in (1, 100, 10_000, 100_000):
        work = [(i, 1) for i in range(n)]
        for stage in STAGES:
            cut = chunks(stage, work, 32)
            assert len(cut) <= MAX_CHUNKS + 1
            assert [item for part in cut for item in part] == work
    assert [p[0][0] % 32 for p in chunks("generate", [(i, 1) for i in range(1000)], 32)] == [0] * 4


def test_run_json_tells_how_to_repeat_the_run(open_run, pool, tmp_path):
    pool()
    with open_run() as run:
        assert run.status == "running"
        work_through(run)
    assert RunStore(run.folder).status == "interrupted"  # nobody said that it had ended
    with open_run() as run:
        run.end_session("finished")
    content = json.loads((run.folder / "run.json").read_text())
    assert content["status"] == "finished"
    assert [s["status"] for s in content["sessions"]] == ["running", "finished"]
    assert content["sessions"][0]["pid"] == os.getpid()
    assert content["seed"] == 3
    assert content["generator"]["sha256"] == run.plan.generator["sha256"]
    assert {"python", "torch", "gfnff", "packflow-csp"} <= set(content["versions"])
    assert content["stages"]["relax"]["identity"].startswith("gfnff")
    assert content["command"] == "csp"


def test_a_folder_with_other_things_is_refused(open_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(UserInputError, match=r"holds other files \(thesis.tex"), open_run():
        pass


def test_another_run_is_refused_and_nothing_is_changed(open_run, tmp_path):
    with open_run() as run:
        pass
    before = (run.folder / "run.json").read_bytes()
    with pytest.raises(UserInputError, match="seed is 3 there and 4 here"), open_run(seed=4):
        pass
    assert (run.folder / "run.json").read_bytes() == before
    with open_run():
        pass  # the lock was given back


def test_a_checkpoint_that_is_gone_matters_only_while_candidates_are_missing(
    open_run, pool, monkeypatch
):
    from packflow_core.stages import generate

    pool()
    with open_run(n=10) as run:
        work_through(run)

    def gone(name):
        raise UserInputError(f"{name} is gone")

    monkeypatch.setattr(generate, "generator_identity", gone)
    with open_run(n=10):
        pass
    # More candidates need it again. (The folder still says 10, so the growth is seen here.)
    run.save(spec={**run.content["spec"], "n": 11})
    with pytest.raises(UserInputError, match="is gone"), open_run(n=11):
        pass


def test_progress_counts_what_is_recorded(open_run, pool):
    heard = []

    class Ears(progress.SilentProgress):
        def start(self, stage, total, done):
            heard.append((stage, total, sum(done.values())))

        def advance(self, stage, status, count=1):
            heard.append((stage, status))

    pool(die_after=5)
    with progress.use(Ears()):
        with pytest.raises(KeyboardInterrupt), open_run() as run:
            work_through(run)
        pool()
        with open_run() as run:
            work_through(run)
    assert heard.count(("hydrogenate", "ok")) == 32
    assert ("hydrogenate", 32, 0) in heard
    assert ("hydrogenate", 32, 5) in heard
    assert ("generate", 40, 40) in heard


@pytest.mark.parametrize(
    ("said", "seat", "device"),
    [
        ("cpu", "cpu", "cpu"),
        (None, "cpu", "cpu"),
        ("cuda:0 (NVIDIA H200)", "cuda:3", "cuda:3 (NVIDIA H200)"),
        (None, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_of_a_row_is_the_seat_of_its_worker(said, seat, device):
    assert device_name(said, seat) == device
