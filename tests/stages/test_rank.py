"""The rank stage on rows: statuses, reasons, columns, duplicates, order."""

import pickle

import numpy as np
import pytest
from rdkit.Chem import AllChem

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.errors import UserInputError
from packflow_core.stages.rank import RankParams, analyse, analyse_crystal, rank
from packflow_core.store.rows import COMMON_NAMES, Row, crystal_columns
from packflow_core.store.schema import STAGE_COLUMNS, Reason, Status

SMILES = "CC(O)c1ccc(Cl)nc1"
PARAMS = RankParams()
RANK_NAMES = {field.name for field in STAGE_COLUMNS["rank"]}


def inversion_pair(molecule: Molecule, turn: int, scale: float = 1.0) -> Crystal:
    """A P-1 crystal, Z = 2; `turn` picks the orientation, hence the packing."""
    mol = AllChem.Mol(molecule.rdmol_h)
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(mol)
    x = mol.GetConformer().GetPositions()
    q, _ = np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))
    cell = parameters_to_cell([7.2, 8.1, 9.0, 81, 98, 107]) * scale
    x = (x - x.mean(axis=0)) @ (q * np.sign(np.linalg.det(q))) + [0.23, 0.31, 0.27] @ cell
    positions = np.concatenate([x, -x + cell.sum(axis=0)])
    return Crystal(np.tile(molecule.numbers_h, 2), positions, cell, 2)


@pytest.fixture(scope="module")
def molecule() -> Molecule:
    return Molecule.from_smiles(SMILES)


@pytest.fixture(scope="module")
def form_a(molecule) -> Crystal:
    return inversion_pair(molecule, 130)


@pytest.fixture(scope="module")
def form_b(molecule) -> Crystal:
    return inversion_pair(molecule, 15)


def relaxed(index: int, crystal: Crystal, energy: float | None, status=Status.OK, **more) -> Row:
    return {
        "candidate_id": f"t-{index:04d}", "index": index, "campaign": "c", "target": "t",
        "method": "m", "seed": 0, "status": str(status), "reason": "", "detail": "",
        "energy_eV": energy, "fmax_eV_A": 0.03, "n_steps": 17, "engine": "fake 1",
        "stress_GPa": 0.05, **crystal_columns(crystal), **more,
    }  # fmt: skip


def test_ok_row_has_every_column(molecule, form_a):
    row = analyse(relaxed(0, form_a, -20.0), SMILES, PARAMS, None)
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["space_group"] == "P-1"
    assert (row["space_group_number"], row["z_prime"]) == (2, 1.0)
    assert row["energy_per_molecule_eV"] == -10.0
    assert row["bonds_ok"] == 1.0
    assert [row["energy_eV"], row["fmax_eV_A"], row["n_steps"]] == [-20.0, 0.03, 17]
    assert [row["engine"], row["stress_GPa"]] == ["fake 1", 0.05]
    assert [row[c] for c in ("match_rmsd_A", "match_n", "matches_reference")] == [None] * 3
    assert set(row) >= RANK_NAMES
    assert set(row) <= RANK_NAMES | set(COMMON_NAMES)
    assert pickle.loads(pickle.dumps(row)) == row


def test_changed_connectivity_is_rejected_but_keeps_its_row(molecule, form_a):
    positions = form_a.positions.copy()
    hydrogen = molecule.n_heavy
    positions[hydrogen] += 3.0
    row = analyse(relaxed(4, form_a.with_positions(positions), -99.0), SMILES, PARAMS, None)
    assert (row["status"], row["reason"]) == (Status.REJECTED, Reason.CONNECTIVITY)
    assert row["detail"].startswith("C1-H11 of molecule 1 broken")
    assert row["energy_eV"] == -99.0
    good = analyse(relaxed(5, form_a, -20.0), SMILES, PARAMS, None)
    table = rank([row, good], PARAMS)
    assert [r["candidate_id"] for r in table] == ["t-0005", "t-0004"]
    assert table[0]["lattice_energy_rel_kJ_mol"] == 0.0
    assert table[1]["rank"] is None
    assert table[1]["cluster"] is None


