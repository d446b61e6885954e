"""Input files: keys that Genarris obeys, values that do not crash it, folders that are fresh."""

import configparser
import json
from ast import literal_eval

import numpy as np
import pytest
from genarris_folders import ASPIRIN, RECORDED, UREA
from pydantic import ValidationError

from packflow_core.baselines.genarris import (
    GenarrisParams,
    genarris_seed,
    match_atoms,
    read_conformer,
    read_request,
    write_inputs,
)
from packflow_core.baselines.genarris_molecule import bond_cutoff
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.errors import UserInputError


def parse(path):
    """As Genarris' own parser does: strict about duplicates, literals where possible."""
    parser = configparser.ConfigParser()
    parser.read_string(path.read_text())
    out = {}
    for section in parser.sections():
        out[section] = {}
        for key in parser.options(section):
            text = parser.get(section, key)
            try:
                out[section][key] = literal_eval(text)
            except (SyntaxError, ValueError):
                out[section][key] = text
    return out


def made(tmp_path, smiles=UREA, **settings):
    molecule = Molecule.from_smiles(smiles)
    params = GenarrisParams(**settings)
    write_inputs(tmp_path / "run", molecule, conformer_pool(molecule).positions[0], params)
    return parse(tmp_path / "run" / "ui.conf")


def test_defaults_are_the_papers_but_for_what_would_break(tmp_path):
    """The recorded input is listing 1 of the paper with the names that version 3.1 obeys."""
    written = made(tmp_path, method="rigid_press", z_values=(2,), structures_per_group=3)
    recorded = parse(RECORDED / "rigid_press" / "ui.conf")
    assert set(written) == set(recorded)
    ours = {
        ("master", "name"): "packflow",
        ("generation", "natural_cutoff_mult"): 1.1,
        ("symm_rigid_press", "natural_cutoff_mult"): 1.1,
        ("generation", "seed"): genarris_seed(0, 2),
    }
    for section, options in written.items():
        for key, value in options.items():
            assert value == ours.get((section, key), recorded[section].get(key)), key
        assert set(recorded[section]) <= set(options)
    assert set(written["generation"]) - set(recorded["generation"]) == {"seed"}


def test_plain_runs_no_press(tmp_path):
    written = made(tmp_path, z_values=(4,))
    assert written["workflow"]["tasks"] == ["generation"]
    assert "symm_rigid_press" not in written
    assert written["master"]["z"] == 4


def test_budget_of_the_paper():
    params = GenarrisParams()
    assert params.for_budget(3).structures_per_group == 10
    assert params.for_budget(250).structures_per_group == 250


def test_seed_is_never_zero_and_differs_between_runs():
    seeds = {genarris_seed(s, z, c) for s in range(20) for z in (1, 2, 4) for c in range(5)}
    assert len(seeds) == 300
    assert all(0 < s < 2**31 for s in seeds)


@pytest.mark.parametrize(
    ("space_groups", "smiles", "expected"),
    [
        ("auto", UREA, "standard"),
        ("auto", "C[C@H](N)C(=O)O", "chiral"),
        ("auto", "CC(N)C(=O)O", "standard"),
        ("auto", "C[C@H](O)[C@@H](C)O", "standard"),  # meso: its mirror image is itself
        ("csd", "C[C@H](N)C(=O)O", "csd"),
        ((14, 2, 14), UREA, [14, 2]),
    ],
)
def test_space_groups(tmp_path, space_groups, smiles, expected):
    written = made(tmp_path, smiles, space_groups=space_groups)
    assert written["generation"]["spg_distribution_type"] == expected


def test_molecule_file_has_our_order_and_place(tmp_path):
    from ase.io import read

    made(tmp_path, ASPIRIN)
    molecule = Molecule.from_smiles(ASPIRIN)
    atoms = read(tmp_path / "run" / "mol.xyz")
    assert (atoms.numbers == molecule.numbers_h).all()
    assert atoms.positions == pytest.approx(conformer_pool(molecule).positions[0], abs=1e-7)


def test_request_can_be_read_back(tmp_path):
    molecule = Molecule.from_smiles(ASPIRIN)
    positions = conformer_pool(molecule).positions[0]
    params = GenarrisParams(z_values=(2, 4), seed=7, mpi_ranks=3)
    asked = write_inputs(tmp_path, molecule, positions, params, z=4, conformer_number=6)
    assert read_request(tmp_path) == asked
    assert (asked.z, asked.conformer, asked.mpi_ranks) == (4, 6, 3)
    assert asked.seed == genarris_seed(7, 4, 6)
    assert parse(tmp_path / "ui.conf")["generation"]["seed"] == asked.seed
    stored = json.loads((tmp_path / "packflow_request.json").read_text())["params"]
    assert GenarrisParams(**stored) == params
    assert read_request(tmp_path / "elsewhere") is None


def test_a_used_folder_is_refused(tmp_path):
    made(tmp_path)
    with pytest.raises(UserInputError, match="not empty"):
        made(tmp_path)


def test_unwritable_folder_is_told(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserInputError, match="cannot be written"):
        made(tmp_path)


@pytest.mark.parametrize("smiles", ["C[As](C)C", "C[Se]C"])
def test_elements_that_stop_genarris_are_refused_before(tmp_path, smiles):
    with pytest.raises(UserInputError, match=r"does not know (As|Se)"):
        made(tmp_path, smiles)
    assert not (tmp_path / "run").exists()


