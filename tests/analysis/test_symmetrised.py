"""The asymmetric unit gives the crystal back: through our reader, pymatgen, ASE and gemmi."""

import warnings

import numpy as np
import pytest

from packflow_core.analysis.similarity import matches
from packflow_core.analysis.symmetrised import expand, symmetrise
from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.symmetric_cif import symmetric_cif_text

# Roomy, so that no molecules touch and each is found by its distances.
TRICLINIC = (12.2, 12.9, 13.8, 81, 98, 107)
MONOCLINIC = (17.1, 15.2, 18.3, 90, 104, 90)
MONOCLINIC_C = (28, 15, 19, 90, 104, 90)
GENERAL = (0.21, 0.17, 0.28)


def benzene_on_inversion_centres() -> Crystal:
    """P2_1/c, Z = 2, Z' = 1/2."""
    benzene = Molecule.from_smiles("c1ccccc1")
    angle = np.radians(60 * np.arange(6))
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(6)], axis=1)
    flat = np.concatenate([1.39 * ring, 2.47 * ring])
    tilt = np.array([[0.8, 0.36, 0.48], [-0.6, 0.48, 0.64], [0, -0.8, 0.6]])
    cell = np.array([[7.4, 0, 0], [0, 9.4, 0], [-1.7, 0, 6.6]])
    first = flat @ tilt
    second = first * np.array([-1, 1, -1]) + 0.5 * (cell[1] + cell[2])
    return Crystal(np.tile(benzene.numbers_h, 2), np.concatenate([first, second]), cell, 2)


def distances(crystal: Crystal, cutoff: float = 6.0) -> np.ndarray:
    """Sorted distances per molecule up to a cutoff, by ASE: the same for the same crystal."""
    from ase.neighborlist import neighbor_list

    found = np.sort(neighbor_list("d", crystal.to_ase(), cutoff))
    return found.reshape(-1, crystal.z).mean(axis=1) if len(found) % crystal.z == 0 else found


def written(crystal: Crystal, tmp_path):
    found = symmetrise(crystal)
    path = tmp_path / "x.cif"
    path.write_text(symmetric_cif_text(found, "x y", {"rank": "1"}), encoding="ascii")
    return found, path


@pytest.mark.parametrize(
    ("group", "parameters", "centres", "z_prime"),
    [
        ("P 1", TRICLINIC, [GENERAL, (0.7, 0.6, 0.8)], 2.0),
        ("P -1", TRICLINIC, [GENERAL], 1.0),
        ("P 1 21/n 1", MONOCLINIC, [GENERAL], 1.0),
        ("P 1 21/c 1", (30, 19, 23, 90, 104, 90), [GENERAL, (0.5, 0.25, 0.25)], 2.0),
        ("C 1 2/c 1", MONOCLINIC_C, [(0.12, 0.2, 0.1)], 1.0),
        ("P 43", (17, 17, 23, 90, 90, 90), [(0.2, 0.3, 0.1)], 1.0),
        ("P b c a", (17, 19, 29, 90, 90, 90), [GENERAL], 1.0),
        ("R -3", (38, 38, 18, 90, 90, 120), [(0.2, 0.05, 0.3)], 1.0),
    ],
)
def test_the_asymmetric_unit_is_the_crystal(build, tmp_path, group, parameters, centres, z_prime):
    exact = build(group, parameters, centres)
    noise = np.random.default_rng(1).normal(size=exact.positions.shape)
    crystal = exact.with_positions(exact.positions + 0.002 * noise)
    found, path = written(crystal, tmp_path)
    assert found.number == find_symmetry(crystal).number
    assert found.z_prime == pytest.approx(z_prime)
    assert len(found.numbers) == round(z_prime) * len(crystal) // crystal.z
    assert 0.0005 < found.rmsd_A < 0.006 or group == "P 1"
    back = read_cif(path)
    assert back.z == found.z
    assert back.density == pytest.approx(crystal.density, rel=2e-3)
    overlay = matches(back, crystal)
    assert overlay.full
    assert overlay.rmsd < 0.01
    assert find_symmetry(back, 1e-4).number == found.number


def test_monoclinic_crystals_are_written_upright(build, tmp_path):
    crystal = build("P 1 21/n 1", (17.1, 15.2, 18.3, 90, 92, 90), [GENERAL])
    _, path = written(crystal, tmp_path)
    assert "_space_group_name_H-M_alt 'P 1 21/n 1'" in path.read_text()
    assert "_space_group_IT_number 14" in path.read_text()
    back = read_cif(path)
    assert np.sort(back.parameters) == pytest.approx(np.sort(crystal.parameters))
    assert np.abs(distances(back) - distances(crystal)).max() < 1e-9


