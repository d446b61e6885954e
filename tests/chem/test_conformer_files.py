"""Conformers from files: any order of atoms, any frame, and clear words about the wrong ones."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from rdkit import Chem

from packflow_core.chem.conformer_atoms import bonds_by_distance, match_atoms, sorted_bonds
from packflow_core.chem.conformer_ensemble import choose_conformers
from packflow_core.chem.conformer_files import read_conformers, write_sdf, write_xyz
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import conformer_ensemble, make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError

ALANINE = "C[C@H](N)C(=O)O"


@pytest.fixture(scope="module")
def alanine():
    return make_ensemble(Molecule.from_smiles(ALANINE), ConformerParams(n_embed=20))


def shuffled(ensemble, seed=0):
    """ASE atoms of every conformer, each in an order of its own and somewhere else."""
    rng = np.random.default_rng(seed)
    frames = []
    for x in ensemble.positions:
        order = rng.permutation(len(x))
        frames.append(Atoms(ensemble.molecule.numbers_h[order], x[order] + rng.normal(size=3)))
    return frames


@pytest.mark.parametrize("suffix", ["xyz", "sdf"])
def test_what_we_write_is_read_again(alanine, tmp_path, suffix):
    path = tmp_path / f"pool.{suffix}"
    {"xyz": write_xyz, "sdf": write_sdf}[suffix](alanine, path)
    found = read_conformers(path, alanine.molecule)
    assert found.positions == pytest.approx(alanine.positions, abs=1.2e-4)
    assert found.energies == pytest.approx(alanine.energies, abs=1e-4)
    assert (found.method, found.counts, found.found) == (path.name, None, None)


def test_sdf_is_chemistry_with_energies(alanine, tmp_path):
    path = tmp_path / "pool.sdf"
    write_sdf(alanine, path, [{"h_bonds": k} for k in range(len(alanine))])
    mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert len(mols) == len(alanine)
    for k, mol in enumerate(mols):
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == alanine.molecule.smiles
        assert mol.GetConformer().Is3D()
        assert mol.GetIntProp("conformer") == k == mol.GetIntProp("h_bonds")
        assert float(mol.GetProp("energy_kJ_mol")) == pytest.approx(alanine.energies[k], abs=1e-4)


def test_atoms_are_found_in_any_order(alanine, tmp_path):
    path = tmp_path / "dft.xyz"
    write(str(path), shuffled(alanine))
    found = read_conformers(path, alanine.molecule)
    n = alanine.molecule.n_heavy
    assert found.positions[:, :n] == pytest.approx(alanine.positions[:, :n], abs=1e-6)
    assert np.isnan(found.energies).all()
    # Hydrogens of a group may be named differently; each is on its own atom.
    molecule = alanine.molecule
    for x in found.positions:
        bonds = bonds_by_distance(molecule.numbers_h, x)
        assert (bonds == sorted_bonds(molecule.bonds_h)).all()


def test_frames_keep_their_numbers_whatever_their_energies(alanine, tmp_path):
    path = tmp_path / "dft.xyz"
    frames = shuffled(alanine)[:3]
    for atoms, energy in zip(frames, (-5.0, -9.0, 2.0), strict=True):
        atoms.info["energy_kJ_mol"] = energy
    write(str(path), frames, format="extxyz")
    found = conformer_ensemble(alanine.molecule, ConformerParams(file=str(path)))
    assert found.energies == pytest.approx([4.0, 0.0, 11.0])
    assert choose_conformers(found, 2).tolist() == [1, 0]
    n = alanine.molecule.n_heavy
    assert found.positions[:, :n] == pytest.approx(alanine.positions[:3, :n], abs=1e-6)


def test_nothing_of_a_file_is_pruned_or_left_out(alanine, tmp_path):
    path = tmp_path / "same.xyz"
    write(str(path), [shuffled(alanine)[0]] * 3)
    params = ConformerParams(file=str(path), max_conformers=1)
    assert len(make_ensemble(alanine.molecule, params)) == 3


def test_meso_and_other_orders_of_equal_atoms_are_accepted(tmp_path):
    pool = make_ensemble(
        Molecule.from_smiles("O[C@H](C(=O)O)[C@@H](O)C(=O)O"), ConformerParams(n_embed=5)
    )
    path = tmp_path / "meso.xyz"
    mirrored = shuffled(pool)[:1]
    mirrored[0].positions *= -1.0
    write(str(path), mirrored)
    assert len(read_conformers(path, pool.molecule)) == 1


def test_close_corners_of_a_cage_are_no_bond(tmp_path):
    pool = make_ensemble(Molecule.from_smiles("OC(=O)C12CC(C1)C2"), ConformerParams(n_embed=5))
    path = tmp_path / "cage.xyz"
    write(str(path), shuffled(pool))
    assert len(read_conformers(path, pool.molecule)) == len(pool)


def other_molecule(frames, path):
    frames[1] = Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])
    write(str(path), frames)


def other_hand(frames, path):
    frames[1].positions *= -1.0
    write(str(path), frames)


def broken_bond(frames, path):
    frames[1].positions[0] += 4.0
    write(str(path), frames)


def without_hydrogens(frames, path):
    frames[1] = frames[1][frames[1].numbers > 1]
    write(str(path), frames)


def not_finite(frames, path):
    frames[1].positions[0, 0] = np.nan
    write(str(path), frames)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_molecule, r"frame 2, does not hold the molecule 'C\[C@H\]\(N\)C\(=O\)O'"),
        (other_hand, "frame 2, has another stereochemistry than"),
        (broken_bond, "frame 2, does not hold the molecule"),
        (without_hydrogens, "frame 2, has no hydrogens; give all 13 atoms"),
        (not_finite, "frame 2, has coordinates that are not finite"),
    ],
)
def test_wrong_frames_are_named(alanine, tmp_path, spoil, says):
    path = tmp_path / "bad.xyz"
    spoil(shuffled(alanine), path)
    with pytest.raises(UserInputError, match=says):
        read_conformers(path, alanine.molecule)


def test_unreadable_files_are_refused(alanine, tmp_path):
    with pytest.raises(UserInputError, match="does not exist"):
        read_conformers(tmp_path / "no.xyz", alanine.molecule)
    for name, content in {"x.xyz": "3\n\nC 0 0 zero\n", "x.pdf": "%PDF", "x.sdf": "a\nb\n"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UserInputError, match=r"cannot be read|holds no molecule"):
            read_conformers(tmp_path / name, alanine.molecule)


def test_a_constitutional_isomer_is_another_molecule():
    ethanol, ether = Molecule.from_smiles("CCO"), Molecule.from_smiles("COC")
    x = make_ensemble(ether, ConformerParams(n_embed=1)).positions[0]
    assert match_atoms(ethanol, ether.numbers_h, x) is None
    assert match_atoms(ether, ether.numbers_h[::-1], x[::-1]) is not None
