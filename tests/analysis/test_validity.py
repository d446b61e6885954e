"""What a relaxed crystal is refused for, and how it is named."""

import numpy as np
from rdkit.Chem import AllChem

from packflow_core.analysis.validity import describe_stereo_change, find_invalidity
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.validity_limits import ValidityLimits
from packflow_core.store.schema import Reason

LIMITS = ValidityLimits()
USUAL = 200.0  # Å3, near the volume of a molecule of the crystals here


def embedded(smiles: str) -> tuple[Molecule, np.ndarray]:
    molecule = Molecule.from_smiles(smiles)
    mol = AllChem.Mol(molecule.rdmol_h)
    assert AllChem.EmbedMolecule(mol, randomSeed=5) == 0
    x = mol.GetConformer().GetPositions()
    return molecule, x - x.mean(axis=0)


def far_apart(molecule: Molecule, shapes: list[np.ndarray]) -> Crystal:
    """Molecules in a row, 12 Å apart."""
    positions = np.concatenate([x + np.array([12.0 * k, 0, 0]) for k, x in enumerate(shapes)])
    cell = np.diag([12.0 * len(shapes), 12.0, 12.0])
    return Crystal(np.tile(molecule.numbers_h, len(shapes)), positions, cell, len(shapes))


def test_sound_crystals_pass(molecule, monoclinic, triclinic):
    for crystal in (monoclinic, triclinic, monoclinic.heavy_only(), triclinic.repeated((2, 1, 1))):
        assert find_invalidity(crystal, molecule, LIMITS, USUAL) is None


def test_a_proton_that_moved_is_named_with_both_of_its_atoms():
    molecule = Molecule.from_smiles("CO")
    methyl = np.array([[-1.43, 0.2, 0], [-1.8, 1.2, 0.1], [-1.8, -0.3, 0.9], [-1.8, -0.3, -0.9]])
    donor = np.stack([methyl[0], [0, 0, 0], *methyl[1:], [1.55, 0, 0]])
    mirror = methyl * [-1, 1, 1]
    acceptor = np.stack([mirror[0], [0, 0, 0], *mirror[1:], [-0.25, -0.93, 0]])
    acceptor += np.array([2.53, 0, 0])
    crystal = Crystal(
        np.tile(molecule.numbers_h, 2), np.concatenate([donor, acceptor]), np.eye(3) * 14, 2
    )
    found = find_invalidity(crystal, molecule, LIMITS)
    assert found == (Reason.PROTON_TRANSFER, "H6 from O2 of molecule 1 to O2 of molecule 2")
    # With a bond broken beside it, it is no mere transfer.
    positions = crystal.positions.copy()
    positions[2] += [-2.0, 0, 0]
    found = find_invalidity(crystal.with_positions(positions), molecule, LIMITS)
    assert found.reason == Reason.CONNECTIVITY
    assert "C1-H3 of molecule 1 broken" in found.detail
    assert found.detail.endswith("; 3 molecules instead of 2")


def test_molecules_that_join_are_counted(molecule, triclinic):
    n = molecule.n_atoms
    carbon = int(np.flatnonzero(molecule.numbers_h == 6)[0])
    shifted = triclinic.positions.copy()
    shifted[n:] += triclinic.positions[carbon] + [0.0, 0.0, 1.55] - shifted[n + carbon]
    found = find_invalidity(triclinic.with_positions(shifted), molecule, LIMITS)
    assert found.reason == Reason.CONNECTIVITY
    assert found.detail.endswith("; 1 molecules instead of 2")


def test_another_number_of_molecules(molecule, monoclinic):
    other = Molecule.from_smiles("c1ccccc1")
    found = find_invalidity(monoclinic, other, LIMITS)
    assert found == (
        Reason.Z_CHANGED,
        f"the {len(monoclinic)} atoms of the cell are not 4 times C6H6",
    )


def test_an_inverted_centre_is_named_and_a_racemate_may_have_both():
    molecule, x = embedded("C[C@H](O)F")
    centre = next(k for k in range(4) if (molecule.bonds == k).sum() == 3)
    both = far_apart(molecule, [x, x * [1, 1, -1]])
    found = find_invalidity(both, molecule, LIMITS)
    assert found == (Reason.STEREO, f"C{centre + 1} of molecule 2 inverted")
    assert find_invalidity(far_apart(molecule, [x, x]), molecule, LIMITS) is None
    assert find_invalidity(both, molecule.as_racemate(), LIMITS) is None
    tolerant = ValidityLimits(reject_stereo_change=False)
    assert find_invalidity(both, molecule, tolerant) is None


def test_a_double_bond_that_turned_is_named():
    _, cis = embedded("C/C=C\\Cl")
    trans, _ = embedded("C/C=C/Cl")
    atoms = [a.GetIdx() for a in trans.rdmol.GetAtoms() if a.IsInRing() is False]
    assert len(atoms) == 4
    text = describe_stereo_change(far_apart(trans, [cis]), trans)
    assert text == "C2=C3 of molecule 1 inverted"
    # A molecule without marked elements can change none.
    plain = Molecule.from_smiles("CC=CCl")
    assert describe_stereo_change(far_apart(plain, [cis]), plain) == ""


def test_density_window(molecule, monoclinic):
    """Molecules keep their shape, their places scale with the cell."""
    shapes = monoclinic.positions.reshape(monoclinic.z, -1, 3)
    away = 0.5 * shapes.mean(axis=1, keepdims=True)
    loose = monoclinic.with_positions((shapes + away).reshape(-1, 3), monoclinic.cell * 1.5)
    ratio = 4 * USUAL / loose.volume
    assert 0.2 < ratio < 0.3
    assert find_invalidity(loose, molecule, LIMITS, USUAL) is None
    for limits in (
        ValidityLimits(min_density_ratio=ratio + 0.01),
        ValidityLimits(max_density_ratio=ratio - 0.01),
    ):
        reason, detail = find_invalidity(loose, molecule, limits, USUAL)
        assert reason == Reason.DENSITY
        assert detail == (
            f"{ratio:.2f} times the density that the volumes of the atoms give "
            f"({loose.volume / 4:.0f} Å3 a molecule, usually 200)"
        )
        assert find_invalidity(loose, molecule, limits) is None


def test_collapsed_cells_are_refused_and_skewed_ones_are_not(molecule, triclinic):
    a, b, c = triclinic.cell
    for turns in (6, 60):
        skewed = triclinic.with_positions(triclinic.positions, [a, b, c + turns * a])
        assert skewed.parameters[4] < 25
        assert find_invalidity(skewed, molecule, LIMITS) is None
    flat = triclinic.with_positions(triclinic.positions, [a, b, 0.15 * c])
    reason, detail = find_invalidity(flat, molecule, LIMITS)
    assert reason == Reason.BAD_CELL
    assert detail.startswith("the reduced cell is 1.")
    closed = triclinic.with_positions(triclinic.positions, [a, b, a + b + 0.0005 * c])
    reason, detail = find_invalidity(closed, molecule, LIMITS)
    assert reason == Reason.BAD_CELL
    assert detail.startswith("angles of ")
