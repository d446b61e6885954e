"""From tables to heavy-atom training crystals."""

import numpy as np
import pandas as pd
import pytest

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.lattice import cell_to_parameters, parameters_to_cell
from packflow_core.errors import UserInputError
from packflow_core.training.data import TrainingSet, prepare


@pytest.fixture(scope="module")
def data(tables):
    return prepare(tables / "crystals.parquet", tables / "molecules.parquet", "train")


def test_atoms_follow_the_graph(data):
    """Bonds of the graph are bonds in space: the table's order was mapped correctly."""
    for k in range(len(data)):
        molecule = Molecule.from_smiles(data.smiles[data.molecule[k]])
        x = data.crystal(k)
        assert x.shape == (2, molecule.n_heavy, 3)
        length = np.linalg.norm(x[:, molecule.bonds[:, 0]] - x[:, molecule.bonds[:, 1]], axis=-1)
        assert ((length > 1.1) & (length < 1.65)).all()


def test_double_bonded_oxygen_is_the_short_one(data):
    """Acetic acid: C=O and C-O must not be exchanged, although both are C and O."""
    index = data.smiles.index(Molecule.from_smiles("CC(=O)O").smiles)
    molecule = Molecule.from_smiles("CC(=O)O")
    x = data.crystal(int(np.flatnonzero(data.molecule == index)[0]))[0]
    lengths = {}
    for bond in molecule.rdmol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        lengths[str(bond.GetBondType()), molecule.numbers[[i, j]].sum()] = np.linalg.norm(
            x[i] - x[j]
        )
    assert lengths["DOUBLE", 14] < lengths["SINGLE", 14] - 0.05


def test_cells_are_reduced_and_in_the_standard_frame(data, tables):
    volumes = sorted(abs(np.linalg.det(data.cells.astype(float))))
    rows = pd.read_parquet(tables / "crystals.parquet")
    before = sorted(abs(np.linalg.det(np.stack(rows["cell"]).reshape(-1, 3, 3))))
    kept = [v for v in before if min(abs(np.array(volumes) - v)) < 1e-2]
    assert len(kept) == len(data) > 12
    for cell in data.cells:
        p = cell_to_parameters(cell)
        np.testing.assert_allclose(parameters_to_cell(p), cell, atol=1e-4)
        assert (p[3:] >= 60).all()
        assert (p[3:] <= 120).all()


def test_weights_prefer_low_energy_and_share_between_molecules(data):
    w = data.weights(temperature=6.0)
    assert w.sum() == pytest.approx(1.0)
    counts = np.bincount(data.molecule)
    shares = np.bincount(data.molecule, weights=w)
    expected = np.sqrt(counts) / np.sqrt(counts).sum()
    np.testing.assert_allclose(shares, expected)
    same = np.flatnonzero(data.molecule == 0)
    ratio = w[same[1]] / w[same[0]]
    assert ratio == pytest.approx(np.exp(-(data.erel[same[1]] - data.erel[same[0]]) / 6.0))


def test_round_trip_through_the_compact_file(data, tmp_path):
    data.save(tmp_path / "set.npz")
    again = TrainingSet.load(tmp_path / "set.npz")
    assert again.smiles == data.smiles
    for name in ("molecule", "z", "cells", "erel", "offsets", "positions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    np.testing.assert_array_equal(again.graphs[1].node_features, data.graphs[1].node_features)


def test_wrong_files_get_a_sentence(tmp_path, tables):
    (tmp_path / "bad.npz").write_bytes(b"not a file")
    with pytest.raises(UserInputError, match="not a training set"):
        TrainingSet.load(tmp_path / "bad.npz")
    with pytest.raises(UserInputError, match="Cannot read"):
        prepare(tmp_path / "none.parquet", tables / "molecules.parquet", "train")
    with pytest.raises(UserInputError, match="No crystal of split 'val'"):
        prepare(tables / "crystals.parquet", tables / "molecules.parquet", "val")
