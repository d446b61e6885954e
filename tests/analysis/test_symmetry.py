"""Space groups and Z' of crystals whose symmetry is known by construction."""

import numpy as np
import pytest

from packflow_core.analysis.symmetry import find_symmetry, space_group_ladder
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal

TRICLINIC = (7.2, 7.9, 8.8, 81, 98, 107)
MONOCLINIC = (9.1, 8.2, 11.3, 90, 104, 90)
GENERAL = (0.21, 0.17, 0.28)


@pytest.mark.parametrize(
    ("group", "parameters", "centres", "number", "z", "z_prime"),
    [
        ("P 1", TRICLINIC, [GENERAL, (0.7, 0.6, 0.8)], 1, 2, 2.0),
        ("P -1", TRICLINIC, [GENERAL], 2, 2, 1.0),
        ("P 1 21 1", MONOCLINIC, [GENERAL], 4, 2, 1.0),
        ("P 1 21/c 1", MONOCLINIC, [GENERAL], 14, 4, 1.0),
        ("P 1 21/n 1", MONOCLINIC, [GENERAL], 14, 4, 1.0),
        ("P 1 21/c 1", MONOCLINIC, [GENERAL, (0.7, 0.45, 0.15)], 14, 8, 2.0),
        ("C 1 2/c 1", (18, 8, 12, 90, 104, 90), [(0.12, 0.2, 0.1)], 15, 8, 1.0),
        ("P b c a", (9, 12, 19, 90, 90, 90), [GENERAL], 61, 8, 1.0),
        ("R -3", (22, 22, 9, 90, 90, 120), [(0.2, 0.05, 0.3)], 148, 18, 1.0),
    ],
)
def test_known_space_groups(build, group, parameters, centres, number, z, z_prime):
    crystal = build(group, parameters, centres)
    assert crystal.z == z
    found = find_symmetry(crystal)
    assert (found.number, found.z_prime) == (number, pytest.approx(z_prime))


def primitive_of_c_centred(crystal: Crystal) -> Crystal:
    """The same crystal in a primitive cell with half of the molecules."""
    a, b, c = crystal.cell
    cell = np.array([(a - b) / 2, (a + b) / 2, c])
    centroids = crystal.positions.reshape(crystal.z, -1, 3).mean(axis=1) @ np.linalg.inv(cell)
    keys = np.round(centroids - np.floor(centroids + 1e-6), 4)
    _, first = np.unique(keys, axis=0, return_index=True)
    positions = crystal.positions.reshape(crystal.z, -1, 3)[np.sort(first)].reshape(-1, 3)
    numbers = crystal.numbers[: len(positions)]
    return Crystal(numbers, positions, cell, len(first))


def test_primitive_cell_of_a_centred_lattice(build):
    conventional = build("C 1 2/c 1", (18, 8, 12, 90, 104, 90), [(0.12, 0.2, 0.1)])
    primitive = primitive_of_c_centred(conventional)
    assert primitive.z == 4
    found = find_symmetry(primitive)
    assert (found.symbol, found.z_prime) == ("C2/c", 1.0)


def test_supercell_keeps_z_prime(triclinic):
    found = find_symmetry(triclinic.repeated((2, 1, 1)))
    assert (found.symbol, found.z_prime) == ("P-1", 1.0)


def test_molecule_on_an_inversion_centre():
    benzene = Molecule.from_smiles("c1ccccc1")
    angle = np.radians(60 * np.arange(6))
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(6)], axis=1)
    flat = np.concatenate([1.39 * ring, 2.47 * ring])
    tilt = np.array([[0.8, 0.36, 0.48], [-0.6, 0.48, 0.64], [0, -0.8, 0.6]])
    cell = np.array([[7.4, 0, 0], [0, 9.4, 0], [-1.7, 0, 6.6]])
    first = flat @ tilt
    # The screw axis along b maps the molecule at the origin to the one at (0, 1/2, 1/2).
    second = first * np.array([-1, 1, -1]) + 0.5 * (cell[1] + cell[2])
    crystal = Crystal(np.tile(benzene.numbers_h, 2), np.concatenate([first, second]), cell, 2)
    found = find_symmetry(crystal)
    assert (found.symbol, found.z_prime) == ("P2_1/c", 0.5)


def test_small_noise_is_forgiven_and_large_noise_is_not(monoclinic):
    noise = np.random.default_rng(0).normal(size=monoclinic.positions.shape)
    slightly = monoclinic.with_positions(monoclinic.positions + 0.005 * noise)
    badly = monoclinic.with_positions(monoclinic.positions + 0.3 * noise)
    assert find_symmetry(slightly).number == 14
    assert find_symmetry(badly).number == 1
    assert find_symmetry(badly).z_prime == 4.0


def test_ladder_loses_the_symmetry_at_fine_tolerance(monoclinic):
    noise = np.random.default_rng(0).normal(size=monoclinic.positions.shape)
    crystal = monoclinic.with_positions(monoclinic.positions + 0.01 * noise)
    numbers = [found.number for found in space_group_ladder(crystal, (0.2, 0.0001))]
    assert numbers == [14, 1]


def test_failure_is_none_not_an_exception():
    twice = Crystal([6, 6], [[0, 0, 0], [0, 0, 0]], np.eye(3) * 5.0, 1)
    assert find_symmetry(twice) is None
