"""Synthetic crystals: sound molecules, close-packed, symmetric, accounted for."""

import numpy as np
import pytest
import spglib

from packflow_core.baselines.random_packing import PackParams, expected_volume
from packflow_core.chem.conformers import ConformerError
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import cell_to_parameters, parameters_to_cell
from packflow_core.training import synthetic_crystals
from packflow_core.training.data import ANGLE_RANGE
from packflow_core.training.synthetic_crystals import CrystalParams, molecule_crystals

ESTER = "COC(=O)c1ccccc1N"
LOOSE = PackParams(volume_factor=2.0, min_contact=0.7)
IN_P21C = CrystalParams(
    pack=LOOSE.model_copy(update={"space_groups": (14,), "special_positions": False})
)


@pytest.fixture(scope="module")
def ester():
    return molecule_crystals(ESTER, 8, 1, IN_P21C)


def heavy(made, k):
    molecule = Molecule.from_smiles(made.smiles)
    numbers = np.tile(molecule.numbers, made.z[k])
    return Crystal(numbers, made.positions[k].reshape(-1, 3), made.cells[k], made.z[k])


def test_every_attempt_is_accounted_for(ester):
    assert ester.attempted == 8
    assert len(ester) + sum(ester.failed.values()) == 8
    assert len(ester) >= 6


def test_molecules_are_conformers(ester):
    """Distances inside each molecule are those of one of its ETKDG conformers."""
    params = IN_P21C
    draft = synthetic_crystals._draft(Molecule.from_smiles(ESTER), 1, params)
    known = np.stack([_distances(x) for x in draft.pool.heavy[draft.usable]])
    for crystal in ester.positions:
        for x in crystal:
            off = np.abs(known - _distances(x)).max(axis=(1, 2))
            assert off.min() < 1e-6


def test_crystals_are_close_packed(ester):
    expected = expected_volume(Molecule.from_smiles(ESTER).numbers_h, temperature_K=0.0)
    ratio = [np.linalg.det(c) / z / expected for c, z in zip(ester.cells, ester.z, strict=True)]
    assert 0.93 < np.median(ratio) < 1.07
    for k in range(len(ester)):
        assert min_contact_ratio(heavy(ester, k)).ratio > 0.849


def test_space_group_is_that_asked_for(ester):
    for k in range(len(ester)):
        crystal = heavy(ester, k)
        cell = (crystal.cell, crystal.fractional, crystal.numbers)
        assert spglib.get_spacegroup(cell, symprec=1e-3).endswith("(14)")


def test_cells_are_in_the_frame_and_range_of_the_model(ester):
    for cell in ester.cells:
        parameters = cell_to_parameters(cell)
        np.testing.assert_allclose(cell, parameters_to_cell(parameters), atol=1e-8)
        assert (parameters[3:] >= ANGLE_RANGE[0]).all()
        assert (parameters[3:] <= ANGLE_RANGE[1]).all()
        assert parameters[0] <= parameters[1] <= parameters[2]


def test_fewer_crystals_are_the_first_of_more(ester):
    again = molecule_crystals(ESTER, 2, 1, IN_P21C)
    assert again.contact == ester.contact
    np.testing.assert_array_equal(again.positions[0], ester.positions[0])
    other = molecule_crystals(ESTER, 1, 2, IN_P21C)
    assert not np.allclose(np.linalg.det(other.cells[0]), np.linalg.det(ester.cells[0]))


def test_diameter_follows_the_shape():
    """A globular molecule, which packs badly, gets smaller spheres than a flat one."""
    few = IN_P21C.model_copy(update={"trials": 4})
    globular = molecule_crystals("COC(=O)C(C)(C)C(C)(C)OC(C)=O", 1, 0, few)
    flat = molecule_crystals("c1ccc2sc3ccccc3c2c1", 1, 0, few)
    assert globular.contact <= flat.contact - 0.04


def test_enantiopure_crystals_hold_one_hand():
    made = molecule_crystals("C[C@H](N)C(=O)O", 6, 0, CrystalParams(conformers=2, trials=2))
    assert len(made) >= 3
    rdmol = Molecule.from_smiles(made.smiles).rdmol
    centre = next(a for a in rdmol.GetAtoms() if a.GetDegree() == 3 and a.GetTotalNumHs() == 1)
    i, (a, b, c) = centre.GetIdx(), [n.GetIdx() for n in centre.GetNeighbors()]
    hands = set()
    for crystal in made.positions:
        arms = crystal[:, [a, b, c]] - crystal[:, [i]]
        hands |= set(np.sign(np.linalg.det(arms)).tolist())
    assert len(hands) == 1


def test_cells_stay_within_the_largest_size():
    """With eleven heavy atoms, 30 hold no more than two molecules."""
    made = molecule_crystals(ESTER, 5, 0, CrystalParams(max_cell=30, conformers=2, trials=0))
    assert made.z
    assert max(made.z) == 2
    assert {x.shape[1] for x in made.positions} == {11}
    none = molecule_crystals(ESTER, 5, 0, CrystalParams(max_cell=10, conformers=2, trials=0))
    assert none.failed == {"z": 5}


def test_bad_volumes_are_counted():
    strict = IN_P21C.model_copy(update={"max_volume_error": 1e-6, "trials": 0})
    assert molecule_crystals(ESTER, 3, 0, strict).failed == {"volume": 3}


def test_a_molecule_without_conformers_is_counted(monkeypatch):
    def fail(*_):
        raise ConformerError("none")

    monkeypatch.setattr(synthetic_crystals, "conformer_pool", fail)
    assert molecule_crystals(ESTER, 3, 0, CrystalParams()).failed == {"conformer": 3}


def _distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)