@pytest.mark.parametrize(
    ("group", "parameters", "centre"),
    [
        ("C 1 2/c 1", MONOCLINIC_C, (0.12, 0.2, 0.1)),
        ("P 1 21/n 1", (17.1, 15.2, 18.3, 90, 92, 90), GENERAL),
        ("R -3", (38, 38, 18, 90, 90, 120), (0.2, 0.05, 0.3)),
    ],
)
def test_other_programs_read_the_same_crystal(build, tmp_path, group, parameters, centre):
    crystal = build(group, parameters, [centre])
    _, path = written(crystal, tmp_path)
    import gemmi
    from ase.io import read
    from pymatgen.io.cif import CifParser

    wanted = distances(crystal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = CifParser(path).parse_structures(primitive=False)[0]
        by_ase = read(path)
    small = gemmi.read_small_structure(str(path))
    assert small.spacegroup.hm == group
    assert len(structure) == len(by_ase) == len(crystal)
    for other in (Crystal.from_pymatgen(structure, crystal.z), Crystal.from_ase(by_ase, crystal.z)):
        found = distances(other)
        assert len(found) == len(wanted)
        assert np.abs(found - wanted).max() < 1e-6


def test_a_molecule_on_an_inversion_centre_is_half_written(tmp_path):
    crystal = benzene_on_inversion_centres()
    found, path = written(crystal, tmp_path)
    assert (found.symbol, found.z, found.z_prime) == ("P2_1/c", 2, 0.5)
    assert np.bincount(found.numbers)[[1, 6]].tolist() == [3, 3]
    # The three carbons hang together, each with its hydrogen.
    x = found.frac @ found.cell
    carbon, hydrogen = x[found.numbers == 6], x[found.numbers == 1]
    apart = np.linalg.norm(carbon[:, None] - carbon[None], axis=-1)[np.triu_indices(3, 1)]
    assert np.sort(apart) == pytest.approx([1.39, 1.39, 1.39 * 3**0.5], abs=1e-6)
    nearest = np.linalg.norm(carbon[:, None] - hydrogen[None], axis=-1).min(axis=1)
    assert nearest == pytest.approx([1.08] * 3, abs=1e-6)
    text = path.read_text()
    assert "_cell_formula_units_Z 2" in text
    assert "_chemical_formula_sum 'C6 H6'" in text
    back = read_cif(path)
    assert (back.z, len(back)) == (2, 24)
    assert np.abs(distances(back) - distances(crystal)).max() < 1e-9


def test_primitive_cells_and_supercells_give_the_same_asymmetric_unit(build):
    crystal = build("C 1 2/c 1", MONOCLINIC_C, [(0.12, 0.2, 0.1)])
    double = symmetrise(crystal.repeated((1, 2, 1)))
    single = symmetrise(crystal)
    assert (double.symbol, double.z, len(double.numbers)) == ("C2/c", 8, len(single.numbers))
    numbers, frac = expand(double)
    assert len(numbers) == len(crystal)
    assert len(frac) == len(crystal)


def test_the_hand_of_the_molecules_stays(molecule, build, tmp_path):
    crystal = build("P 43", (17, 17, 23, 90, 90, 90), [(0.2, 0.3, 0.1)])
    chiral = Molecule.from_smiles("C[C@H](O)c1ccc(Cl)nc1")
    stereo = stereo_of(chiral)
    assert chiral.numbers_h.tolist() == molecule.numbers_h.tolist()
    written_hand = [
        stereo.inverted_in(x).any() for x in crystal.positions.reshape(crystal.z, -1, 3)
    ]
    found, path = written(crystal, tmp_path)
    assert found.symbol == "P4_3"
    back = read_cif(path)
    hands = [stereo.inverted_in(x).any() for x in back.positions.reshape(back.z, -1, 3)]
    assert hands == written_hand


def test_broken_symmetry_is_written_in_a_lower_group(monoclinic):
    """Beyond the tolerance the written crystal follows the atoms, not the wished symmetry."""
    n = len(monoclinic) // 4
    positions = monoclinic.positions.copy()
    positions[:n] += [0.0, 0.4, 0.0]
    found = symmetrise(monoclinic.with_positions(positions))
    assert found.number < 14
    assert found.rmsd_A < 0.1


def test_what_spglib_refuses_gives_none():
    twice = Crystal([6, 6], [[0, 0, 0], [0, 0, 0]], np.eye(3) * 5.0, 1)
    assert symmetrise(twice) is None
