"""The search: textbook counts, pruning against RDKit, window, stereochemistry, the same twice."""

import numpy as np
import pytest
from conformer_oracle import best_rms, isomer, torsion
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from packflow_core.chem import conformer_pool, conformer_search
from packflow_core.chem.conformer_ensemble import choose_conformers, equal_shares
from packflow_core.chem.conformer_facts import conformer_facts, internal_h_bonds
from packflow_core.chem.conformer_params import ConformerParams, flexible_bonds
from packflow_core.chem.conformer_pool import conformer_ensemble, ensemble_key
from packflow_core.chem.conformer_search import search_conformers, select_conformers
from packflow_core.chem.conformers import ConformerError
from packflow_core.chem.molecule import Molecule

ROY = "Cc1cc(C#N)c(Nc2ccccc2[N+](=O)[O-])s1"
RITONAVIR = (
    "CC(C)c1nc(cs1)CN(C)C(=O)N[C@@H](C(C)C)C(=O)N[C@@H](Cc2ccccc2)C[C@@H]"
    "([C@H](Cc3ccccc3)NC(=O)OCc4cncs4)O"
)


def search(smiles, **fields):
    return search_conformers(Molecule.from_smiles(smiles), ConformerParams(**fields))


def raw(smiles, n):
    """Molecule and n geometries as embedded, far from any minimum."""
    molecule = Molecule.from_smiles(smiles)
    mol = Chem.Mol(molecule.rdmol_h)
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=3)
    return molecule, np.stack([c.GetPositions() for c in mol.GetConformers()])


def select(molecule, positions, energies, **fields):
    params = ConformerParams(**fields)
    return select_conformers(molecule, positions, energies, params, "test", len(positions))


# -- what comes out ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("smiles", "count"),
    [
        ("c1ccccc1", 1),
        ("NC(N)=O", 1),
        ("O", 1),
        ("C12C3C4C1C5C2C3C45", 1),
        ("C1C2CC1C2", 1),  # corners 1.87 Å apart that are not bonded
        ("CCCC", 2),  # anti, gauche; gauche of the other hand is its mirror image
        ("CCCCC", 4),  # tt, tg, g+g+, g+g-
        ("CCC(F)Cl", 3),  # both hands are open, so they are one
        ("CC[C@H](F)Cl", 3),
        ("CC(=O)Nc1ccc(O)cc1", 2),  # the hydroxyl group points to one side or the other
    ],
)
def test_textbook_numbers_of_conformers(smiles, count):
    assert len(search(smiles)) == count


def test_butane_is_anti_then_gauche():
    pool = search("CCCC")
    angles = [abs(torsion(x, 0, 1, 2, 3)) for x in pool.positions]
    assert angles[0] == pytest.approx(180.0, abs=1.0)
    assert angles[1] == pytest.approx(65.0, abs=3.0)
    # MMFF94 puts gauche 0.78 kcal/mol above anti (Halgren, J. Comput. Chem. 1996, 17, 490).
    assert pool.energies == pytest.approx([0.0, 0.78 * 4.184], abs=0.1)


def test_hydrogens_of_polar_groups_can_be_left_out_of_account():
    assert len(search("CC(=O)Nc1ccc(O)cc1", polar_hydrogens=False)) == 1
    pool = search("OCCO", polar_hydrogens=True)
    assert len(pool) > len(search("OCCO", polar_hydrogens=False)) >= 2


@pytest.mark.parametrize(
    ("smiles", "labels"),
    [
        ("C[C@H](N)C(=O)O", ["S"]),
        ("C[C@@H](N)C(=O)O", ["R"]),
        ("C[C@@H](O)[C@H](N)C(=O)O", ["R", "S"]),  # L-threonine is (2S,3R)
        ("C/C=C\\CCC", []),
        ("C/C=C/CCC", []),
    ],
)
def test_every_conformer_is_the_stereoisomer_of_the_smiles(smiles, labels):
    pool = search(smiles)
    assert len(pool) > 1
    for x in pool.positions:
        found = isomer(pool.molecule, x)
        assert found[0] == pool.molecule.smiles
        assert sorted(found[1]) == labels


def test_open_stereochemistry_is_said():
    [note] = search("CC1CCCC(O)C1", n_embed=20).notes[:1]
    assert "leaves stereochemistry open: the conformers are of 2 different stereoisomers" in note
    assert search("C[C@H](F)Cl").notes == ()
    assert search("CC(F)Cl").notes == ()  # the two hands are one
    assert search("C12C3C4C1C5C2C3C45").notes == ()


