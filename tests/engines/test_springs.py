import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from scipy.spatial.transform import Rotation

from packflow_core.chem.elements import SUPPORTED_SYMBOLS
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.contacts import intermolecular_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.engines import springs as springs_module
from packflow_core.engines.base import EngineError, EngineMemoryError, boxed
from packflow_core.engines.pair_list import build_pairs
from packflow_core.engines.spring_terms import (
    CUTOFF,
    HYDROGEN_BOND,
    N_KINDS,
    SOFT_CORE,
    STIFFNESS,
    SWITCH,
    UFF_WELLS,
    atom_kinds,
    bonded,
    springs_of,
    well,
    well_tables,
)
from packflow_core.engines.springs import SpringsEngine
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

DATA = Path(__file__).parents[1] / "data"
KCAL = 0.0433641  # eV


def urea():
    return read_cif(DATA / "urea.cif")


def benzene():
    return read_cif(DATA / "benzene.cif")


def shaken(crystal, seed=0, size=0.1):
    rng = np.random.default_rng(seed)
    return crystal.with_positions(crystal.positions + rng.normal(0, size, crystal.positions.shape))


def triclinic(z=2, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    source = urea()
    molecule = source.positions[:8] - source.positions[:8].mean(axis=0)
    cell = np.array([[7.2, 0.0, 0.0], [1.5, 7.0, 0.0], [-1.2, 1.8, 7.4]]) * scale
    turns = Rotation.random(z, random_state=rng).as_matrix()
    places = (0.1 + 0.5 * np.arange(z))[:, None, None] * np.ones(3) @ cell
    return Crystal(
        np.tile(source.numbers[:8], z), (molecule @ turns + places).reshape(-1, 3), cell, z
    )


def flat():
    """One molecule in a skewed cell with a height of 2.2 Å."""
    cell = np.array([[2.5, 0.0, 0.0], [1.2, 9.0, 0.0], [-0.5, 4.0, 11.0]])
    source = urea()
    xyz = source.positions[:8] - source.positions[:8].mean(axis=0)
    # The plane of the molecule across the short axis.
    xyz = xyz @ np.linalg.svd(xyz)[2].T[:, [2, 0, 1]]
    if np.linalg.det(cell) < 0:
        cell = -cell
    return Crystal(source.numbers[:8], xyz, cell, 1)


def moved(start, seed=1, size=0.1, strain=0.02):
    """A geometry that a relaxation that started at `start` might reach."""
    rng = np.random.default_rng(seed)
    deform = np.eye(3) + rng.normal(0, strain, (3, 3))
    positions = start.positions @ deform + rng.normal(0, size, start.positions.shape)
    return start.with_positions(positions, start.cell @ deform)


def compute(engine, prepared, crystals):
    return engine.compute(
        prepared,
        np.concatenate([c.positions for c in crystals]),
        np.stack([c.cell for c in crystals]),
        np.array([len(c) for c in crystals]),
    )


def at(start, crystal, engine=None):
    """Energy, forces and stress of `crystal`, prepared at `start`."""
    engine = engine or SpringsEngine()
    result = compute(engine, [engine.prepare(start)], [crystal])
    assert not result.errors
    return result.energies[0], result.forces, result.stress[0]


CRYSTALS = {
    "urea": lambda: shaken(urea()),
    "benzene": lambda: shaken(benzene(), size=0.05),
    "triclinic": triclinic,
    "flat": flat,
    "overlapping": lambda: triclinic(z=2, scale=0.6),
}


# -- derivatives -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CRYSTALS)
def test_forces_are_derivatives_of_the_energy(name):
    start = CRYSTALS[name]()
    crystal = moved(start)
    engine = SpringsEngine()
    prepared = engine.prepare(start)
    forces = compute(engine, [prepared], [crystal]).forces
    assert np.abs(forces).max() > 0.5
    h = 1e-5
    steps = [
        (atom, axis) for atom in range(0, len(crystal), 1 + len(crystal) // 12) for axis in range(3)
    ]
    varied = []
    for atom, axis in steps:
        for sign in (1, -1):
            positions = crystal.positions.copy()
            positions[atom, axis] += sign * h
            varied.append(crystal.with_positions(positions))
    energies = compute(engine, [prepared] * len(varied), varied).energies
    slopes = -(energies[::2] - energies[1::2]) / (2 * h)
    np.testing.assert_allclose([forces[s] for s in steps], slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CRYSTALS)
def test_stress_is_the_derivative_by_strain(name):
    start = CRYSTALS[name]()
    crystal = moved(start)
    engine = SpringsEngine()
    prepared = engine.prepare(start)
    stress = compute(engine, [prepared], [crystal]).stress[0]
    np.testing.assert_array_equal(stress, stress.T)
    h = 1e-5

    def strained(i, j, size):
        strain = np.eye(3)
        strain[i, j] += size / 2
        strain[j, i] += size / 2
        return crystal.with_positions(crystal.positions @ strain, crystal.cell @ strain)

    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    varied = [strained(i, j, sign * h) for i, j in pairs for sign in (1, -1)]
    energies = compute(engine, [prepared] * len(varied), varied).energies
    slopes = (energies[::2] - energies[1::2]) / (2 * h * crystal.volume)
    np.testing.assert_allclose([stress[p] for p in pairs], slopes, rtol=1e-6, atol=1e-7)


def test_forces_add_up_to_nothing():
    forces = at(triclinic(), moved(triclinic()))[1]
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-12)


# -- the energy itself, the slow way -----------------------------------------------------------
def plain_wells(crystal):
    """Lennard-Jones energy between molecules, pair by pair from a k-d tree, in eV."""
    inverse, depth = (t.reshape(N_KINDS, N_KINDS) for t in well_tables())
    kinds = atom_kinds(crystal, bonded(crystal))
    pairs = intermolecular_pairs(crystal, CUTOFF)
    energy = 0.0
    for i, j, r in zip(pairs.i, pairs.j, pairs.distance, strict=True):
        ratio = 1 / (r * r * inverse[kinds[i], kinds[j]])
        assert ratio < 1 / SOFT_CORE
        t = min(max((r * r - SWITCH**2) / (CUTOFF**2 - SWITCH**2), 0), 1)
        energy += (
            0.5 * depth[kinds[i], kinds[j]] * (ratio**6 - 2 * ratio**3) * (1 - t * t * (3 - 2 * t))
        )
    return energy


@pytest.mark.parametrize("name", ["urea", "benzene", "triclinic"])
def test_energy_against_a_sum_over_pairs_of_a_tree(name):
    crystal = CRYSTALS[name]()
    assert at(crystal, crystal)[0] == pytest.approx(plain_wells(crystal), abs=1e-10)


def test_springs_against_a_sum_over_distances():
    crystal = urea()
    alone = boxed(crystal.numbers[:8], crystal.positions[:8])
    bent = shaken(alone, size=0.05)
    assert at(alone, alone)[0] == 0.0
    bonds = {(0, 1), (0, 2), (0, 3), (2, 4), (2, 5), (3, 6), (3, 7)}
    graph = np.zeros((8, 8))
    for i, j in bonds:
        graph[i, j] = graph[j, i] = 1
    np.testing.assert_array_equal(bonded(alone)[0], graph > 0)
    expected = 0.0
    for i in range(8):
        for j in range(i + 1, 8):
            steps = next((n for n in (1, 2, 3) if np.linalg.matrix_power(graph, n)[i, j] > 0), 4)
            stretch = np.linalg.norm(bent.positions[i] - bent.positions[j]) - np.linalg.norm(
                alone.positions[i] - alone.positions[j]
            )
            expected += 0.5 * STIFFNESS[steps - 1] * stretch**2
    assert at(alone, bent)[0] == pytest.approx(expected, rel=1e-10)


def test_every_molecule_has_springs_of_its_own():
    crystal = shaken(urea().repeated((1, 1, 2)), size=0.03)
    springs = springs_of(crystal, bonded(crystal))
    assert len(springs.i) == 4 * 28
    assert (springs.i // 8 == springs.j // 8).all()
    distance = np.linalg.norm(crystal.positions[springs.j] - crystal.positions[springs.i], axis=1)
    np.testing.assert_allclose(springs.length, distance, rtol=1e-14)
    assert len(np.unique(springs.length[springs.stiffness == STIFFNESS[0]])) == 28


# -- parameters --------------------------------------------------------------------------------
def test_wells_are_those_of_uff():
    # RDKit types a lone atom by its element; atoms of several types share their wells.
    assert set(UFF_WELLS) == set(SUPPORTED_SYMBOLS)
    inverse, depth = (t.reshape(N_KINDS, N_KINDS) for t in well_tables())
    for k, first in enumerate(UFF_WELLS):
        for m, second in enumerate(UFF_WELLS):
            mol = Chem.AddHs(Chem.MolFromSmiles(f"[{first}].[{second}]"))
            parameters = rdForceFieldHelpers.GetUFFVdWParams(mol, 0, 1)
            if parameters is None:
                continue
            x, d = parameters
            assert inverse[k, m] ** -0.5 == pytest.approx(x, abs=1e-3), (first, second)
            assert depth[k, m] / KCAL == pytest.approx(d, rel=2e-3), (first, second)


def test_only_hydrogens_on_nitrogen_or_oxygen_make_hydrogen_bonds():
    crystal = urea()
    polar = atom_kinds(crystal, bonded(crystal)) == N_KINDS - 1
    np.testing.assert_array_equal(polar, crystal.numbers == 1)
    crystal = benzene()
    assert (atom_kinds(crystal, bonded(crystal)) < N_KINDS - 1).all()
    inverse, depth = (t.reshape(N_KINDS, N_KINDS) for t in well_tables())
    np.testing.assert_array_equal(inverse, inverse.T)
    symbols = list(UFF_WELLS)
    for symbol in symbols:
        bond = symbol in ("N", "O")
        k, h = symbols.index(symbol), symbols.index("H")
        assert bond == (inverse[-1, k] ** -0.5 == pytest.approx(HYDROGEN_BOND[0]))
        assert bond or (inverse[-1, k], depth[-1, k]) == (inverse[h, k], depth[h, k])


def test_an_unknown_element_is_the_crystals_fault():
    crystal = urea()
    numbers = crystal.numbers.copy()
    numbers[0] = 11
    with pytest.raises(EngineError, match="no parameters for Na") as caught:
        SpringsEngine().prepare(Crystal(numbers, crystal.positions, crystal.cell, 2))
    assert caught.value.reason == Reason.ENGINE


# -- one pair ----------------------------------------------------------------------------------
def curve(r, x=3.851, depth=0.105 * KCAL):
    r2 = torch.as_tensor(np.asarray(r, dtype=np.float64) ** 2)
    energy, slope = well(
        r2.clone(),
        torch.full_like(r2, 1 / x**2),
        torch.full_like(r2, depth),
        torch.empty(5, len(r2), dtype=torch.float64),
    )
    return energy.numpy().copy(), slope.numpy() * 2 * np.asarray(r)


def test_a_well_has_its_depth_at_its_distance():
    energy, slope = curve([3.851])
    assert energy[0] == pytest.approx(-0.105 * KCAL, rel=1e-12)
    assert slope[0] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("border", [SWITCH, CUTOFF, 3.851 * SOFT_CORE**0.5])
def test_energy_and_force_of_a_pair_have_no_steps(border):
    for h in (1e-4, 1e-6):
        energy, slope = curve([border - h, border + h])
        scale = max(np.abs(slope).max(), 1e-3)
        assert abs(energy[1] - energy[0]) < 3 * scale * h
        assert abs(slope[1] - slope[0]) < 50 * scale * h


def test_nothing_is_left_beyond_the_cutoff():
    energy, slope = curve([CUTOFF, CUTOFF + 1e-9, 9.0, 40.0])
    assert not energy.any()
    assert not slope.any()
    energy, slope = curve([CUTOFF - 1e-3])
    assert energy[0] < 0 < slope[0]


def test_forces_stay_finite_however_close_two_atoms_come():
    r = np.linspace(0.0, 4.0, 1001)
    for inverse, depth in zip(*well_tables(), strict=True):
        energy, slope = curve(r, inverse**-0.5, depth)
        assert np.isfinite(energy).all()
        assert 1 < np.abs(slope).max() < 300
        # Pushed apart all the way.
        inside = r < 0.9 * inverse**-0.5
        assert (np.diff(energy[inside]) < 0).all()


def test_molecules_on_top_of_each_other_have_finite_forces():
    start = triclinic()
    positions = np.tile(start.positions[:8], (2, 1))
    on_top = start.with_positions(positions)
    energy, forces, stress = at(start, on_top)
    assert energy > 1
    assert np.isfinite(forces).all()
    assert np.isfinite(stress).all()
    assert np.abs(forces).max() < 1e3
    # Also where the springs are those of an overlap.
    assert np.isfinite(at(on_top, on_top)[1]).all()


def test_two_atoms_of_a_molecule_on_one_point():
    start = triclinic()
    positions = start.positions.copy()
    positions[1] = positions[0]
    assert np.isfinite(at(start, start.with_positions(positions))[1]).all()


# -- invariance --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CRYSTALS)
def test_translation_rotation_and_images_change_nothing(name):
    start = CRYSTALS[name]()
    crystal = moved(start)
    energy, forces, stress = at(start, crystal)
    scale = max(1.0, np.abs(forces).max())

    def compare(change, turn=None):
        turn = np.eye(3) if turn is None else turn
        e, f, s = at(change(start), change(crystal))
        assert e == pytest.approx(energy, abs=1e-11 * scale)
        np.testing.assert_allclose(f, forces @ turn, atol=1e-10 * scale)
        np.testing.assert_allclose(s, turn.T @ stress @ turn, atol=1e-11 * scale)

    compare(lambda c: c.with_positions(c.positions + np.array([1.3, -7.7, 22.0])))
    turn = Rotation.from_euler("xyz", [0.3, 1.2, -0.8]).as_matrix()
    compare(lambda c: c.with_positions(c.positions @ turn, c.cell @ turn), turn)
    hops = np.random.default_rng(3).integers(-4, 5, (start.z, 3))
    per_atom = np.repeat(hops, len(start) // start.z, axis=0)
    compare(lambda c: c.with_positions(c.positions + per_atom @ c.cell))
    for matrix in ([[1, 0, 0], [1, 1, 0], [0, 0, 1]], [[1, 2, 0], [0, 1, -1], [0, 0, 1]]):
        compare(lambda c, m=matrix: Crystal(c.numbers, c.positions, np.array(m) @ c.cell, c.z))


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_supercell_has_the_energy_of_its_cells(name):
    start = CRYSTALS[name]()
    crystal = moved(start)
    energy, forces, stress = at(start, crystal)
    scale = max(1.0, np.abs(forces).max())
    reps = (2, 1, 3)
    many = at(start.repeated(reps), crystal.repeated(reps))
    assert many[0] / 6 == pytest.approx(energy, abs=1e-11 * scale)
    np.testing.assert_allclose(many[1], np.tile(forces, (6, 1)), atol=1e-10 * scale)
    np.testing.assert_allclose(many[2], stress, atol=1e-11 * scale)


# -- to the last bit ---------------------------------------------------------------------------
def some_starts():
    return [
        triclinic(),
        shaken(urea(), 2),
        flat(),
        triclinic(z=1, seed=3),
        shaken(benzene(), 4),
        shaken(urea().repeated((2, 2, 1)), 5),
        triclinic(z=2, seed=6, scale=0.7),
    ]


def assert_same(result, k, other, m=0):
    assert result.energies[k] == other.energies[m]
    np.testing.assert_array_equal(result.forces_of(k), other.forces_of(m))
    np.testing.assert_array_equal(result.stress[k], other.stress[m])


@pytest.mark.parametrize("chunk", [1, 30, 100, 10_000])
def test_batch_mates_and_chunks_change_nothing(chunk, monkeypatch):
    monkeypatch.setattr(springs_module, "_CHUNK_ATOMS", {"cpu": chunk})
    starts = some_starts()
    crystals = [moved(c, seed) for seed, c in enumerate(starts)]
    engine = SpringsEngine()
    alone = [
        compute(SpringsEngine(), [SpringsEngine().prepare(s)], [c])
        for s, c in zip(starts, crystals, strict=True)
    ]
    prepared = [engine.prepare(s) for s in starts]
    for order in (range(7), [6, 3, 0], [1, 1, 5, 4, 2, 1], [2]):
        result = compute(engine, [prepared[k] for k in order], [crystals[k] for k in order])
        for place, k in enumerate(order):
            assert_same(result, place, alone[k])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.floats(0.001, 0.3),
    skin=st.floats(0.0, 3.0),
    data=st.data(),
)
def test_the_age_of_a_list_changes_nothing(seed, size, skin, data):
    # Two relaxations' worth of geometries; lists are renewed at different times.
    starts = some_starts()[:4]
    engine, other = SpringsEngine(skin=skin), SpringsEngine()
    prepared, others = [[e.prepare(s) for s in starts] for e in (engine, other)]
    crystals = list(starts)
    for step in range(4):
        crystals = [moved(c, seed + step, size, size / 20) for c in crystals]
        result = compute(engine, prepared, crystals)
        k = data.draw(st.integers(0, 3))
        fresh = SpringsEngine()
        assert_same(result, k, compute(fresh, [fresh.prepare(starts[k])], [crystals[k]]))
        assert_same(result, k, compute(other, [others[k]], [crystals[k]]))


def test_lists_are_kept_while_they_can_be():
    engine = SpringsEngine()
    start = triclinic()
    prepared = engine.prepare(start)
    compute(engine, [prepared], [start])
    first = prepared.listed
    compute(engine, [prepared], [moved(start, size=0.05, strain=0.003)])
    assert prepared.listed is first
    # A strain alone asks for no list until it is large.
    compute(engine, [prepared], [moved(start, size=0.0, strain=0.1)])
    assert prepared.listed is not first


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), skin=st.floats(0.2, 2.0), size=st.floats(0.01, 0.5))
def test_an_old_list_never_lacks_a_pair(seed, skin, size):
    engine = SpringsEngine(skin=skin)
    start = triclinic(seed=seed)
    prepared = engine.prepare(start)
    crystal = start
    for step in range(5):
        crystal = moved(crystal, seed + step, size / 5, size / 30)
        compute(engine, [prepared], [crystal])
        pairs = prepared.listed.pairs
        place = crystal.positions[pairs.atom] + pairs.shift @ crystal.cell
        distance = np.linalg.norm(place[pairs.ghost] - crystal.positions[pairs.i], axis=1)
        peer = intermolecular_pairs(crystal, CUTOFF).distance
        found = np.sort(distance[distance < CUTOFF - 1e-9])
        expected = np.sort(peer[peer < CUTOFF - 1e-9])[::2]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_threads_change_nothing():
    starts = [shaken(benzene(), seed) for seed in range(20)]
    engine = SpringsEngine()
    prepared = [engine.prepare(s) for s in starts]
    one = compute(engine, prepared, starts)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = compute(engine, prepared, starts)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(one.energies, two.energies)
    np.testing.assert_array_equal(one.forces, two.forces)
    np.testing.assert_array_equal(one.stress, two.stress)


