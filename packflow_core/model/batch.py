"""Graphs of crystals as padded tensors: what the transformers are conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packflow_core.chem.features import BOND_FEATURE_SIZES, MolecularGraph

#: Pair codes of `pair_codes`: 0 other molecule, 1 the atom itself, 2 to 11 bonded by type and
#: conjugation, then 1-3, 1-4, 1-5, 1-6 and further in the same molecule.
N_BOND_CODES = BOND_FEATURE_SIZES[0] * BOND_FEATURE_SIZES[1]
N_PAIR_CODES = 2 + N_BOND_CODES + 5
_FIRST_DISTANCE_CODE = 2 + N_BOND_CODES
#: Codes 2 up to this one are bonded and 1-3 pairs.
LAST_13_CODE = _FIRST_DISTANCE_CODE


@dataclass(frozen=True)
class GraphBatch:
    """B crystals padded to N heavy atoms; B is 1 when all candidates share one target.

    Attributes:
        numbers: [B, N] atomic numbers, 0 where padded.
        node_features: [B, N, 10] vocabulary indices.
        pair_code: [B, N, N] relation of two atoms, see the codes above.
        edge_index: [3, E] crystal, source and destination of each directed bond.
        edge_features: [E, 2] bond features, in the pairing of the published code.
        mask: [B, N] True for real atoms.
        molecule: [B, N] index of the molecule of each atom.
        z: [B] molecules per cell.
        padded: False where all crystals are known to have N atoms.
    """

    numbers: Tensor
    node_features: Tensor
    pair_code: Tensor
    edge_index: Tensor
    edge_features: Tensor
    mask: Tensor
    molecule: Tensor
    z: Tensor
    padded: bool = True

    def to(self, device: torch.device | str) -> GraphBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)


def pair_codes(graph: MolecularGraph) -> np.ndarray:
    """[n, n] relation codes of a graph (see `N_PAIR_CODES`)."""
    distance = graph.graph_distance
    codes = np.where(distance < 0, 0, _FIRST_DISTANCE_CODE + np.clip(distance - 2, 0, 4))
    np.fill_diagonal(codes, 1)
    if len(graph.bonds):
        i, j = graph.bonds.T
        code = 2 + graph.bond_features[:, 0] * BOND_FEATURE_SIZES[1] + graph.bond_features[:, 1]
        codes[i, j] = codes[j, i] = code
    return codes.astype(np.int64)


def make_graph_batch(graphs: Sequence[MolecularGraph]) -> GraphBatch:
    """Pad graphs of whole cells (already tiled) to one batch."""
    size = max(len(g.numbers) for g in graphs)
    b = len(graphs)
    numbers = np.zeros((b, size), dtype=np.int64)
    nodes = np.zeros((b, size, 10), dtype=np.int64)
    codes = np.zeros((b, size, size), dtype=np.int64)
    molecule = np.zeros((b, size), dtype=np.int64)
    mask = np.zeros((b, size), dtype=bool)
    edges, features = [], []
    for k, graph in enumerate(graphs):
        n = len(graph.numbers)
        numbers[k, :n], nodes[k, :n], mask[k, :n] = graph.numbers, graph.node_features, True
        codes[k, :n, :n] = pair_codes(graph)
        molecule[k, :n] = np.repeat(np.arange(graph.z), n // graph.z)
        edge = graph.edge_index
        edges.append(np.concatenate([np.full((1, edge.shape[1]), k), edge]))
        features.append(graph.bond_features_official)
    return GraphBatch(
        numbers=torch.from_numpy(numbers),
        node_features=torch.from_numpy(nodes),
        pair_code=torch.from_numpy(codes),
        edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
        edge_features=torch.from_numpy(np.concatenate(features, axis=0)),
        mask=torch.from_numpy(mask),
        molecule=torch.from_numpy(molecule),
        z=torch.tensor([g.z for g in graphs]),
        padded=any(len(g.numbers) != size for g in graphs),
    )
