"""Bonds and angles of molecules and of known crystals."""

import numpy as np
import pytest

from packflow_core.chem.molecule import Molecule
from packflow_core.evaluation.geometry import (
    angle_triples,
    bond_angles,
    bonds_of_known_form,
    lattice_of,
)


def test_angles_of_a_square_with_a_tail():
    bonds = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 4]])
    x = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, -1, 0]], dtype=float)
    triples = angle_triples(bonds)
    assert len(triples) == 3 + 1 + 1 + 1
    found = {tuple(t): a for t, a in zip(triples.tolist(), bond_angles(x, triples), strict=True)}
    assert found[1, 0, 3] == pytest.approx(90)
    assert found[1, 0, 4] == pytest.approx(135)
    assert sorted(found.values()) == pytest.approx([90, 90, 90, 90, 135, 135])
    stacked = bond_angles(np.stack([x, 2 * x]), triples)
    assert stacked.shape == (2, 6)
    assert np.allclose(stacked[0], stacked[1])
    assert angle_triples(np.empty((0, 2), dtype=int)).shape == (0, 3)


def test_a_known_crystal_needs_neither_order_nor_whole_molecules(crystals):
    benzene = crystals["benzene"].heavy_only()
    n_bonds = len(Molecule.from_smiles("c1ccccc1").bonds)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(benzene))
    jumps = rng.integers(-2, 3, (len(benzene), 3)) @ benzene.cell
    torn = type(benzene)(
        benzene.numbers[order], (benzene.positions + jumps)[order], benzene.cell, benzene.z
    )
    for crystal in (benzene, torn):
        lengths, angles = bonds_of_known_form(crystal, n_bonds)
        assert len(lengths) == len(angles) == 4 * 6
        assert lengths == pytest.approx(1.39, abs=0.02)
        assert angles == pytest.approx(120, abs=1)
    assert bonds_of_known_form(benzene, n_bonds - 1) is None


def test_lattices_are_those_of_the_reduced_cell(crystals):
    cell = crystals["urea"].cell
    sheared = np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]]) @ cell
    assert lattice_of(sheared) == pytest.approx(lattice_of(cell))
    assert lattice_of(cell) == pytest.approx([4.684, 5.565, 5.565, 90, 90, 90])
