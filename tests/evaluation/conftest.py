"""Known crystals of urea and benzene as a folder of CIFs and as tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from packflow_core.crystal.cif import read_cif

DATA = Path(__file__).parents[1] / "data"
SMILES = {"urea": "NC(N)=O", "benzene": "c1ccccc1"}


@pytest.fixture(scope="session")
def crystals():
    """The two crystals, whole cells with hydrogens."""
    return {name: read_cif(DATA / f"{name}.cif") for name in SMILES}


@pytest.fixture
def folder(tmp_path):
    """A folder of CIFs with a manifest."""
    made = tmp_path / "forms"
    made.mkdir()
    rows = []
    for name, smiles in SMILES.items():
        (made / f"{name}.cif").write_text((DATA / f"{name}.cif").read_text())
        rows.append({"file": f"{name}.cif", "smiles": smiles, "csd_refcode": f"{name.upper()}01"})
    pd.DataFrame(rows).to_csv(made / "manifest.csv", index=False)
    return made


def crystal_row(crystal, **columns):
    """A row of crystals.parquet."""
    return {
        "n_mol": crystal.z, "n_atoms_mol": len(crystal) // crystal.z,
        "cell": crystal.cell.ravel().astype(np.float32), "numbers": crystal.numbers.tolist(),
        "frac": crystal.fractional.ravel().astype(np.float32), "split": "test",
        "origin": "experimental", "id": "db/1", "refcode_family": None, "exp_info": None,
        **columns,
    }  # fmt: skip


@pytest.fixture
def tables(tmp_path, crystals):
    """Path of crystals.parquet with molecules.parquet beside it."""
    made = tmp_path / "tables"
    made.mkdir()
    molecules = [
        {"mol_hash": name, "smiles": smiles, "split": "test", "name": name.title()}
        for name, smiles in SMILES.items()
    ]
    molecules.append({"mol_hash": "lone", "smiles": "CC", "split": "test", "name": "Ethane"})
    molecules.append({"mol_hash": "seen", "smiles": "CO", "split": "train", "name": "Methanol"})
    rows = [
        crystal_row(crystals["urea"], mol_hash="urea", id="db/urea"),
        crystal_row(crystals["urea"].repeated((1, 1, 2)), mol_hash="urea", id="db/double"),
        crystal_row(
            _shrunk(crystals["urea"]), mol_hash="urea", origin="csp_matches_experiment",
            refcode_family="UREAXX", exp_info="UREAXX02 (Form I)",
        ),
        crystal_row(crystals["benzene"], mol_hash="benzene", origin="csp", id="db/predicted"),
        crystal_row(crystals["benzene"], mol_hash="benzene", split="train", id="db/train"),
    ]  # fmt: skip
    pd.DataFrame(molecules).to_parquet(made / "molecules.parquet")
    pd.DataFrame(rows).to_parquet(made / "crystals.parquet")
    return made / "crystals.parquet"


def _shrunk(crystal):
    """The crystal with a cell 2 % shorter in every direction, molecules as they are."""
    centres = crystal.positions.reshape(crystal.z, -1, 3).mean(axis=1)
    moved = crystal.positions.reshape(crystal.z, -1, 3) - 0.02 * centres[:, None]
    return crystal.with_positions(moved.reshape(-1, 3), 0.98 * crystal.cell)
