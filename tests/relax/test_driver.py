"""Batches: company changes nothing, room is kept, states continue exactly, faults stay alone."""

import logging

import numpy as np
import pytest
from argon import NO_BONDS, ArgonEngine, argon, argon_block

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import (
    EV_TO_KJ_MOL,
    BaseEngine,
    EngineError,
    EngineMemoryError,
    EngineResult,
)
from packflow_core.relax.driver import SNAPSHOT_STEPS, Driver, Job
from packflow_core.relax.outcome import TRACE_POINTS
from packflow_core.relax.protocol import RelaxParams
from packflow_core.relax.state import pack, read_states, unpack, write_states
from packflow_core.store.schema import Reason, Status

# Converges after 60 to 200 steps.
TIGHT = RelaxParams(fmax=1e-4, max_stress_GPa=1e-3, max_steps=400)


class Springs(BaseEngine):
    """Every atom on a spring to its lattice site, cell on a spring to a cube: a batch is quick."""

    name = "sites"
    batched = True

    def __init__(self, capacity=10**6, remembers=False):
        self.capacity = capacity
        self.remembers = remembers
        self.sizes = []

    def atoms_per_call(self):
        return self.capacity

    def prepare(self, crystal):
        return np.round(crystal.fractional * 4) / 4

    def compute(self, prepared, positions, cells, n_atoms):
        self.sizes.append([int(n) for n in n_atoms])
        energies, forces, stress, begin = [], [], [], 0
        for sites, cell, n in zip(prepared, cells, n_atoms, strict=True):
            r = positions[begin : begin + n]
            begin += n
            delta = r - sites @ cell
            f = -3.0 * delta * (1 + 0.3 * (delta**2).sum(axis=1, keepdims=True))
            energies.append(float((1.5 * delta**2).sum() + 0.01 * (cell**2).sum()))
            forces.append(f)
            volume = np.linalg.det(cell)
            stress.append(0.05 * (cell.T @ cell - 30.0 * np.eye(3)) / volume)
        return EngineResult(
            np.array(energies), np.concatenate(forces), np.array(stress), np.array(n_atoms)
        )


def crystals():
    reps = [(1, 1, 1), (1, 2, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 2), (2, 2, 1)]
    return [argon_block(k, r, 1.0 + 0.01 * k) for k, r in enumerate(reps)]


def ends(driver, jobs):
    return dict(end for end in driver.run(jobs) if end is not None)


def same(a, b):
    assert (a.status, a.reason, a.n_steps) == (b.status, b.reason, b.n_steps)
    assert a.crystal.positions.tobytes() == b.crystal.positions.tobytes()
    assert a.crystal.cell.tobytes() == b.crystal.cell.tobytes()
    assert a.last == b.last
    assert a.first == b.first
    assert a.trace == b.trace


# -- company -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "params",
    [
        TIGHT,
        RelaxParams(protocol="paper", fmax=1e-3),
        RelaxParams(protocol="h_only", fmax=1e-2, max_steps=60),
    ],
    ids=["converged", "paper", "h_only"],
)
@pytest.mark.parametrize("capacity", [1, 8, 21, 10**6])
def test_a_result_has_the_same_bits_in_any_company(params, capacity):
    some = crystals()
    if params.protocol == "h_only":
        numbers = [np.where(np.arange(len(c)) % 3 == 0, 18, 1) for c in some]
        some = [Crystal(n, c.positions, c.cell, 1) for n, c in zip(numbers, some, strict=True)]
    alone = {}
    for k, crystal in enumerate(some):
        alone |= ends(Driver(Springs(), params, NO_BONDS), [Job(k, crystal)])
    assert len({end.n_steps for end in alone.values()}) > 1
    assert all(end.n_steps > 3 for end in alone.values())
    for order in (range(7), [5, 2, 6, 0, 4, 1, 3]):
        engine = Springs(capacity)
        together = ends(Driver(engine, params, NO_BONDS), [Job(k, some[k]) for k in order])
        assert set(together) == set(range(7))
        for k in range(7):
            same(together[k], alone[k])
        if capacity == 21:  # finished crystals make room for waiting ones, and there is no more
            assert all(sum(sizes) <= 21 for sizes in engine.sizes)
            assert max(len(sizes) for sizes in engine.sizes) > 1
            assert len(engine.sizes) < sum(end.n_steps + 1 for end in alone.values())
        if capacity == 1:  # one at a time, even where one is already too many
            assert all(len(sizes) == 1 for sizes in engine.sizes)


def test_jobs_are_drawn_as_there_is_room():
    drawn = []

    def jobs():
        for k, crystal in enumerate(crystals()):
            drawn.append(k)
            yield Job(k, crystal)

    run = Driver(Springs(8), TIGHT, NO_BONDS).run(jobs())
    next(run)
    assert len(drawn) <= 3


