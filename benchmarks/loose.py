"""Candidates for benchmarks without a generator: molecules in boxes, tilted at random, loose."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import Row, crystal_columns

#: Å around the atoms of a molecule in its box.
GAP = 2.4


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> tuple[Molecule, np.ndarray]:
    """Molecule and its conformer [n, 3] Å along its principal axes."""
    molecule = Molecule.from_smiles(smiles)
    drawn = Chem.Mol(molecule.rdmol_h)
    AllChem.EmbedMolecule(drawn, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(drawn)
    xyz = drawn.GetConformer().GetPositions()
    xyz = xyz - xyz.mean(axis=0)
    return molecule, xyz @ np.linalg.svd(xyz, full_matrices=False)[2].T


def loose_crystal(smiles: str, z: int, seed: int) -> Crystal:
    """A crystal of z molecules in a sheared cell about half again as large as it should be."""
    _, xyz = _molecule(smiles)
    rng = np.random.default_rng([seed, z])
    box = np.ptp(xyz, axis=0) + GAP
    # Stacked along the shortest edges first, so that the cell is no needle.
    counts = np.ones(3, dtype=int)
    while counts.prod() < z:
        counts[np.argmin(counts * box)] *= 2
    cell = np.diag(counts * box * rng.uniform(1.0, 1.08, 3))
    cell[1, 0], cell[2, 0], cell[2, 1] = rng.uniform(-0.8, 0.8, 3)
    places = np.argwhere(np.ones(counts))[:z]
    positions = []
    for place in places:
        turn = np.diag(rng.choice([-1.0, 1.0], 3))
        turn[2, 2] *= np.linalg.det(turn)
        tilt = rng.normal(0, 0.12, 3)
        angle = np.linalg.norm(tilt)
        k = np.cross(np.eye(3), tilt / angle)
        turn = turn @ (np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)
        shift = ((place + 0.5) / counts) @ cell + rng.normal(0, 0.1, 3)
        positions.append(xyz @ turn + shift)
    numbers = _molecule(smiles)[0].numbers_h
    return Crystal(np.tile(numbers, z), np.concatenate(positions), cell, z)


def loose_row(smiles: str, z: int, index: int, seed: int = 0, name: str = "bench") -> Row:
    """Row of the stage `hydrogenate` that holds `loose_crystal`."""
    crystal = loose_crystal(smiles, z, seed * 1_000_003 + index)
    return {
        "candidate_id": f"{name}-z{z}-{index:06d}", "index": index, "campaign": "bench",
        "target": name, "method": "loose", "seed": seed, "status": "ok", "reason": "",
        "detail": "", **crystal_columns(crystal),
    }  # fmt: skip