def test_z_must_be_one_of_the_run(tmp_path):
    molecule = Molecule.from_smiles(UREA)
    positions = conformer_pool(molecule).positions[0]
    for z in (None, 3):
        with pytest.raises(ValueError, match="z must be one of"):
            write_inputs(
                tmp_path / "run", molecule, positions, GenarrisParams(z_values=(2, 4)), z=z
            )


@pytest.mark.parametrize(
    "wrong",
    [
        {"z_values": ()},
        {"z_values": (0,)},
        {"z_values": (2, 2)},
        {"space_groups": (231,)},
        {"space_groups": ()},
        {"space_groups": "most"},
        {"max_attempts_per_volume": 0},
        {"natural_cutoff_mult": 0.9},
        {"volume_mult": 1.0},
        {"mpi_ranks": 0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        GenarrisParams(**wrong)


def test_conformers_that_are_none_are_refused(tmp_path):
    molecule = Molecule.from_smiles(ASPIRIN)
    positions = conformer_pool(molecule).positions[0]
    params = GenarrisParams()
    for wrong in (positions[:-1], np.full_like(positions, np.nan), positions[::-1], positions * 2):
        with pytest.raises(UserInputError, match="conformer"):
            write_inputs(tmp_path / "run", molecule, wrong, params)
    assert not (tmp_path / "run").exists()


def test_bond_cutoff_finds_all_bonds():
    """The paper's 1.0 finds 13 of aspirin's 21 bonds in the recorded geometry, 1.1 all."""
    from ase.io import read

    molecule = Molecule.from_smiles(ASPIRIN)
    recorded = read(RECORDED / "killed_midgen" / "mol.xyz").positions
    assert bond_cutoff(molecule, recorded, 1.0) == 1.1
    assert bond_cutoff(molecule, recorded, 1.2) == 1.2
    for smiles in ("CCCC", "CS(=O)(=O)c1ccc(Br)cc1", "OB(O)c1ccccc1I", "C[Si](C)(C)C#N", "CP(C)C"):
        molecule = Molecule.from_smiles(smiles)
        positions = conformer_pool(molecule).positions[0]
        factor = bond_cutoff(molecule, positions, 1.1)
        from ase import Atoms
        from ase.neighborlist import natural_cutoffs, neighbor_list

        atoms = Atoms(molecule.numbers_h, positions)
        i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=factor))
        bonds = {tuple(sorted(b)) for b in molecule.bonds_h.tolist()}
        assert {(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b} == bonds


def test_conformer_file_in_any_order(tmp_path):
    from ase import Atoms
    from ase.io import write

    molecule = Molecule.from_smiles("C[C@H](N)C(=O)O")
    positions = conformer_pool(molecule).positions[0]
    shuffle = np.random.default_rng(0).permutation(molecule.n_atoms)
    write(tmp_path / "any.xyz", Atoms(molecule.numbers_h[shuffle], positions[shuffle]))
    found = read_conformer(tmp_path / "any.xyz", molecule)
    assert found[: molecule.n_heavy] == pytest.approx(positions[: molecule.n_heavy], abs=1e-7)
    distance = np.linalg.norm(found[:, None] - positions, axis=-1)
    assert distance.min(axis=0).max() < 1e-7
    write_inputs(tmp_path / "run", molecule, found, GenarrisParams())
    write(tmp_path / "other.xyz", Atoms(molecule.numbers_h, -positions))
    with pytest.raises(UserInputError, match="stereochemistry"):
        read_conformer(tmp_path / "other.xyz", molecule)
    with pytest.raises(UserInputError, match="does not hold"):
        read_conformer(tmp_path / "any.xyz", Molecule.from_smiles("NCCC(=O)O"))
    with pytest.raises(UserInputError, match="does not exist"):
        read_conformer(tmp_path / "none.xyz", molecule)
    (tmp_path / "bad.xyz").write_text("spam\n")
    with pytest.raises(UserInputError, match="cannot be read"):
        read_conformer(tmp_path / "bad.xyz", molecule)


@pytest.mark.parametrize(
    "smiles",
    [
        ASPIRIN,
        "O=[N+]([O-])c1ccccc1",
        "C/C=C\\CC(O)C/C=C/C",
        "FC(F)(F)c1ccncc1",
        "C[C@H](O)[C@@H](C)O",
    ],
)
def test_shuffled_atoms_find_back_to_a_molecule_of_the_right_stereochemistry(smiles):
    molecule = Molecule.from_smiles(smiles)
    positions = conformer_pool(molecule).positions[0]
    bonds = {tuple(sorted(b)) for b in molecule.bonds_h.tolist()}
    for seed in range(4):
        shuffle = np.random.default_rng(seed).permutation(molecule.n_atoms)
        order = match_atoms(molecule, molecule.numbers_h[shuffle], positions[shuffle])
        assert sorted(order.tolist()) == list(range(molecule.n_atoms))
        source = shuffle[order]  # the atom of `molecule` that each place was given
        assert (molecule.numbers_h[source] == molecule.numbers_h).all()
        assert {tuple(sorted((int(source[a]), int(source[b])))) for a, b in bonds} == bonds
        assert stereo_of(molecule).count_flipped(positions[source]) == 0