# -- pair lists --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CRYSTALS)
def test_pairs_are_those_of_a_tree_and_in_their_order(name):
    crystal = CRYSTALS[name]()
    n = len(crystal) // crystal.z
    pairs = build_pairs(crystal.positions, crystal.cell, n, 7.0)
    rows = np.column_stack([pairs.i, pairs.shift[pairs.ghost], pairs.atom[pairs.ghost]])
    assert (np.lexsort(rows.T[::-1]) == np.arange(len(rows))).all()
    mine = {tuple(row) for row in rows.astype(int).tolist()}
    assert len(mine) == len(rows)
    peer = intermolecular_pairs(crystal, 7.0)
    theirs = {
        (i, *s, j)
        for i, s, j in zip(peer.i.tolist(), peer.shift.tolist(), peer.j.tolist(), strict=True)
    }
    mirrored = {(j, -a, -b, -c, i) for i, a, b, c, j in mine}
    assert not mine & mirrored
    assert mine | mirrored == theirs


def test_the_flat_cell_is_flat():
    assert heights(flat().cell).min() < 2.5


# -- errors ------------------------------------------------------------------------------------
def test_bad_crystals_do_not_disturb_the_others():
    starts = some_starts()
    engine = SpringsEngine()
    prepared = [engine.prepare(s) for s in starts]
    good = compute(engine, prepared, starts)
    positions = np.concatenate([c.positions for c in starts])
    cells = np.stack([c.cell for c in starts])
    n_atoms = np.array([len(c) for c in starts])
    positions[3] = np.nan
    cells[1, 0, 0] = np.inf
    cells[2] = -cells[2]
    cells[4] = 0.0
    cells[5] *= 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            result = engine.compute(prepared, positions, cells, n_atoms)
            reasons = {k: error.reason for k, error in result.errors.items()}
            assert reasons == {
                0: Reason.NAN,
                1: Reason.NAN,
                2: Reason.BAD_CELL,
                4: Reason.BAD_CELL,
                5: Reason.BAD_CELL,
            }
            for k in range(7):
                if k in reasons:
                    assert np.isnan(result.energies[k])
                    assert np.isnan(result.forces_of(k)).all()
                    assert np.isnan(result.stress[k]).all()
                else:
                    assert_same(result, k, good, k)
    # And they recover.
    again = compute(engine, prepared, starts)
    assert not again.errors
    for k in range(7):
        assert_same(again, k, good, k)


