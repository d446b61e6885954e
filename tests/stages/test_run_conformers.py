"""One pool of conformers for a run: rows name its members, keys depend on it, files may go."""

import numpy as np
import pytest

from packflow_core.chem import conformer_search
from packflow_core.chem.conformer_nearest import nearest_conformer
from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec, read_target
from packflow_core.stages import generators
from packflow_core.stages.conformers import conformers_file, conformers_of
from packflow_core.stages.plan import make_plan
from packflow_core.stages.rank import RankParams, analyse
from packflow_core.stages.registry import arguments
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.conformer_table import CONFORMERS_FILE
from packflow_core.store.rows import crystal_of

SPEC = {
    "smiles": "CC(=O)Nc1ccc(O)cc1", "name": "paracetamol", "z": [2, 4], "n": 12,
    "generator": "random", "conformers": {"n_embed": 10},
}  # fmt: skip


def opened(folder, **fields):
    spec = make_spec({**SPEC, **fields})
    return OpenRun(folder, plan_for(spec, folder))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A run with random packings, and their rows."""
    with opened(tmp_path_factory.mktemp("conformers") / "run") as run:
        yield run, generators.make_rows(run, [(i, 1) for i in range(12)])


def test_molecules_of_a_packing_are_the_conformer_that_its_row_names(packed):
    run, rows = packed
    assert (run.folder / CONFORMERS_FILE).is_file()
    pool = conformers_of(run)
    # They differ by their hydroxyl group alone.
    assert len(pool) == 2
    assert {row["conformer"] for row in rows} == {0, 1}
    for row in rows:
        index, rmsd = nearest_conformer(crystal_of(row), pool)
        assert set(index.tolist()) == {row["conformer"]}
        assert rmsd == pytest.approx(np.zeros(row["z"]), abs=0.02)


def test_ranking_names_the_conformers_of_any_crystal(packed):
    run, rows = packed
    smiles, params, reference, pool = arguments("rank", run)
    assert pool == str(run.folder / CONFORMERS_FILE)
    relaxed = {**rows[1], "energy_eV": -1.0, "conformer": None}
    row = analyse(relaxed, smiles, params, reference, pool)
    assert row["conformers"] == [rows[1]["conformer"]] * 4
    assert row["conformer_rmsd_A"] < 0.02
    assert analyse(relaxed, smiles, params, None)["conformers"] is None
    failed = analyse({**relaxed, "status": "failed"}, smiles, RankParams(), None, pool)
    assert (failed["conformers"], failed["conformer_rmsd_A"]) == (None, None)


def test_keys_depend_on_the_pool_where_rows_do():
    def key(stage, **fields):
        return make_plan(make_spec({**SPEC, **fields})).key(stage)

    other = {"conformers": {"n_embed": 11}}
    assert key("generate") != key("generate", **other)
    model = {"generator": "packflow-open"}
    assert key("generate", **model) == key("generate", **model, **other)
    assert key("relax", **model) == key("relax", **model, **other)
    assert key("rank", **model) != key("rank", **model, **other)


def test_a_molecule_without_conformers_is_ranked_all_the_same(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        conformer_search.rdDistGeom, "EmbedMultipleConfs", lambda *a: calls.append(a)
    )
    with opened(tmp_path / "run", smiles="CCCCN", generator="packflow-open") as run:
        assert conformers_file(run) is None
        tried = len(calls)
        assert arguments("rank", run)[3] is None
        assert len(calls) == tried > 0


def test_conformers_of_a_file_are_checked_first_and_kept(packed, tmp_path):
    from packflow_core.chem.conformer_files import write_xyz

    path = tmp_path / "dft.xyz"
    write_xyz(conformers_of(packed[0]), path)
    with pytest.raises(UserInputError, match="does not hold the molecule 'CCO'"):
        make_plan(make_spec({**SPEC, "smiles": "CCO", "conformers": {"file": str(path)}}))
    fields = {"conformers": {"file": str(path)}}
    with opened(tmp_path / "run", **fields) as run:
        digest = conformers_of(run).digest
        assert "a file" in run.plan.identity()["conformers"]
    path.unlink()
    with opened(tmp_path / "run", **fields) as run:
        assert conformers_of(run).digest == digest
    path.write_text("1\n\nH 0 0 0\n")
    with pytest.raises(UserInputError, match="does not hold the molecule"):
        plan_for(make_spec({**SPEC, **fields}), tmp_path / "run")


def test_a_target_file_names_conformers_beside_it(tmp_path):
    target = tmp_path / "target.yaml"
    target.write_text("smiles: CCO\nconformers:\n  file: mine.xyz\n")
    assert read_target(target)["conformers"]["file"] == str(tmp_path / "mine.xyz")