# -- states ------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", [Springs, ArgonEngine])
def test_a_continued_relaxation_ends_at_the_same_bits(engine, tmp_path):
    some = crystals()[:3]
    kept = {}
    whole = ends(
        Driver(
            engine(), TIGHT, NO_BONDS,
            save=lambda key, state: kept.setdefault((key, state.n_steps), pack(state, key)),
        ),
        [Job(k, crystal) for k, crystal in enumerate(some)],
    )  # fmt: skip
    assert len(kept) > 3
    assert {steps % SNAPSHOT_STEPS for _, steps in kept} == {0}
    for (key, steps), row in kept.items():
        write_states(tmp_path / "x.states", [row])
        state = unpack(read_states(tmp_path)[key])
        assert state.n_steps == steps
        seen = []
        driver = Driver(engine(), TIGHT, NO_BONDS, observer=lambda _, step, s=seen: s.append(step))
        again = ends(driver, [Job(key, some[key], state)])
        same(again[key], whole[key])
        assert seen[0].number == steps  # nothing before is done again
        assert again[key].elapsed_s > row["control"][6]


def test_a_relaxation_that_was_set_up_anew_continues_exactly():
    large = 3.0 * 4 / EV_TO_KJ_MOL

    class Jumping(ArgonEngine):
        """Another energy zero for every geometry that it is prepared at, as a topology has."""

        remembers = True

        def prepare(self, crystal):
            item = super().prepare(crystal)
            plain, offset = item.compute, (large if crystal.volume > 150 else 0.0)

            def compute(positions, cell):
                energy, forces, stress = plain(positions, cell)
                return energy + offset, forces, stress

            item.compute = compute
            return item

    kept = []
    start = argon(0, 1.08)
    assert start.volume > 150
    save = lambda key, state: kept.append(pack(state, key))  # noqa: E731
    whole = ends(Driver(Jumping(), TIGHT, NO_BONDS, save=save), [Job(0, start)])[0]
    assert whole.status == Status.OK
    states = [unpack(row) for row in kept]
    plain = ends(Driver(ArgonEngine(), TIGHT, NO_BONDS), [Job(0, start)])[0]
    assert whole.n_steps >= plain.n_steps
    for state in states:
        again = ends(Driver(Jumping(), TIGHT, NO_BONDS), [Job(0, start, state)])[0]
        same(again, whole)


def test_an_engine_that_starts_from_its_last_density_forgets_it_where_states_are_kept():
    class Warm(ArgonEngine):
        """Each energy depends a little on the calls before."""

        def prepare(self, crystal):
            item = super().prepare(crystal)
            plain, memory = item.compute, [0.0]

            def compute(positions, cell):
                energy, forces, stress = plain(positions, cell)
                memory[0] = 0.5 * memory[0] + 1e-3 * float(np.abs(positions).sum())
                return energy, forces * (1 + 1e-3 * memory[0]), stress

            def forget():
                memory[0] = 0.0

            item.compute, item.forget = compute, forget
            return item

    kept = []
    save = lambda key, state: kept.append(pack(state, key))  # noqa: E731
    whole = ends(Driver(Warm(), TIGHT, NO_BONDS, save=save), [Job(0, argon())])[0]
    assert kept
    for row in kept:
        same(ends(Driver(Warm(), TIGHT, NO_BONDS), [Job(0, argon(), unpack(row))])[0], whole)


def test_damaged_state_files_are_passed_over(tmp_path):
    kept = []
    save = lambda key, state: kept.append(pack(state, key))  # noqa: E731
    ends(Driver(ArgonEngine(), TIGHT, NO_BONDS, save=save), [Job(7, argon())])
    first, last = kept[0], kept[-1]
    write_states(tmp_path / "a.states", [last])
    write_states(tmp_path / "b.states", [first])
    assert read_states(tmp_path)[7]["control"] == last["control"]  # the farthest counts
    data = (tmp_path / "a.states").read_bytes()
    for broken in (data[:-1], data[:10], b"", data[:200] + b"\x00\xff" + data[202:]):
        (tmp_path / "a.states").write_bytes(broken)
        assert read_states(tmp_path)[7]["control"] == first["control"]
    assert read_states(tmp_path / "nowhere") == {}
    with pytest.raises(ValueError, match="state"):
        unpack({"index": 7})


