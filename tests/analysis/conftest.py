"""Crystals with known symmetry, built from an embedded molecule and space-group operations."""

from __future__ import annotations

from collections.abc import Callable

import gemmi
import numpy as np
import pytest
from rdkit.Chem import AllChem

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell

SMILES = "CC(O)c1ccc(Cl)nc1"  # chiral, no symmetry of its own, hydroxyl and halogen


def conformer(molecule: Molecule, seed: int = 7) -> np.ndarray:
    mol = AllChem.Mol(molecule.rdmol_h)
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    x = mol.GetConformer().GetPositions()
    return x - x.mean(axis=0)


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def in_space_group(
    molecule: Molecule,
    space_group: str,
    parameters: tuple[float, ...],
    centres: list[tuple[float, float, float]],
    turn: int = 3,
) -> Crystal:
    """All symmetry mates of one molecule per centre (fractional), each differently oriented."""
    cell = parameters_to_cell(parameters)
    inverse = np.linalg.inv(cell)
    shape = conformer(molecule)
    positions = []
    for k, centre in enumerate(centres):
        frac = (shape @ rotation(turn + k)) @ inverse + np.array(centre)
        for op in gemmi.SpaceGroup(space_group).operations():
            seitz = np.array(op.float_seitz())
            moved = frac @ seitz[:3, :3].T + seitz[:3, 3]
            moved -= np.floor(moved.mean(axis=0))
            positions.append(moved @ cell)
    z = len(positions)
    return Crystal(np.tile(molecule.numbers_h, z), np.concatenate(positions), cell, z)


@pytest.fixture(scope="session")
def molecule() -> Molecule:
    return Molecule.from_smiles(SMILES)


@pytest.fixture(scope="session")
def build(molecule: Molecule) -> Callable[..., Crystal]:
    def make(space_group, parameters, centres, turn=3, of=molecule):
        return in_space_group(of, space_group, parameters, centres, turn)

    return make


@pytest.fixture(scope="session")
def monoclinic(build) -> Crystal:
    """P2_1/c, Z = 4, Z' = 1."""
    return build("P 1 21/c 1", (9.6, 8.4, 11.0, 90, 104, 90), [(0.21, 0.17, 0.28)], turn=6)


@pytest.fixture(scope="session")
def triclinic(build) -> Crystal:
    """P-1, Z = 2, another packing of the same molecule."""
    return build("P -1", (7.2, 8.1, 9.0, 81, 98, 107), [(0.23, 0.31, 0.27)], turn=130)