@pytest.mark.parametrize("energy", [None, float("nan"), float("inf")])
def test_missing_energy_is_a_failure(form_a, energy):
    row = analyse(relaxed(0, form_a, energy), SMILES, PARAMS, None)
    assert (row["status"], row["reason"]) == (Status.FAILED, Reason.NAN)
    assert set(row) >= RANK_NAMES


def test_other_faults_are_rows(molecule, form_a):
    no_crystal = relaxed(0, form_a, -1.0) | {"positions": None}
    wrong = relaxed(1, form_a.heavy_only(), -1.0) | {"numbers": [6] * 20}
    found = analyse(no_crystal, SMILES, PARAMS, None)
    assert (found["status"], found["reason"]) == (Status.FAILED, Reason.INTERNAL)
    assert found["detail"]
    found = analyse(wrong, SMILES, PARAMS, None)
    assert (found["status"], found["reason"]) == (Status.REJECTED, Reason.Z_CHANGED)
    assert found["detail"] == "the 20 atoms of the cell are not 2 times C7H8ClNO"
    failed = relaxed(2, form_a, -1.0, Status.FAILED, reason="timeout", detail="900 s")
    found = analyse(failed, SMILES, PARAMS, None)
    assert [found[c] for c in ("status", "reason", "detail")] == ["failed", "timeout", "900 s"]


def test_a_large_residual_stress_is_unconverged(form_a):
    def judged(stress, **changes):
        row = relaxed(0, form_a, -20.0, stress_GPa=stress)
        return analyse(row, SMILES, RankParams(**changes), None)

    found = judged(2.5)
    assert (found["status"], found["reason"]) == (Status.UNCONVERGED, Reason.STRESS)
    assert found["detail"] == "residual stress 2.50 GPa, at most 2"
    assert judged(1.9)["status"] == judged(None)["status"] == Status.OK
    assert judged(2.5, max_residual_stress_GPa=None)["status"] == Status.OK
    assert judged(0.2, max_residual_stress_GPa=0.1)["reason"] == Reason.STRESS
    assert judged(float("nan"))["reason"] == Reason.STRESS


def test_the_symmetry_ladder_says_how_sure_a_group_is(form_a):
    names = ("space_group", "symprec_A", "space_group_tight", "space_group_loose",
             "space_group_agreement")  # fmt: skip
    row = analyse(relaxed(0, form_a, -20.0), SMILES, PARAMS, None)
    assert [row[name] for name in names] == ["P-1", 0.1, "P-1", "P-1", 1.0]
    noise = np.random.default_rng(3).normal(size=form_a.positions.shape)
    rough = form_a.with_positions(form_a.positions + 0.01 * noise)
    row = analyse(relaxed(0, rough, -20.0), SMILES, PARAMS, None)
    assert [row[name] for name in names[:4]] == ["P-1", 0.1, "P1", "P-1"]
    assert 0 < row["space_group_agreement"] < 1


def test_the_density_ratio_compares_with_the_volumes_of_the_atoms(form_a):
    row = analyse(relaxed(0, form_a, -20.0), SMILES, PARAMS, None)
    # C7H8ClNO by Hofmann's average volumes, twice in the cell.
    usual = 7 * 13.87 + 8 * 5.08 + 25.8 + 11.8 + 11.39
    assert row["density_ratio"] == pytest.approx(2 * usual / form_a.volume)


def test_unconverged_candidates_are_ranked_on_request_only(form_a):
    late = relaxed(0, form_a, -21.0, Status.UNCONVERGED, reason="max_steps", detail="1000 steps")
    rows = [analyse(r, SMILES, PARAMS, None) for r in (late, relaxed(1, form_a, -20.0))]
    assert rows[0]["status"] == "unconverged"
    assert rows[0]["space_group"] == "P-1"
    assert [r["rank"] for r in rank(rows, PARAMS)] == [1, None]
    both = rank(rows, RankParams(include_unconverged=True))
    assert [(r["candidate_id"], r["rank"]) for r in both] == [("t-0000", 1), ("t-0001", 2)]