def test_others_take_the_place_of_a_force_field_without_parameters():
    boron = search("OB(O)c1ccccc1", n_embed=10)
    assert boron.method == "UFF"
    assert np.isfinite(boron.energies).all()
    assert boron.notes[0] == "MMFF94s lacks parameters for this molecule; UFF is used."
    assert search("CCO", force_field="UFF", n_embed=5).method == "UFF"
    sulfur = search("FS(F)(F)(F)(F)C", n_embed=10, window_kJ_mol=0.0)
    assert sulfur.method == "distance geometry"
    assert np.isnan(sulfur.energies).all()
    assert sulfur.counts.outside == 0
    assert "without energies" in sulfur.notes[0]


def test_an_incomplete_search_says_so():
    assert any("not complete" in note for note in search("CCCCCCCCO", n_embed=12).notes)
    assert not search("CCCC", n_embed=12).notes


# -- judging and pruning ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("smiles", "rmsd"),
    [("CCCCCC", 0.4), ("CC(C)C[C@H](C)CC=O", 0.6), ("O=[N+]([O-])c1ccc(CCCCC)cc1", 0.4)],
)
def test_pruning_keeps_what_rdkit_would_keep(smiles, rmsd):
    molecule, x = raw(smiles, 40)
    energies = np.arange(40, dtype=float)
    pool = select(molecule, x, energies, rmsd_A=rmsd, window_kJ_mol=100.0, polar_hydrogens=False)
    mirror = "@" not in smiles
    expected = []
    for k in range(len(x)):
        if all(best_rms(molecule, x[k], x[e], mirror) > rmsd for e in expected):
            expected.append(k)
    assert 3 < len(expected) < 38
    assert pool.energies.tolist() == energies[expected].tolist()
    assert pool.found.sum() == 40
    for a in range(len(pool)):
        for b in range(a):
            assert best_rms(molecule, pool.positions[a], pool.positions[b], mirror) > rmsd


def test_window_order_and_largest_number():
    molecule, x = raw("CCCCCCC", 12)
    energies = np.array([5.0, 1.0, 30.0, 26.1, 2.0, 3.0, 25.9, 4.0, 40.0, 9.0, 8.0, 7.0])
    everything = {"rmsd_A": 0.0, "window_kJ_mol": 25.0}
    pool = select(molecule, x, energies, **everything)
    inside = sorted(energies[energies <= 26.0] - 1.0)
    assert pool.energies == pytest.approx(inside)
    assert pool.counts.outside == 3
    assert np.linalg.norm(pool.positions[0, 0] - pool.positions[0, 1]) == pytest.approx(
        np.linalg.norm(x[1, 0] - x[1, 1])
    )
    few = select(molecule, x, energies, max_conformers=4, **everything)
    assert few.energies == pytest.approx(inside[:4])
    assert (few.counts.beyond, few.counts.duplicates) == (len(inside) - 4, 0)
    assert len(select(molecule, x, energies, rmsd_A=0.0, window_kJ_mol=0.0)) == 1


def test_geometries_that_are_not_the_molecule_are_left_out():
    molecule, x = raw("C[C@H](N)C(=O)O", 4)
    x[1] *= -1.0
    x[2, 0] += 3.0
    pool = select(molecule, x, np.zeros(4), rmsd_A=0.0, polar_hydrogens=False)
    assert (len(pool), pool.counts.wrong) == (2, 2)
    with pytest.raises(ConformerError, match="with the bonds and the stereochemistry it asks"):
        select(molecule, x[1:2], np.zeros(1))


# -- the same pool everywhere -----------------------------------------------------------------
def test_same_smiles_and_settings_give_the_same_numbers():
    first = search(ROY, n_embed=20)
    again = search_conformers(
        Molecule.from_smiles("N#Cc1cc(C)sc1Nc1ccccc1[N+](=O)[O-]"),
        ConformerParams(n_embed=20),
        threads=2,
    )
    assert (again.positions == first.positions).all()
    assert (again.energies == first.energies).all()
    assert again.digest == first.digest
    assert search(ROY, n_embed=20, seed=1).digest != first.digest
    assert (np.diff(first.energies) >= 0).all()
    with pytest.raises(ValueError, match="read-only"):
        first.positions[0] = 0.0


def test_pool_is_made_once_per_process_and_so_is_its_failure(monkeypatch):
    molecule, params = Molecule.from_smiles("CCCN"), ConformerParams(n_embed=3)
    assert conformer_ensemble(molecule, params) is conformer_ensemble(molecule, params)
    calls = []

    def fail(mol, n, _):
        calls.append(n)
        return []

    conformer_pool._made.cache_clear()
    monkeypatch.setattr(conformer_search.rdDistGeom, "EmbedMultipleConfs", fail)
    for _ in range(2):
        with pytest.raises(ConformerError, match="No 3D conformer of 'CCCN' could be embedded"):
            conformer_ensemble(molecule, params)
    # Usual and random coordinates, with and without knowledge of torsions: each once.
    assert calls == [3, 3, 3, 3]
    conformer_pool._made.cache_clear()


