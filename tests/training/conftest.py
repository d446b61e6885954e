"""A tiny training table made from nothing: two molecules in random cells."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

SMILES = {"aaaa": "NC(N)=O", "bbbb": "CC(=O)O"}


def _table_molecule(smiles, rng):
    """Numbers, bonds and coordinates in an order unlike ours: hydrogens first, shuffled."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    order = rng.permutation(mol.GetNumAtoms())
    order = sorted(order.tolist(), key=lambda i: mol.GetAtomWithIdx(i).GetAtomicNum() > 1)
    mol = Chem.RenumberAtoms(mol, order)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]
    return numbers, bonds, mol.GetConformer().GetPositions()


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tables")
    molecules, crystals = [], []
    for name, smiles in SMILES.items():
        numbers, bonds, x = _table_molecule(smiles, rng)
        molecules.append(
            {
                "mol_hash": name, "smiles": smiles, "split": "train",
                "numbers": numbers, "bonds": np.array(bonds).ravel(),
            }
        )  # fmt: skip
        for k in range(12):
            cell = np.diag(rng.uniform(5, 8, 3)) + rng.uniform(-1, 1, (3, 3))
            z = 2
            centres = rng.random((z, 3)) @ cell
            frac = (centres[:, None] + x) @ np.linalg.inv(cell)
            crystals.append(
                {
                    "mol_hash": name, "split": "train", "n_mol": z, "n_atoms_mol": len(numbers),
                    "erel_kjmol": float(k), "cell": cell.ravel(), "numbers": numbers * z,
                    "frac": frac.ravel(),
                }
            )  # fmt: skip
    pd.DataFrame(molecules).to_parquet(folder / "molecules.parquet")
    pd.DataFrame(crystals).to_parquet(folder / "crystals.parquet")
    return folder
