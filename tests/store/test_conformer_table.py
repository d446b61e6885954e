"""The stored pool: every bit of it, units, when it is taken again and when it is made anew."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import ensemble_key, make_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import RunFailedError
from packflow_core.store import conformer_table
from packflow_core.store.conformer_table import (
    CONFORMERS_FILE,
    SCHEMA,
    read_conformer_table,
    stored_ensemble,
    write_conformers,
)


def test_a_pool_comes_back_bit_for_bit(tmp_path):
    pool = make_ensemble(Molecule.from_smiles("C[C@H](O)CCC"), ConformerParams(n_embed=12))
    path = tmp_path / "pool.parquet"
    write_conformers(pool, path, "key")
    back = read_conformer_table(path)
    assert (back.positions == pool.positions).all()
    assert (back.energies == pool.energies).all()
    assert (back.found == pool.found).all()
    assert (back.digest, back.method, back.counts, back.notes, back.molecule.smiles) == (
        pool.digest, pool.method, pool.counts, pool.notes, pool.molecule.smiles
    )  # fmt: skip
    assert read_conformer_table(path) is back


def test_unknown_energies_are_empty_and_come_back_as_nan(tmp_path):
    pool = make_ensemble(Molecule.from_smiles("FS(F)(F)(F)(F)C"), ConformerParams(n_embed=10))
    path = tmp_path / "pool.parquet"
    write_conformers(pool, path)
    assert pq.read_table(path)["energy_kJ_mol"].null_count == len(pool)
    assert np.isnan(read_conformer_table(path).energies).all()


def test_columns_have_units_and_the_file_its_origin(tmp_path):
    molecule, params = Molecule.from_smiles("CCCC"), ConformerParams()
    stored_ensemble(tmp_path, molecule, params)
    schema = pq.read_schema(tmp_path / CONFORMERS_FILE)
    units = {field.name: field.metadata.get(b"unit", b"").decode() for field in schema}
    assert units["energy_kJ_mol"] == "kJ/mol"
    assert units["positions"] == units["rmsd_A"] == units["gyration_A"] == "Å"
    assert all(field.metadata[b"description"] for field in SCHEMA)
    assert schema.metadata[b"smiles"] == b"CCCC"
    assert schema.metadata[b"key"].decode() == ensemble_key(molecule, params)
    assert json.loads(schema.metadata[b"counts"])["asked"] == 50


def test_a_stored_pool_is_taken_until_the_settings_change(tmp_path, monkeypatch):
    molecule, params = Molecule.from_smiles("CCCO"), ConformerParams(n_embed=8)
    first = stored_ensemble(tmp_path, molecule, params)

    def made(*_):
        raise AssertionError("a pool that is stored was made again")

    monkeypatch.setattr(conformer_table, "make_ensemble", made)
    assert stored_ensemble(tmp_path, molecule, params).digest == first.digest
    with pytest.raises(AssertionError):
        stored_ensemble(tmp_path, molecule, ConformerParams(n_embed=9))
    monkeypatch.undo()
    (tmp_path / CONFORMERS_FILE).write_bytes(b"PAR1 torn")
    assert stored_ensemble(tmp_path, molecule, params).digest == first.digest


def test_a_damaged_pool_is_named(tmp_path):
    path = tmp_path / CONFORMERS_FILE
    with pytest.raises(RunFailedError, match="missing or damaged; remove it"):
        read_conformer_table(path)
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(RunFailedError, match="missing or damaged"):
        read_conformer_table(path)
