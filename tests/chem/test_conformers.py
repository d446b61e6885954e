"""Conformer pools: geometry, determinism, symmetry and failure."""

import numpy as np
import pytest

from packflow_core.chem import conformers
from packflow_core.chem.conformers import (
    ConformerError,
    conformer_pool,
    heavy_automorphisms,
    hydrogen_parents,
)
from packflow_core.chem.molecule import Molecule

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
OBEQOD = "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]"


def test_bonds_of_aspirin_are_those_of_the_textbook():
    molecule = Molecule.from_smiles(ASPIRIN)
    pool = conformer_pool(molecule)
    lengths = {(6, 6): [], (6, 8): []}
    for bond, length in zip(molecule.bonds, pool.bond_lengths, strict=True):
        lengths[tuple(sorted(molecule.numbers[bond].tolist()))].append(length)
    assert pool.force_field == "MMFF94"
    assert all(1.36 < x < 1.53 for x in lengths[6, 6])
    assert all(1.18 < x < 1.42 for x in lengths[6, 8])
    assert pool.heavy.mean(axis=1) == pytest.approx(np.zeros((len(pool), 3)), abs=1e-9)
    assert (np.diff(pool.energies) >= 0).all()
    assert pool.energies[0] == 0


def test_pool_is_the_same_in_every_process():
    molecule = Molecule.from_smiles(ASPIRIN)
    first = conformer_pool(molecule)
    assert conformer_pool(Molecule.from_smiles("OC(=O)c1ccccc1OC(C)=O")) is first
    conformers._pool_or_error.cache_clear()
    again = conformer_pool(molecule)
    assert again is not first
    assert (again.positions == first.positions).all()
    other = conformer_pool(molecule, seed=5)
    assert (
        other.positions.shape != first.positions.shape or (other.positions != first.positions).any()
    )
    conformers._pool_or_error.cache_clear()


def test_conformers_differ():
    pool = conformer_pool(Molecule.from_smiles("CCCCO"))
    assert len(pool) > 3
    for a in range(len(pool)):
        for b in range(a):
            assert conformers._rmsd(pool.heavy[a], pool.heavy[b]) > 0.15


@pytest.mark.parametrize(
    ("smiles", "force_field"),
    [("OB(O)c1ccccc1", "UFF"), ("C[As](C)C", "UFF"), ("C[Si](C)(C)C", "MMFF94"), ("O", "MMFF94")],
)
def test_other_elements_have_conformers(smiles, force_field):
    pool = conformer_pool(Molecule.from_smiles(smiles))
    assert pool.force_field == force_field
    assert np.isfinite(pool.positions).all()
    n = pool.molecule.n_heavy
    assert pool.positions.shape[1:] == (pool.molecule.n_atoms, 3)
    parents = hydrogen_parents(pool.molecule)
    length = np.linalg.norm(pool.positions[:, n:] - pool.positions[:, parents], axis=-1)
    assert ((length > 0.9) & (length < 1.65)).all()


def test_stereo_of_the_smiles_is_in_every_conformer():
    molecule = Molecule.from_smiles("C[C@H](O)[C@@H](N)C(=O)O")
    pool = conformer_pool(molecule)
    assert len(pool.stereo) == 2
    assert all(pool.stereo.count_flipped(x) == 0 for x in pool.positions)
    assert (pool.stereo_senses != 0).all()


@pytest.mark.parametrize(
    ("smiles", "count"),
    [
        ("c1ccccc1", 12),
        ("Clc1ccccc1", 2),
        ("CC(C)(C)C", 24),
        ("C12C3C4C1C5C2C3C45", 48),
        (OBEQOD, 8),  # two nitro groups turn, the whole molecule mirrors
        (ASPIRIN, 1),  # C=O and C-OH differ
        ("[NH3+]CC([O-])=O", 2),
        ("Cc1c[nH]cn1", 1),  # N and NH of the ring differ
        ("CC(=O)C=C(C)O", 1),  # keto and enol side differ
        ("C[C@H]1CC[C@@H](C)CC1", 4),
        ("O", 1),
    ],
)
def test_symmetries_of_the_graph(smiles, count):
    molecule = Molecule.from_smiles(smiles)
    symmetries = heavy_automorphisms(molecule)
    assert len(symmetries) == count
    assert (symmetries[0] == np.arange(molecule.n_heavy)).all()
    edges = {tuple(sorted(b)) for b in molecule.bonds.tolist()}
    for order in symmetries:
        assert (molecule.numbers[order] == molecule.numbers).all()
        assert (molecule.hydrogen_counts[order] == molecule.hydrogen_counts).all()
        assert {tuple(sorted(order[list(b)].tolist())) for b in edges} == edges


def test_symmetries_are_capped():
    molecule = Molecule.from_smiles("CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1")
    assert len(heavy_automorphisms(molecule)) == 192
    assert len(heavy_automorphisms(molecule, limit=10)) == 10


def test_hydrogens_go_with_their_heavy_atom():
    molecule = Molecule.from_smiles("CCC(C)C")
    pool = conformer_pool(molecule)
    parents = hydrogen_parents(molecule)
    n = molecule.n_heavy
    order = pool.permutation_with_hydrogens(pool.automorphisms[1])
    assert sorted(order) == list(range(molecule.n_atoms))
    assert (parents[order[n:] - n] == order[parents]).all()


def test_impossible_molecule_fails_clearly_and_once(monkeypatch):
    calls = []

    def fail(mol, *_):
        calls.append(mol)
        return []

    conformers._pool_or_error.cache_clear()
    monkeypatch.setattr(conformers.rdDistGeom, "EmbedMultipleConfs", fail)
    molecule = Molecule.from_smiles("CCCN")
    with pytest.raises(ConformerError, match="'CCCN' could be embedded"):
        conformer_pool(molecule)
    tried = len(calls)
    assert tried > 1  # random starts and plain distance geometry were tried as well
    with pytest.raises(ConformerError):
        conformer_pool(molecule)
    assert len(calls) == tried
    monkeypatch.undo()
    conformers._pool_or_error.cache_clear()
    assert len(conformer_pool(molecule)) >= 1
