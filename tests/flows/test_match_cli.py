"""`csp match`: two crystals and a run against a reference, and one sentence for every mistake."""

import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from race_runs import InlinePool
from rdkit.Chem import AllChem

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.cif import write_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.spec import make_spec
from packflow_core.stages import match, pools
from packflow_core.stages.plan import make_plan
from packflow_core.stages.rank import RankParams, analyse, rank
from packflow_core.stages.run_store import OpenRun
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import crystal_columns
from packflow_core.store.schema import stage_schema

SMILES = "CC(O)c1ccc(Cl)nc1"


@pytest.fixture
def csp(call_csp, monkeypatch, tmp_path):
    """Call the command in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    return partial(call_csp, "match")


def packing(turn: int) -> Crystal:
    """A P-1 crystal; `turn` picks the orientation of the molecule."""
    molecule = Molecule.from_smiles(SMILES)
    mol = AllChem.Mol(molecule.rdmol_h)
    AllChem.EmbedMolecule(mol, randomSeed=7)
    x = mol.GetConformer().GetPositions()
    q, _ = np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))
    cell = parameters_to_cell([7.2, 8.1, 9.0, 81, 98, 107])
    x = (x - x.mean(axis=0)) @ (q * np.sign(np.linalg.det(q))) + [0.23, 0.31, 0.27] @ cell
    return Crystal(
        np.tile(molecule.numbers_h, 2), np.concatenate([x, -x + cell.sum(axis=0)]), cell, 2
    )


@pytest.fixture(scope="module")
def forms():
    return packing(130), packing(15)


@pytest.fixture
def run(tmp_path, forms, monkeypatch):
    """A finished run of two structures, the second of which is found twice."""
    monkeypatch.setattr(pools, "pool", lambda *args: InlinePool())
    plan = make_plan(
        make_spec({"smiles": SMILES, "name": "x", "z": [2], "n": 3, "generator": "random"}),
        {"name": "random", "sha256": "0" * 64},
    )
    rows = [
        {"candidate_id": f"x-{k}", "index": k, "status": "ok", "reason": "", "detail": "",
         "energy_eV": energy, **crystal_columns(crystal)}
        for k, (crystal, energy) in enumerate(
            [(forms[0], -20.0), (forms[1], -20.2), (forms[0].repeated((2, 1, 1)), -40.0)])
    ]  # fmt: skip
    table = rank([analyse(row, SMILES, RankParams(), None) for row in rows], RankParams())
    with OpenRun(tmp_path / "run", plan, command=["csp"]) as opened:
        opened.end_session("finished")
    batch = rows_to_batch(table, stage_schema("rank"))
    pq.write_table(pa.Table.from_batches([batch]), tmp_path / "run" / "ranked.parquet")
    return tmp_path / "run"


@pytest.fixture
def cif(tmp_path, forms):
    write_cif(forms[0], tmp_path / "known.cif")
    write_cif(forms[1], tmp_path / "other.cif")
    return tmp_path / "known.cif"


def test_two_crystals(csp, cif):
    code, out, err = csp(cif, cif)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "15 of 15 molecules, 0.00 Å" in out
    assert "yes: 1 of 1 kinds of molecules found" in out
    code, out, err = csp("other.cif", cif, "--shells", "8,15", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [shell["n"] for shell in document["shells"]] == [8, 15]
    assert document["shells"][1]["n_matched"] < 15
    assert "rmsd15" not in document["criteria"]


def test_a_run(csp, run, cif):
    code, out, _ = csp(run, cif)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    [first] = [line for line in out.splitlines() if "x-0" in line or "x-2" in line]
    assert first.split()[1] == "x-0"
    assert "1/1 yes" in first
    code, out, _ = csp(run, cif, "--json")
    document = json.loads(out)
    assert [s["rank"] for s in document["structures"]] == [2, 1]  # the match first
    form = next(c for c in document["criteria"] if c["name"] == "form")
    assert (form["structures"], form["of"], form["best_rank"]) == (1, 2, 2)
    assert form["lattice_energy_rel_kJ_mol"] == pytest.approx(0.1 * 96.4853, rel=1e-4)
    everything = json.loads(csp(run, cif, "--json", "--duplicates")[1])
    assert len(everything["structures"]) == 3
    near = json.loads(csp(run, cif, "--json", "--window", "1")[1])
    assert [s["rank"] for s in near["structures"]] == [1]


def test_mistakes(csp, run, cif, tmp_path):
    benzene = "data/benzene.cif"
    (tmp_path / "empty").mkdir()
    for arguments, sentence in (
        ((cif, "none.cif"), "The CIF 'none.cif' does not exist"),
        (("none", cif), "The CIF 'none' does not exist"),
        ((cif, cif, "--shells", "a"), "--shells a is not a list of numbers"),
        ((cif, cif, "--shells", "1,15"), "from 2 to 100"),
        ((tmp_path / "empty", cif), "empty"),
        ((cif, __file__.replace("flows/test_match_cli.py", benzene)), "but"),
        ((run, __file__.replace("flows/test_match_cli.py", benzene)), "holds molecules of C6"),
    ):
        code, out, err = csp(*arguments)
        assert (code, out) == (2, ""), err
        assert sentence in err
        assert "Traceback" not in err


def test_a_structure_whose_comparison_breaks_is_listed_last(csp, run, cif, monkeypatch):
    whole = match.match_row

    def breaks(row, *arguments):
        if row["rank"] == 2:
            raise RuntimeError("lost")
        return whole(row, *arguments)

    monkeypatch.setattr(match, "match_row", breaks)
    code, out, _ = csp(run, cif, "--json")
    structures = json.loads(out)["structures"]
    assert code == 0
    assert [s["rank"] for s in structures] == [1, 2]
    assert "RuntimeError: lost" in structures[1]["problem"]
    assert "shells" not in structures[1]
    assert "lost" in csp(run, cif)[1]
