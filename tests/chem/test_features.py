"""Graph features against golden arrays of the published featuriser."""

import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from packflow_core.chem.features import (
    ATOM_FEATURE_SIZES,
    BOND_FEATURE_SIZES,
    graph_from_rdmol,
    molecular_graph,
)
from packflow_core.chem.molecule import Molecule

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = json.loads((GOLDEN / "featurizer.json").read_text())["molecules"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "featurizer.npz") as data:
        return dict(data)


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden_features_are_exact(golden, name):
    graph = graph_from_rdmol(Chem.MolFromSmiles(CASES[name]["smiles"]))
    assert (graph.numbers == golden[f"{name}/atom_types"]).all()
    assert (graph.node_features == golden[f"{name}/node_features"]).all()
    assert (graph.edge_index == golden[f"{name}/edge_index"]).all()
    assert (graph.bond_features == golden[f"{name}/per_bond_features"]).all()
    assert (graph.bond_features_official == golden[f"{name}/bond_features"]).all()
    wrong = (graph.bond_features_official != graph.bond_features_aligned).any(axis=1).sum()
    assert wrong == CASES[name]["edges_with_wrong_features"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_features_stay_inside_their_vocabularies(name):
    graph = molecular_graph(Molecule.from_smiles(CASES[name]["smiles"]))
    assert graph.node_features.min() >= 0
    assert (graph.node_features.max(axis=0) < ATOM_FEATURE_SIZES).all()
    assert (graph.bond_features.max(axis=0) < BOND_FEATURE_SIZES).all()


def test_aligned_features_belong_to_their_edge():
    graph = molecular_graph(Molecule.from_smiles("CC(=O)O"))
    features = {tuple(b): f for b, f in zip(graph.bonds.tolist(), graph.bond_features, strict=True)}
    for (i, j), f in zip(graph.edge_index.T.tolist(), graph.bond_features_aligned, strict=True):
        assert (features[min(i, j), max(i, j)] == f).all()


def test_tiles_repeat_the_molecule_and_its_scramble():
    one = molecular_graph(Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O"))
    three = one.tiled(3)
    n, e = len(one.numbers), 2 * len(one.bonds)
    assert three.z == 3
    for k in range(3):
        atoms, edges = slice(k * n, (k + 1) * n), slice(k * e, (k + 1) * e)
        assert (three.node_features[atoms] == one.node_features).all()
        assert (three.edge_index[:, edges] == one.edge_index + k * n).all()
        assert (three.bond_features_official[edges] == one.bond_features_official).all()
        assert (three.bond_features_aligned[edges] == one.bond_features_aligned).all()
    distance = three.graph_distance.reshape(3, n, 3, n)
    for a in range(3):
        for b in range(3):
            expected = one.graph_distance if a == b else np.full((n, n), -1)
            assert (distance[a, :, b] == expected).all()
    with pytest.raises(ValueError, match="only a one-molecule graph"):
        three.tiled(2)


def test_one_atom_has_a_graph():
    graph = molecular_graph(Molecule.from_smiles("C"))
    assert graph.edge_index.shape == (2, 0)
    assert graph.bond_features_official.shape == (0, 2)
    assert graph.node_features[0, [0, 1, 3, 5, 6]].tolist() == [5, 4, 4, 4, 2]
