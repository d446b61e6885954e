"""RMSD of conformers against RDKit's, its lower bound, hands, symmetries and polar hydrogens."""

import numpy as np
import pytest
from conformer_oracle import best_rms
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scipy.spatial.transform import Rotation

from packflow_core.chem.conformer_rmsd import Comparer
from packflow_core.chem.conformer_symmetry import GraphSymmetry, _with_free_ends
from packflow_core.chem.conformers import heavy_automorphisms
from packflow_core.chem.molecule import Molecule

TRI_TERT_BUTYL = "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1"
CF3S = "FC(F)(F)c1cc(cc(c1)C(F)(F)F)NC(=O)c1cccc(C(F)(F)F)c1"


def geometries(smiles, n=6, noise=0.05):
    """Molecule and raw embeddings [n, n_atoms, 3], turned and a little shaken."""
    molecule = Molecule.from_smiles(smiles)
    mol = Chem.Mol(molecule.rdmol_h)
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=7)
    rng = np.random.default_rng(0)
    x = np.stack([c.GetPositions() for c in mol.GetConformers()])
    x = np.stack([Rotation.random(random_state=rng).apply(one) for one in x])
    return molecule, x + noise * rng.normal(size=x.shape) + rng.normal(size=(len(x), 1, 3))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    "smiles",
    [
        "CCCCCC",
        "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]",
        "COC(=O)C(C)c1ccc(CC(C)C)cc1",
        "CC(C)(C)CS(=O)(=O)c1ccccc1",
        "FC(F)(F)C(=O)NCc1ccccc1",
    ],
)
def test_rmsd_is_that_of_rdkit(smiles, mirror):
    molecule, x = geometries(smiles)
    comparer = Comparer(molecule, mirror)
    shapes = comparer.shapes(x)
    found = comparer.rmsd(shapes, shapes)
    expected = [[best_rms(molecule, a, b, mirror) for b in x] for a in x]
    assert found == pytest.approx(np.array(expected), abs=2e-4)


@pytest.mark.parametrize("smiles", ["CCCCC(=O)NC", "OC[C@H](N)C(=O)O", TRI_TERT_BUTYL, CF3S])
def test_bound_is_never_above_the_rmsd_and_not_idle(smiles):
    molecule, x = geometries(smiles, 8)
    comparer = Comparer(molecule, True)
    shapes = comparer.shapes(x)
    bound, rmsd = comparer.at_least(shapes, shapes), comparer.rmsd(shapes, shapes)
    assert (bound <= rmsd + 1e-6).all()
    assert (bound[~np.eye(len(x), dtype=bool)] > 0.05).any()


def test_a_mirror_image_is_the_same_only_where_it_may_be():
    for smiles, same in (("C[C@H](O)CC", False), ("CC(O)CC", True), ("CCCC", True)):
        molecule, x = geometries(smiles, 1)
        comparer = Comparer.of(molecule)
        rmsd = comparer.rmsd(comparer.shapes(x), comparer.shapes(-x))[0, 0]
        assert comparer.mirror is same
        assert bool(rmsd < 1e-5) is same


def test_names_of_equivalent_atoms_do_not_matter():
    molecule, x = geometries("c1ccccc1C(F)(F)F", 1)
    comparer = Comparer.of(molecule)
    for order in heavy_automorphisms(molecule):
        renamed = comparer.shapes(x[:, : molecule.n_heavy][:, order])
        assert comparer.rmsd(comparer.shapes(x), renamed)[0, 0] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("smiles", "count"), [(TRI_TERT_BUTYL, 1296), (CF3S, 432)])
def test_free_ends_stand_for_all_their_exchanges(smiles, count):
    molecule, x = geometries(smiles, 5, noise=0.1)
    listed = heavy_automorphisms(molecule, 2000)
    assert len(listed) == count
    chosen = GraphSymmetry.of(molecule)
    assert len(chosen.permutations) < 10
    assert len(chosen.ends) == 3
    rng = np.random.default_rng(1)
    heavy = x[:, : molecule.n_heavy]
    renamed = np.stack([one[listed[rng.integers(count)]] for one in heavy])
    rmsd = {}
    for name, symmetry in (("listed", GraphSymmetry(listed)), ("chosen", chosen)):
        comparer = Comparer(molecule, True)
        comparer.__dict__["symmetry"] = symmetry
        rmsd[name] = comparer.rmsd(comparer.shapes(heavy), comparer.shapes(renamed))
    assert np.diag(rmsd["chosen"]) == pytest.approx(np.zeros(5), abs=1e-5)
    # Never below the best of all, and hardly above it.
    assert (rmsd["chosen"] >= rmsd["listed"] - 1e-6).all()
    assert rmsd["chosen"] == pytest.approx(rmsd["listed"], abs=0.05)


def test_free_ends_leave_other_kinds_of_groups_apart():
    molecule = Molecule.from_smiles("FC(F)(Cl)CCC(F)(F)F")
    symmetry = _with_free_ends(molecule)
    assert len(symmetry.permutations) == 1  # CF2Cl never becomes CF3
    assert sorted(len(group) for group in symmetry.ends) == [2, 3]


def test_a_turned_hydroxyl_group_is_seen_by_its_hydrogen_alone():
    molecule, x = geometries("CC(=O)Nc1ccc(O)cc1", 1, noise=0.0)
    numbers, bonds = molecule.numbers_h, molecule.bonds_h
    oxygen = next(
        a.GetIdx() for a in molecule.rdmol.GetAtoms() if a.GetSymbol() == "O" and a.GetDegree() == 1
        and a.GetTotalNumHs() == 1
    )  # fmt: skip
    near = [int(b) for pair in bonds for b in pair if oxygen in pair and b != oxygen]
    hydrogen, carbon = sorted(near, key=lambda k: numbers[k])
    turned = x.copy()
    axis = x[0, oxygen] - x[0, carbon]
    spin = Rotation.from_rotvec(np.pi * axis / np.linalg.norm(axis))
    turned[0, hydrogen] = spin.apply(x[0, hydrogen] - x[0, oxygen]) + x[0, oxygen]
    comparer = Comparer.of(molecule)
    a, b = comparer.shapes(x), comparer.shapes(turned)
    first = np.array([0])
    assert comparer.rmsd(a, b)[0, 0] == pytest.approx(0.0, abs=1e-5)
    assert comparer.alike(a, b, first, first, 0.1, polar=False)[0]
    assert not comparer.alike(a, b, first, first, 0.1, polar=True)[0]
    assert comparer.alike(a, a, first, first, 0.1, polar=True)[0]
    # The ring may flip, which brings the other side of the hydroxyl group to the same place, but
    # then the amide does not fit; without hydrogens nothing is known.
    heavy = comparer.shapes(turned[:, : molecule.n_heavy])
    assert comparer.alike(a, heavy, first, first, 0.1, polar=True)[0]
    # Half a turn at 109 degrees and 0.97 Å; the NH takes part in the mean and does not move.
    moved = np.linalg.norm(turned[0, hydrogen] - x[0, hydrogen])
    assert comparer.polar_rmsd(a, b, first, first)[0] == pytest.approx(moved / np.sqrt(2), abs=0.02)


def test_geometries_of_another_molecule_are_refused():
    comparer = Comparer.of(Molecule.from_smiles("CCO"))
    with pytest.raises(ValueError, match="none of this molecule"):
        comparer.shapes(np.zeros((2, 4, 3)))
