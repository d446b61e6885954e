"""`csp conformers`: table, files, JSON, and one sentence for every mistake."""

import json
from functools import partial

import pyarrow.parquet as pq
import pytest
from rdkit import Chem

ROY = "Cc1cc(C#N)c(Nc2ccccc2[N+](=O)[O-])s1"


@pytest.fixture
def csp(call_csp, monkeypatch, tmp_path):
    """Call the command in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    return partial(call_csp, "conformers")


def test_table_and_files(csp, tmp_path):
    code, out, err = csp(ROY, "--n", "20", "--window", "30", "--out", "roy")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert ROY in lines[0]
    assert "of 20 geometries" in lines[1]
    rows = [line for line in lines if line.startswith("│")]
    folder = tmp_path / "roy"
    table = pq.read_table(folder / "conformers.parquet")
    mols = list(Chem.SDMolSupplier(str(folder / "conformers.sdf"), removeHs=False))
    frames = (folder / "conformers.xyz").read_text().count("conformer=")
    assert len(rows) == len(table) == len(mols) == frames > 1
    assert f"{table['energy_kJ_mol'][1].as_py():.1f}" in rows[1]
    assert f"{table['rmsd_A'][1].as_py():.2f}" in rows[1]
    assert mols[1].GetProp("rmsd_A") == f"{table['rmsd_A'][1].as_py():.4f}"


def test_json_is_one_document(csp):
    code, out, err = csp("CCCC", "--json", "--seed", "3", "--max", "1")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["params"]["seed"] == 3
    assert document["counts"]["beyond"] > 0
    [only] = document["conformers"]
    assert (only["conformer"], only["energy_kJ_mol"], only["rmsd_A"]) == (0, 0.0, 0.0)
    assert document["folder"].endswith(f"conformers/{document['target']}")


def test_own_conformers_are_read_again_without_energies_too(csp, tmp_path):
    csp("FS(F)(F)(F)(F)C", "--n", "10", "--out", "a", "--quiet")
    code, out, _ = csp("CS(F)(F)(F)(F)F", "--file", "a/conformers.sdf", "--out", "b", "--json")
    assert code == 0
    document = json.loads(out)
    assert {c["energy_kJ_mol"] for c in document["conformers"]} == {None}
    assert pq.read_table(tmp_path / "a/conformers.parquet").num_rows == len(document["conformers"])


def test_target_file_and_quiet(csp, tmp_path):
    (tmp_path / "urea.yaml").write_text("smiles: NC(N)=O\nname: urea\nz: [2]\n")
    assert csp("urea.yaml", "--quiet", "--n", "3") == (0, "", "")
    assert (tmp_path / "conformers/urea/conformers.xyz").is_file()


def test_engine_sorts_the_conformers_anew(csp):
    code, out, _ = csp("CCCC", "--optimise", "gfnff", "--workers", "1", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["method"] == "gfnff"
    energies = [c["energy_kJ_mol"] for c in document["conformers"]]
    assert energies[0] == 0.0
    assert 1.0 < energies[1] < 6.0
    assert document["params"]["window_kJ_mol"] == 25.0


MISTAKES = {
    "SMILES": (["c1cccc1"], "is not a valid SMILES"),
    "file": (["CC", "--file", "no.xyz"], "'no.xyz' does not exist"),
    "file of another molecule": (["CC", "--file", "urea.xyz"], "does not hold the molecule 'CC'"),
    "engine": (["CC", "--optimise", "nope"], "Unknown engine 'nope'"),
    "device": (["CC", "--optimise", "gfnff", "--device", "cuda"], "cannot use a GPU"),
    "window": (["CC", "--window", "-1"], "Invalid value for '--window'"),
    "infinite window": (["CC", "--window", "inf"], "window_kJ_mol = inf is not allowed"),
    "folder of another molecule": (["CC", "--out", "taken"], "holds the conformers of NC(N)=O"),
    "folder of a run": (["CC", "--out", "run"], "is the folder of a run"),
    "no folder": (["CC", "--out", "/dev/null/x"], "/dev/null/x cannot be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(csp, tmp_path, mistake):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    csp("NC(N)=O", "--n", "1", "--out", "taken", "--quiet")
    (tmp_path / "taken/conformers.xyz").rename(tmp_path / "urea.xyz")
    arguments, says = MISTAKES[mistake]
    code, out, err = csp(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "conformers").exists()
