"""Broken and formed bonds, named by atom."""

import numpy as np
import pytest

from packflow_core.analysis.connectivity import bond_validity, check_connectivity
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal


def moved(crystal: Crystal, atom: int, to: np.ndarray) -> Crystal:
    positions = crystal.positions.copy()
    positions[atom] = to
    return crystal.with_positions(positions)


def bond_of_hydroxyl(molecule: Molecule) -> tuple[int, int]:
    """(oxygen, hydrogen) of the one OH group."""
    for a, b in molecule.bonds_h:
        if molecule.numbers_h[a] == 8 and molecule.numbers_h[b] == 1:
            return int(a), int(b)
    raise AssertionError


def test_intact_crystals_are_unchanged(molecule, monoclinic, triclinic):
    for crystal in (monoclinic, triclinic, monoclinic.heavy_only()):
        found = check_connectivity(crystal, molecule)
        assert found.unchanged, found.describe()
        assert found.describe() == ""


def test_a_far_hydrogen_is_a_broken_bond(molecule, monoclinic):
    oxygen, hydrogen = bond_of_hydroxyl(molecule)
    n = molecule.n_atoms
    x = monoclinic.positions
    away = x[n + oxygen] + 1.45 * (x[n + hydrogen] - x[n + oxygen]) / 0.97
    found = check_connectivity(moved(monoclinic, n + hydrogen, away), molecule)
    assert found.broken == (f"O{oxygen + 1}-H{hydrogen + 1} of molecule 2",)
    assert found.formed == ()
    assert found.describe() == f"O{oxygen + 1}-H{hydrogen + 1} of molecule 2 broken"


def methanol_pair(oh: float, ho: float) -> tuple[Molecule, Crystal]:
    """Two methanols in a large cell, O-H...O collinear with the given O-H and H...O, in Å."""
    molecule = Molecule.from_smiles("CO")
    assert molecule.numbers_h.tolist() == [6, 8, 1, 1, 1, 1]
    methyl = np.array([[-1.43, 0.2, 0], [-1.8, 1.2, 0.1], [-1.8, -0.3, 0.9], [-1.8, -0.3, -0.9]])
    donor = np.stack([methyl[0], [0, 0, 0], *methyl[1:], [oh, 0, 0]])
    mirror = methyl * np.array([-1, 1, 1])
    acceptor = np.stack([mirror[0], [0, 0, 0], *mirror[1:], [-0.25, -0.93, 0]])
    acceptor = acceptor + np.array([oh + ho, 0, 0])
    numbers = np.tile(molecule.numbers_h, 2)
    return molecule, Crystal(numbers, np.concatenate([donor, acceptor]), np.eye(3) * 14, 2)


def test_a_short_hydrogen_bond_is_no_proton_transfer():
    molecule, crystal = methanol_pair(1.15, 1.30)
    assert check_connectivity(crystal, molecule).unchanged


@pytest.mark.parametrize(("oh", "ho"), [(1.55, 0.98), (1.30, 1.12)])
def test_proton_transfer_is_named_on_both_sides(oh, ho):
    molecule, crystal = methanol_pair(oh, ho)
    found = check_connectivity(crystal, molecule)
    assert found.broken == ("O2-H6 of molecule 1",)
    assert found.formed == ("H6-O2 between molecules 1 and 2",)


def test_transfer_across_the_cell_edge(molecule):
    """The same pair with the acceptor moved by one lattice vector is the same finding."""
    molecule, crystal = methanol_pair(1.55, 0.98)
    positions = crystal.positions.copy()
    positions[6:] -= crystal.cell[0]
    found = check_connectivity(crystal.with_positions(positions), molecule)
    assert found.formed == ("H6-O2 between molecules 1 and 2",)


def test_heavy_atoms_that_join_molecules(molecule, triclinic):
    n = molecule.n_atoms
    carbon = int(np.flatnonzero(molecule.numbers_h == 6)[0])
    target = triclinic.positions[carbon] + np.array([0.0, 0.0, 1.55])
    shifted = triclinic.positions.copy()
    shifted[n:] += target - shifted[n + carbon]
    found = check_connectivity(triclinic.with_positions(shifted), molecule)
    name = f"C{carbon + 1}"
    assert f"{name}-{name} between molecules 1 and 2" in found.formed


def test_an_image_of_the_same_molecule_counts_once():
    molecule = Molecule.from_smiles("C")
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
    positions = np.concatenate([[[0, 0, 0]], corners])
    crystal = Crystal(molecule.numbers_h, positions, np.diag([1.6, 9.0, 9.0]), 1)
    formed = check_connectivity(crystal, molecule).formed
    assert formed.count("C1-C1 between molecule 1 and its image") == 1
    assert check_connectivity(
        Crystal(molecule.numbers_h, positions, np.eye(3) * 9.0, 1), molecule
    ).unchanged


def test_strained_rings_are_not_formed_bonds():
    """The bridgeheads of bicyclo[1.1.1]pentane are 1.87 Å apart and not bonded."""
    molecule = Molecule.from_smiles("C1C2CC1C2")
    bridgeheads = [k for k in range(5) if (molecule.bonds == k).sum() == 3]
    others = [k for k in range(5) if k not in bridgeheads]
    x = np.zeros((5, 3))
    x[bridgeheads] = [[0, 0, 0.935], [0, 0, -0.935]]
    angle = 2 * np.pi * np.arange(3) / 3
    x[others] = 1.23 * np.stack([np.cos(angle), np.sin(angle), np.zeros(3)], axis=1)
    crystal = Crystal(molecule.numbers, x, np.eye(3) * 12.0, 1)
    assert check_connectivity(crystal, molecule).unchanged
    x[bridgeheads] *= 0.8
    found = check_connectivity(crystal.with_positions(x), molecule)
    assert len(found.formed) == 1


def test_many_changes_are_cut_in_the_description(molecule, monoclinic):
    stretched = monoclinic.with_positions(monoclinic.positions * 2.0, monoclinic.cell * 2.0)
    found = check_connectivity(stretched, molecule)
    assert len(found.broken) == 4 * len(molecule.bonds_h)
    assert found.describe().endswith(f"and {len(found.broken) - 6} more")


def test_another_molecule_is_refused(monoclinic):
    with pytest.raises(ValueError, match="are not 4 times"):
        check_connectivity(monoclinic, Molecule.from_smiles("c1ccccc1"))


def test_bond_validity_counts_heavy_atom_bonds(molecule, monoclinic):
    fraction, error = bond_validity(monoclinic, molecule)
    assert fraction == 1.0
    assert 0 < error < 0.15
    terminal = int(np.flatnonzero(molecule.numbers_h == 17)[0])
    carbon = next(int(a + b - terminal) for a, b in molecule.bonds if terminal in (a, b))
    x = monoclinic.positions
    direction = (x[terminal] - x[carbon]) / np.linalg.norm(x[terminal] - x[carbon])
    stretched = moved(monoclinic, terminal, x[carbon] + (0.76 + 1.02 + 0.55) * direction)
    fraction, error = bond_validity(stretched, molecule)
    assert fraction == pytest.approx(1 - 1 / (4 * len(molecule.bonds)))
    assert error == pytest.approx(0.55)
    assert bond_validity(stretched.heavy_only(), molecule) == (fraction, error)


def test_a_molecule_without_bonds_is_valid():
    methane = Molecule.from_smiles("C")
    assert bond_validity(Crystal([6], [[0, 0, 0]], np.eye(3) * 4, 1), methane) == (1.0, 0.0)
