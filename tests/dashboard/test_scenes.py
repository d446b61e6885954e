"""What the 3D viewer is given: atoms, bonds, cells, and overlays that lie where they should."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic_campaign import UREA_CIF

from dashboard.scenes import make_scene, molecule_bonds
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal


@pytest.fixture(scope="module")
def urea():
    return read_cif(UREA_CIF)


def test_a_cell_has_its_atoms_bonds_and_edges(urea):
    scene = make_scene(urea, "cell")
    (model,) = scene["models"]
    assert (scene["atoms"], scene["cell_atoms"]) == (16, 16)
    assert sorted(model["elements"]) == sorted(["C", "O", "N", "N", "H", "H", "H", "H"] * 2)
    assert len(model["bonds"]) == 2 * 7  # C=O, two C-N, four N-H
    assert len(scene["edges"]) == 12
    lengths = sorted(np.linalg.norm(np.subtract(a, b)) for a, b in scene["edges"])
    assert lengths == pytest.approx(sorted(4 * list(np.linalg.norm(urea.cell, axis=1))), abs=1e-3)


def test_a_supercell_and_a_molecule(urea):
    supercell = make_scene(urea, "supercell")
    assert (supercell["atoms"], supercell["cell_atoms"]) == (8 * 16, 16)
    assert len(supercell["models"][0]["bonds"]) == 16 * 7
    assert "2 × 2 × 2" in supercell["note"]
    assert make_scene(urea, "molecule")["atoms"] == 8


def test_a_huge_cell_is_not_repeated(urea):
    big = urea.repeated((8, 8, 4))
    scene = make_scene(big, "supercell")
    assert scene["atoms"] == len(big) == 4096
    assert "1 × 1 × 1" in scene["note"]


def test_bonds_never_join_two_molecules():
    numbers = np.array([6, 8, 6, 8])
    positions = np.array([[0, 0, 0], [0, 0, 1.2], [0, 0, 2.4], [0, 0, 3.6]], dtype=float)
    assert molecule_bonds(numbers, positions, 2).tolist() == [[0, 1], [2, 3]]
    assert len(molecule_bonds(numbers, positions, 1)) == 3


def test_an_overlay_lays_a_turned_copy_onto_the_reference(urea):
    turn = Rotation.from_euler("xyz", [40, -25, 110], degrees=True).as_matrix()
    turned = Crystal(urea.numbers, urea.positions @ turn + 1.3, urea.cell @ turn, urea.z)
    scene = make_scene(turned, "overlay", urea)
    candidate, known = (np.array(m["positions"]).reshape(15, 4, 3) for m in scene["models"])
    assert "15 of 15 molecules match" in scene["note"]
    apart = np.linalg.norm(candidate.mean(axis=1) - known.mean(axis=1), axis=1)
    assert apart.max() < 0.05
    assert [m["colour"] for m in scene["models"]] == ["candidate", "reference"]
    assert scene["edges"] == []


def test_no_overlay_without_a_reference_or_with_another_molecule(urea):
    assert make_scene(urea, "overlay")["models"] == []
    other = Crystal(np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 1.2]]), np.eye(3) * 5, 1)
    scene = make_scene(other, "overlay", urea)
    assert scene["models"] == []
    assert scene["note"].startswith("No overlay")