# -- faults ------------------------------------------------------------------------------------
class Faulty(Springs):
    """What happens to the crystal whose first atom was put at x = 0.123."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.how = how
        self.calls = 0

    def prepare(self, crystal):
        return (super().prepare(crystal), abs(crystal.positions[0, 0] - 0.123) < 1e-9)

    def compute(self, prepared, positions, cells, n_atoms):
        self.calls += 1
        guilty = [k for k, (_, mark) in enumerate(prepared) if mark]
        if isinstance(self.how, Exception) and guilty and self.calls > 3:
            raise self.how
        result = super().compute([sites for sites, _ in prepared], positions, cells, n_atoms)
        for k in guilty if self.calls > 3 else []:
            if self.how == "error":
                return EngineResult(
                    result.energies, result.forces, result.stress, result.n_atoms,
                    {k: EngineError(Reason.SCF, "did not converge")},
                )  # fmt: skip
            if self.how == "nan":
                begin = int(n_atoms[:k].sum())
                result.forces[begin] = np.nan
            if self.how == "shape":
                return EngineResult(
                    result.energies, result.forces[:-1], result.stress, result.n_atoms
                )
        return result


def marked():
    some = crystals()
    positions = some[3].positions.copy()
    positions[0, 0] = 0.123
    return [*some[:3], some[3].with_positions(positions), *some[4:]]


@pytest.mark.parametrize(("how", "reason"), [("nan", Reason.NAN), ("error", Reason.SCF)])
def test_a_crystal_that_fails_leaves_the_others_as_they_are(how, reason):
    jobs = [Job(k, crystal) for k, crystal in enumerate(marked())]
    found = ends(Driver(Faulty(how), TIGHT, NO_BONDS), jobs)
    sound = ends(Driver(Springs(), TIGHT, NO_BONDS), jobs)
    assert (found[3].status, found[3].reason) == (Status.FAILED, reason)
    assert found[3].n_steps == 3
    assert np.isfinite(found[3].crystal.positions).all()
    for k in (0, 1, 2, 4, 5, 6):
        same(found[k], sound[k])


@pytest.mark.parametrize("how", ["shape", RuntimeError("assert"), EngineError(Reason.ENGINE, "x")])
def test_what_cannot_be_blamed_on_one_is_raised(how):
    """The worker pool splits the group then, until the guilty one is alone."""
    jobs = [Job(k, crystal) for k, crystal in enumerate(marked())]
    with pytest.raises((RuntimeError, EngineError)):
        ends(Driver(Faulty(how), TIGHT, NO_BONDS), jobs)


@pytest.mark.parametrize("how", ["shape", RuntimeError("assert"), EngineError(Reason.ENGINE, "x")])
def test_alone_it_is_an_outcome(how, caplog):
    caplog.set_level(logging.CRITICAL)
    found = ends(Driver(Faulty(how), TIGHT, NO_BONDS), [Job(3, marked()[3])])
    assert (found[3].status, found[3].reason) == (Status.FAILED, Reason.ENGINE)
    if how == "shape":
        assert "(7, 3)" in found[3].detail
        assert "(8, 3)" in found[3].detail


def test_on_a_gpu_nothing_is_forgiven():
    """After a device-side assert every later call of the process fails."""
    engine = Faulty(RuntimeError("device-side assert triggered"))
    engine.device = "cuda:0 (a card)"
    with pytest.raises(RuntimeError):
        ends(Driver(engine, TIGHT, NO_BONDS), [Job(3, marked()[3])])


class Small(Springs):
    """Memory for so many atoms."""

    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def compute(self, prepared, positions, cells, n_atoms):
        if len(positions) > self.memory:
            raise EngineMemoryError(f"{len(positions)} atoms")
        return super().compute(prepared, positions, cells, n_atoms)


def test_a_batch_shrinks_to_the_memory_there_is(caplog):
    caplog.set_level(logging.CRITICAL)
    jobs = [Job(k, crystal) for k, crystal in enumerate(crystals())]
    engine = Small(16)
    found = ends(Driver(engine, TIGHT, NO_BONDS), jobs)
    sound = ends(Driver(Springs(), TIGHT, NO_BONDS), jobs)
    for k in range(7):
        same(found[k], sound[k])
    assert max(sum(sizes) for sizes in engine.sizes) <= 16


def test_a_crystal_larger_than_the_memory_is_an_outcome(caplog):
    caplog.set_level(logging.CRITICAL)
    jobs = [Job(k, crystal) for k, crystal in enumerate(crystals())]
    found = ends(Driver(Small(8), TIGHT, NO_BONDS), jobs)
    assert (found[6].status, found[6].reason) == (Status.FAILED, Reason.OUT_OF_MEMORY)
    assert all(found[k].status == Status.OK for k in range(6))


# -- time and traces ---------------------------------------------------------------------------
def test_the_time_of_a_batch_is_shared_by_atoms_and_limited():
    ticks = iter(range(10**6))
    jobs = [Job(0, argon(0)), Job(1, argon_block(1, (1, 1, 3)))]
    driver = Driver(
        Springs(), RelaxParams(fmax=1e-12, max_steps=300, exp_cell_factor=8.0), NO_BONDS,
        limit_s=40.0, clock=lambda: next(ticks),
    )  # fmt: skip
    found = ends(driver, jobs)
    assert {end.reason for end in found.values()} == {Reason.TIMEOUT}
    assert found[1].n_steps < found[0].n_steps  # it has three quarters of the atoms
    assert "s of work" in found[0].detail


def test_a_trace_is_short_however_long_the_relaxation():
    params = RelaxParams(fmax=1e-30, max_steps=300)
    steps = []
    driver = Driver(Springs(), params, NO_BONDS, observer=lambda _, step: steps.append(step))
    end = ends(driver, [Job(0, argon())])[0]
    assert end.n_steps == 300
    numbers = [step.number for step in end.trace]
    assert numbers[0] == 0
    assert numbers[-1] == 300
    assert TRACE_POINTS / 2 - 1 <= len(numbers) <= TRACE_POINTS + 1
    assert len(set(np.diff(numbers[:-1]))) == 1
    by_number = {step.number: step for step in steps}
    assert all(by_number[step.number] == step for step in end.trace)
