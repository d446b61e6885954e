"""Atom and bond features of the heavy-atom graph (PackFlow, appendix I, tables I3 and I4).

Every feature is the index of a value in a fixed vocabulary; a value outside it takes the last
index ("misc"). The arrays are what the published models were trained on, including the order in
which they pair bond features with edges (`MolecularGraph.bond_features_official`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.molecule import Molecule

IntArray = NDArray[np.int64]

#: Number of indices of each atom feature: atomic number, total degree, ring count, implicit
#: valence, formal charge, number of H, hybridisation, aromatic, in a 5-ring, in a 6-ring.
ATOM_FEATURE_SIZES = (75, 12, 4, 8, 12, 6, 6, 2, 2, 2)
#: Number of indices of each bond feature: bond type, conjugated.
BOND_FEATURE_SIZES = (5, 2)

_HYBRIDIZATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
_BOND_TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")


@dataclass(frozen=True, eq=False)
class MolecularGraph:
    """Heavy-atom graph of one molecule, or of the Z molecules of a cell after `tiled`.

    Attributes:
        numbers: [n] atomic numbers.
        node_features: [n, 10] vocabulary indices.
        bonds: [nb, 2] atom pairs.
        bond_features: [nb, 2] vocabulary indices, aligned with `bonds`.
        graph_distance: [n, n] bonds on the shortest path, -1 between different molecules.
        z: number of molecules.
    """

    numbers: IntArray
    node_features: IntArray
    bonds: IntArray
    bond_features: IntArray
    graph_distance: IntArray
    z: int = 1

    @property
    def edge_index(self) -> IntArray:
        """[2, 2 nb] directed edges: edge 2b is (i, j) of bond b, edge 2b + 1 is (j, i)."""
        both = np.stack([self.bonds, self.bonds[:, ::-1]], axis=1).reshape(-1, 2)
        return np.ascontiguousarray(both.T)

    @property
    def bond_features_aligned(self) -> IntArray:
        """[2 nb, 2] features of the edges of `edge_index`, each edge with those of its bond."""
        return np.repeat(self.bond_features, 2, axis=0)

    @property
    def bond_features_official(self) -> IntArray:
        """[2 nb, 2] as the published code pairs them: edge k takes bond k mod nb of its molecule.

        The published featuriser concatenates the per-bond list with itself while its edges are
        interleaved, so most edges carry another bond's features; the published weights were
        trained on exactly that, one molecule at a time before tiling.
        """
        per_molecule = len(self.bonds) // self.z
        blocks = self.bond_features.reshape(self.z, per_molecule, 2)
        return np.concatenate([blocks, blocks], axis=1).reshape(-1, 2)

    def tiled(self, z: int) -> MolecularGraph:
        """The graph of z copies of a one-molecule graph, copy after copy."""
        if self.z != 1:
            raise ValueError(f"only a one-molecule graph can be tiled, this one has {self.z}")
        n = len(self.numbers)
        offsets = np.repeat(np.arange(z) * n, len(self.bonds))[:, None]
        distance = np.full((z * n, z * n), -1, dtype=np.int64)
        for k in range(z):
            distance[k * n : (k + 1) * n, k * n : (k + 1) * n] = self.graph_distance
        return MolecularGraph(
            numbers=np.tile(self.numbers, z),
            node_features=np.tile(self.node_features, (z, 1)),
            bonds=np.tile(self.bonds, (z, 1)) + offsets,
            bond_features=np.tile(self.bond_features, (z, 1)),
            graph_distance=distance,
            z=z,
        )


def molecular_graph(molecule: Molecule) -> MolecularGraph:
    """Featurised heavy-atom graph of a molecule, atoms in the order of `Molecule`."""
    return graph_from_rdmol(molecule.rdmol)


def graph_from_rdmol(mol: Chem.Mol) -> MolecularGraph:
    """Featurised graph of a sanitised RDKit molecule without explicit hydrogens."""
    rings = mol.GetRingInfo()
    nodes = []
    for atom in mol.GetAtoms():
        atom.UpdatePropertyCache()
        index = atom.GetIdx()
        nodes.append(
            (
                _index(atom.GetAtomicNum() - 1, 74),
                _index(atom.GetTotalDegree(), 11),
                _index(rings.NumAtomRings(index), 3),
                _index(atom.GetValence(Chem.ValenceType.IMPLICIT), 7),
                _index(atom.GetFormalCharge() + 5, 11),
                _index(atom.GetTotalNumHs(), 5),
                _name_index(str(atom.GetHybridization()), _HYBRIDIZATIONS),
                int(atom.GetIsAromatic()),
                int(rings.IsAtomInRingOfSize(index, 5)),
                int(rings.IsAtomInRingOfSize(index, 6)),
            )
        )
    bonds, features = [], []
    for bond in mol.GetBonds():
        bonds.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        features.append(
            (_name_index(str(bond.GetBondType()), _BOND_TYPES), int(bond.GetIsConjugated()))
        )
    distance = Chem.GetDistanceMatrix(mol)
    return MolecularGraph(
        numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.int64),
        node_features=np.array(nodes, dtype=np.int64).reshape(-1, 10),
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        bond_features=np.array(features, dtype=np.int64).reshape(-1, 2),
        # RDKit marks unconnected pairs with a huge number.
        graph_distance=np.where(distance > 1e6, -1, distance).astype(np.int64),
    )


def _index(value: int, misc: int) -> int:
    """Vocabulary 0, 1, ..., misc - 1 with the last index for everything else."""
    return value if 0 <= value < misc else misc


def _name_index(name: str, vocabulary: tuple[str, ...]) -> int:
    return vocabulary.index(name) if name in vocabulary else len(vocabulary)
