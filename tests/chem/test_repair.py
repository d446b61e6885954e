"""Repair: what counts as crooked, and the best fit against scipy's and a plain search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.repair import diagnose, fit_conformer, flipped_molecules, mirror_is_better

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
OBEQOD = "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]"
ALANINE = "C[C@H](N)C(=O)O"


def pool_of(smiles):
    return conformer_pool(Molecule.from_smiles(smiles))


def rotation(seed):
    return Rotation.random(random_state=seed).as_matrix()


def plain_best(heavy, pool, mirror):
    """Smallest RMSD by scipy, one by one over conformers, symmetries and hands."""
    target = heavy - heavy.mean(axis=0)
    best = np.inf
    for conformer in pool.heavy:
        for order in pool.automorphisms:
            for hand in (1, -1) if mirror else (1,):
                _, distance = Rotation.align_vectors(target, hand * conformer[order])
                best = min(best, distance / np.sqrt(len(heavy)))
    return best


@pytest.mark.parametrize("smiles", [ASPIRIN, OBEQOD, ALANINE, "CCCCO", "C/C=C/C(=O)O", "OCC"])
@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_fit_is_the_best_of_a_plain_search(smiles, noise):
    pool = pool_of(smiles)
    rng = np.random.default_rng(1)
    n = pool.molecule.n_heavy
    heavy = pool.heavy[0] @ rotation(3) + [3.0, -20.0, 5.0] + rng.normal(size=(n, 3)) * noise
    fit = fit_conformer(heavy, pool)
    assert fit.rmsd == pytest.approx(plain_best(heavy, pool, pool.stereo.mirror_allowed), abs=1e-6)
    assert fit.rmsd == pytest.approx(np.sqrt(((fit.positions[:n] - heavy) ** 2).sum(1).mean()))
    assert fit.positions[:n].mean(axis=0) == pytest.approx(heavy.mean(axis=0), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([ASPIRIN, OBEQOD, ALANINE, "CCCCO", "c1ccccc1"]))
def test_a_turned_relabelled_conformer_is_found_again(seed, smiles):
    pool = pool_of(smiles)
    rng = np.random.default_rng(seed)
    order = pool.automorphisms[rng.integers(len(pool.automorphisms))]
    k = int(rng.integers(len(pool)))
    hand = -1 if pool.stereo.mirror_allowed and rng.random() < 0.5 else 1
    place = rng.normal(size=3) * 10
    heavy = hand * pool.heavy[k][order] @ rotation(seed) + place
    fit = fit_conformer(heavy, pool)
    assert fit.rmsd < 1e-5
    assert fit.positions[: len(heavy)] == pytest.approx(heavy, abs=1e-4)
    # A rigid copy, hydrogens included: bonds and 1-3 distances are those of the pool.
    molecule = pool.molecule
    x = fit.positions
    for i, j in molecule.bonds_h:
        lengths = np.linalg.norm(pool.positions[:, i] - pool.positions[:, j], axis=-1)
        assert lengths.min() - 0.05 < np.linalg.norm(x[i] - x[j]) < lengths.max() + 0.05
    assert pool.stereo.count_flipped(x) == 0


def test_the_other_hand_is_never_taken_where_the_smiles_forbids_it():
    pool = pool_of(ALANINE)
    heavy = -pool.heavy[0]
    fit = fit_conformer(heavy, pool)
    assert not fit.mirrored
    assert fit.rmsd > 0.2
    assert pool.stereo.count_flipped(fit.positions) == 0
    free = pool_of("CC(N)C(=O)O")
    assert fit_conformer(-free.heavy[0], free).rmsd < 1e-5


@pytest.mark.parametrize("smiles", [ASPIRIN, "CC#N", "CO", "O", "O=C=O"])
@pytest.mark.parametrize("shape", ["point", "line", "plane", "far"])
def test_degenerate_drawings_get_a_whole_molecule(smiles, shape):
    pool = pool_of(smiles)
    n = pool.molecule.n_heavy
    heavy = np.random.default_rng(0).normal(size=(n, 3)) * (100.0 if shape == "far" else 2.0)
    heavy *= {"point": [0, 0, 0], "line": [1, 0, 0], "plane": [1, 1, 0], "far": [1, 1, 1]}[shape]
    fit = fit_conformer(heavy, pool)
    assert np.isfinite(fit.positions).all()
    bonds = pool.molecule.bonds_h
    lengths = np.linalg.norm(fit.positions[bonds[:, 0]] - fit.positions[bonds[:, 1]], axis=1)
    own = np.linalg.norm(
        pool.positions[fit.conformer, bonds[:, 0]] - pool.positions[fit.conformer, bonds[:, 1]],
        axis=1,
    )
    assert np.sort(lengths) == pytest.approx(np.sort(own), abs=1e-6)


def test_conformers_are_not_crooked():
    for smiles in (ASPIRIN, OBEQOD, ALANINE, "C12C3C4C1C5C2C3C45", "O"):
        pool = pool_of(smiles)
        found = diagnose(np.array(pool.heavy), pool)
        assert found.bond_error.max() < 0.05
        assert found.angle_error.max() < 1e-9
        assert not found.crooked(0.3, 0.6).any()
        assert not found.flipped.any()


def test_each_fault_is_seen_in_its_molecule():
    pool = pool_of(ASPIRIN)
    molecule = pool.molecule
    heavy = np.stack([pool.heavy[0]] * 4)
    i, j = molecule.bonds[0]  # the methyl group: its atom hangs on this bond alone
    axis = (heavy[1, i] - heavy[1, j]) / np.linalg.norm(heavy[1, i] - heavy[1, j])
    heavy[1, i] += 0.35 * axis
    heavy[2, 0] = heavy[2, 8] + [0.0, 0.0, 0.8]  # methyl on top of a ring atom
    found = diagnose(heavy, pool)
    assert found.bond_error[[0, 1]] == pytest.approx([0, 0.35], abs=0.03)
    assert found.collapsed.tolist() == [False, False, True, False]
    assert found.crooked(0.3, 0.6).tolist() == [False, True, True, False]
    assert found.crooked(0.5, 0.6).tolist() == [False, False, True, False]


def test_bent_angle_is_seen_though_bonds_are_fine():
    pool = pool_of("O=C=O")
    bent = np.array(pool.heavy[:1])
    length = pool.bond_lengths[0]
    bent[0] = [[length, 0, 0], [0, 0, 0], [0, length, 0]]
    found = diagnose(bent, pool)
    assert found.bond_error[0] < 1e-6
    assert found.angle_error[0] == pytest.approx(length * (2 - np.sqrt(2)), abs=1e-3)
    assert found.crooked(0.3, 0.6).all()


def test_wrong_hands_are_counted_and_the_mirror_offered():
    pool = pool_of(ALANINE)
    right = pool.heavy[0]
    crystal = np.stack([right, -right, -right @ rotation(1)])
    assert flipped_molecules(crystal, pool).tolist() == [False, True, True]
    assert mirror_is_better(crystal, pool)
    assert not mirror_is_better(-crystal, pool)
    assert not mirror_is_better(np.stack([right, -right]), pool)
    free = pool_of(ASPIRIN)
    assert not flipped_molecules(-free.heavy, free).any()
    assert not mirror_is_better(-free.heavy, free)