def test_duplicates_share_a_cluster_and_order_is_by_energy(molecule, form_a, form_b):
    rng = np.random.default_rng(0)

    def shaken(crystal):
        return crystal.with_positions(
            crystal.positions + rng.normal(scale=0.01, size=crystal.positions.shape) + [1, 2, 3]
        )

    double = form_a.repeated((1, 1, 2))
    rows = [
        relaxed(0, form_b, -19.98),
        relaxed(1, shaken(form_a), -19.995),
        relaxed(2, double, -40.0),
        relaxed(3, shaken(form_b), -19.975),
        relaxed(4, form_a, -19.9),
    ]
    analysed = [analyse(r, SMILES, PARAMS, None) for r in rows]
    table = rank(analysed, PARAMS)
    assert [r["index"] for r in table] == [2, 1, 0, 3, 4]
    assert [r["rank"] for r in table] == [1, 2, 3, 4, 5]
    # Candidate 4 is form A too, but 4.8 kJ/mol above: another energy, hence not the same crystal.
    assert [r["cluster"] for r in table] == [1, 1, 2, 2, 3]
    assert [r["cluster_size"] for r in table] == [2, 2, 2, 2, 1]
    assert [r["representative"] for r in table] == [True, False, True, False, True]
    assert table[1]["lattice_energy_rel_kJ_mol"] == pytest.approx(0.0025 * 96.4853, rel=1e-4)
    assert table == rank(analysed[::-1], PARAMS)


def test_match_with_a_reference_crystal(molecule, form_a, form_b):
    row = analyse_crystal(relaxed(0, form_a, -1.0), molecule, PARAMS, form_a.heavy_only())
    assert (row["match_n"], row["matches_reference"]) == (15, True)
    assert row["match_rmsd_A"] == pytest.approx(0.0, abs=1e-6)
    assert (row["match_n20"], row["match_n30"], row["match_form"]) == (20, 30, True)
    assert (row["match_kinds"], row["match_kinds_found"]) == (1, 1)
    assert row["match_criteria"].split()[-4:] == ["rmsd15", "rmsd20", "rmsd30", "form"]
    row = analyse_crystal(relaxed(0, form_b, -1.0), molecule, PARAMS, form_a)
    assert row["matches_reference"] is False
    assert row["match_n"] < 15
    assert row["match_n20"] is None
    small = RankParams(shell_size=6)
    row = analyse_crystal(relaxed(0, form_a, -1.0), molecule, small, form_a)
    assert (row["match_n"], row["match_n20"], row["matches_reference"]) == (6, 20, True)


def test_rows_without_invariants_are_ranked_like_those_with(molecule, form_a, form_b):
    """Rows of an earlier version have none."""
    rows = [relaxed(k, c, e) for k, (c, e) in enumerate(
        [(form_a, -20.0), (form_a.repeated((2, 1, 1)), -40.0), (form_b, -20.0)])]  # fmt: skip
    analysed = [analyse(row, SMILES, PARAMS, None) for row in rows]
    assert len(analysed[0]["amd_A"]) == 4 * 25  # C, N, O, Cl
    table = rank(analysed, PARAMS)
    assert [row["cluster_size"] for row in table] == [2, 2, 1]
    older = rank([{**row, "amd_A": None} for row in analysed], PARAMS)
    assert [row["cluster"] for row in older] == [row["cluster"] for row in table]


def test_reference_from_a_cif(tmp_path, molecule, form_a, form_b):
    write_cif = pytest.importorskip("packflow_core.crystal.cif").write_cif
    path = tmp_path / "form.cif"
    write_cif(form_a, path, "form", None)
    assert analyse(relaxed(0, form_a, -1.0), SMILES, PARAMS, str(path))["matches_reference"]
    assert not analyse(relaxed(0, form_b, -1.0), SMILES, PARAMS, str(path))["matches_reference"]
    with pytest.raises(UserInputError, match=r"molecules of C7ClNO, but .* has C6 \(hydrogens"):
        analyse(relaxed(0, form_a, -1.0), "c1ccccc1", PARAMS, str(path))
    with pytest.raises(UserInputError):
        analyse(relaxed(0, form_a, -1.0), SMILES, PARAMS, str(tmp_path / "none.cif"))


def test_nothing_to_rank():
    assert rank([], PARAMS) == []


def test_parameters_are_closed_and_described():
    with pytest.raises(ValueError, match="symprecA"):
        RankParams(symprecA=0.1)
    fields = RankParams.model_fields
    assert all(field.description for field in fields.values())