def test_atoms_that_flew_away_are_told():
    start = triclinic()
    engine = SpringsEngine()
    positions = start.positions.copy()
    for far in (1e7, 1e200):
        positions[3] += far
        result = compute(engine, [engine.prepare(start)], [start.with_positions(positions)])
        assert result.errors[0].reason == Reason.BAD_CELL


def test_an_empty_batch():
    result = SpringsEngine().compute(
        [], np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros(0, dtype=np.int64)
    )
    assert result.energies.shape == (0,)
    assert result.forces.shape == (0, 3)
    assert result.stress.shape == (0, 3, 3)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserInputError, match="sees none; use the device 'cpu'"):
        SpringsEngine("cuda")


def test_no_memory_is_an_engine_memory_error(monkeypatch):
    start = triclinic()
    engine = SpringsEngine()
    prepared = engine.prepare(start)
    before = compute(engine, [prepared], [start])

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(springs_module.Chunk, "gradients", fail)
        with pytest.raises(EngineMemoryError, match="16 atoms"):
            compute(engine, [prepared], [start])
    assert_same(compute(engine, [prepared], [start]), 0, before)


def test_what_it_says_of_itself():
    engine = SpringsEngine()
    assert (engine.name, engine.batched, engine.remembers, engine.device) == (
        "springs",
        True,
        False,
        "cpu",
    )
    assert engine.identity == {"engine": "springs", "version": "demo1"}
    assert 100 <= engine.atoms_per_call() <= 20_000