def test_random_coordinates_make_up_for_embeddings_that_failed(monkeypatch):
    embed, calls = rdDistGeom.EmbedMultipleConfs, []

    def half(mol, n, parameters):
        calls.append((n, parameters.useRandomCoords))
        return embed(mol, n if parameters.useRandomCoords else n // 2, parameters)

    monkeypatch.setattr(conformer_search.rdDistGeom, "EmbedMultipleConfs", half)
    pool = search("CCCCO", n_embed=9)
    assert calls == [(9, False), (5, True)]
    assert pool.counts.embedded == 9


def test_key_depends_on_molecule_settings_and_content_of_the_file(tmp_path):
    water, ethanol = Molecule.from_smiles("O"), Molecule.from_smiles("CCO")
    keys = {
        ensemble_key(water, ConformerParams()),
        ensemble_key(ethanol, ConformerParams()),
        ensemble_key(ethanol, ConformerParams(seed=1)),
    }
    assert len(keys) == 3
    path, copy = tmp_path / "a.xyz", tmp_path / "b.xyz"
    path.write_text("1")
    copy.write_text("1")
    first = ensemble_key(ethanol, ConformerParams(file=str(path)))
    assert first == ensemble_key(ethanol, ConformerParams(file=str(copy), seed=3))
    path.write_text("2")
    assert first != ensemble_key(ethanol, ConformerParams(file=str(path)))


# -- how much is searched ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("smiles", "bonds", "embeddings"),
    [
        ("c1ccccc1", 0, 50),
        ("CC(=O)Oc1ccccc1C(=O)O", 3 - 1, 50),  # RDKit counts no ester as rotatable
        ("CCCCCCCCCC", 7, 50),
        ("CCCCCCCCCCC", 8, 200),
        ("CCCCCCCCCCCCCCC", 12, 200),
        ("CCCCCCCCCCCCCCCC", 13, 300),
        (RITONAVIR, 17, 300),
        ("C1CCCCCCCCCCC1", 12, 200),
        ("C1CCCCCC1", 0, 50),
    ],
)
def test_embeddings_by_flexibility(smiles, bonds, embeddings):
    molecule = Molecule.from_smiles(smiles)
    assert flexible_bonds(molecule) == bonds
    assert ConformerParams().embeddings(molecule) == embeddings
    assert ConformerParams(n_embed=7).embeddings(molecule) == 7


# -- a few of many ----------------------------------------------------------------------------
def test_chosen_conformers_are_the_lowest():
    pool = search("CCCCCO", n_embed=30)
    assert choose_conformers(pool, 3).tolist() == [0, 1, 2]
    assert choose_conformers(pool, 1000).tolist() == list(range(len(pool)))
    with pytest.raises(ValueError, match="0 conformers"):
        choose_conformers(pool, 0)


def test_shares_are_equal_and_add_up():
    assert equal_shares(10, 3).tolist() == [4, 3, 3]
    assert equal_shares(2, 3).tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="among 0"):
        equal_shares(2, 0)


# -- facts ------------------------------------------------------------------------------------
def test_facts_of_butane():
    pool = search("CCCC")
    facts = conformer_facts(pool)
    assert facts.rmsd[0] == 0.0
    assert facts.rmsd[1] == pytest.approx(best_rms(pool.molecule, *pool.positions, True), abs=1e-3)
    assert facts.gyration[0] > facts.gyration[1]
    mass = np.array([12.011 if n == 6 else 1.008 for n in pool.molecule.numbers_h])
    x = pool.positions[1] - mass @ pool.positions[1] / mass.sum()
    expected = np.sqrt(mass @ (x**2).sum(axis=1) / mass.sum())
    assert facts.gyration[1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("smiles", "bonds"),
    [
        ("OC(=O)c1ccccc1O", {0, 1}),  # salicylic acid, with and without its bond
        (ROY, {0, 1}),
        ("CC(=O)Nc1ccc(O)cc1", {0}),
        ("c1ccccc1", {0}),
    ],
)
def test_hydrogen_bonds_inside_molecules(smiles, bonds):
    pool = search(smiles, window_kJ_mol=80.0)
    found = internal_h_bonds(pool.molecule, pool.positions)
    assert set(found.tolist()) == bonds
    if 1 in bonds:
        assert found[0] == 1  # in the gas phase it is there in the lowest