# -- what it is for ----------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:logm result")
@pytest.mark.parametrize(
    ("make", "density"),
    [(urea, (1.30, 1.55)), (benzene, (1.00, 1.20))],  # 1.375 at 12 K and 1.055 at 218 K
)
def test_crystals_relax_to_a_sensible_density(make, density):
    crystal = make()
    atoms = crystal.to_ase()
    atoms.calc = SpringsEngine().as_ase(crystal)
    cell = FrechetCellFilter(atoms, exp_cell_factor=8)
    assert FIRE(cell, logfile=None).run(fmax=0.02, steps=200)
    relaxed = crystal.with_positions(atoms.get_positions(), atoms.cell[:])
    assert density[0] < relaxed.density < density[1]
    lengths = relaxed.parameters[:3] / crystal.parameters[:3]
    assert np.abs(lengths - 1).max() < 0.06
    # Molecules stay what they are.
    np.testing.assert_array_equal(bonded(relaxed), bonded(crystal))


@pytest.mark.filterwarnings("ignore:logm result")
@pytest.mark.parametrize("scale", [1.15, 0.85])
def test_swollen_and_squeezed_crystals_come_back(scale):
    crystal = benzene()
    centres = crystal.positions.reshape(4, 12, 3).mean(axis=1)
    positions = crystal.positions + np.repeat((scale - 1) * centres, 12, axis=0)
    start = crystal.with_positions(positions, crystal.cell * scale)
    atoms = start.to_ase()
    atoms.calc = SpringsEngine().as_ase(start)
    assert not 1.0 < start.density < 1.2
    assert atoms.get_potential_energy() > -1.9
    cell = FrechetCellFilter(atoms, exp_cell_factor=8)
    assert FIRE(cell, logfile=None).run(fmax=0.02, steps=400)
    assert Crystal.from_ase(atoms, 4).density == pytest.approx(1.1, abs=0.05)
    # From the measured crystal it is -2.30 eV; the cell is soft.
    assert atoms.get_potential_energy() == pytest.approx(-2.30, abs=0.06)
