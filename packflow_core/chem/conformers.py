"""Conformer pools: what a molecule may look like, embedded once and shared by all candidates."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import Stereo, senses, stereo_of
from packflow_core.crystal.unwrap import BOND_SLACK
from packflow_core.errors import RunFailedError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Conformers whose heavy atoms agree within this RMSD (Å) are one.
_PRUNE_RMSD = 0.15
_MAX_AUTOMORPHISMS = 192
_FORCE_FIELD_STEPS = 2000


class ConformerError(RunFailedError):
    """No conformer of the molecule could be embedded."""


@dataclass(frozen=True, eq=False)
class ConformerPool:
    """Conformers of one molecule, lowest energy first.

    Attributes:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å in the order of `Molecule` (heavy atoms, then hydrogens); the
            mean of the heavy atoms lies at the origin.
        energies: [K] kcal/mol above the first, NaN without a force field.
        force_field: "MMFF94", "UFF" or "none" (distance geometry only).
        stereo: the stereo elements of the SMILES, which every conformer has right.
    """

    molecule: Molecule
    positions: FloatArray
    energies: FloatArray
    force_field: str
    stereo: Stereo = field(repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def heavy(self) -> FloatArray:
        """[K, n, 3] heavy atoms in Å."""
        return self.positions[:, : self.molecule.n_heavy]

    @cached_property
    def _distances(self) -> FloatArray:
        x = self.heavy
        return np.asarray(np.linalg.norm(x[:, :, None] - x[:, None], axis=-1), dtype=np.float64)

    @cached_property
    def bond_lengths(self) -> FloatArray:
        """[nb] mean length in Å of each heavy-atom bond of `Molecule.bonds`."""
        bonds = self.molecule.bonds
        return np.asarray(self._distances[:, bonds[:, 0], bonds[:, 1]].mean(axis=0))

    @cached_property
    def angle_pairs(self) -> IntArray:
        """[na, 2] heavy atoms two bonds apart."""
        return np.argwhere(np.triu(self.molecule.graph_distance == 2))

    @cached_property
    def angle_distances(self) -> FloatArray:
        """[na, 2] smallest and largest distance in Å of each of the `angle_pairs`."""
        d = self._distances[:, self.angle_pairs[:, 0], self.angle_pairs[:, 1]]
        return np.stack([d.min(axis=0), d.max(axis=0)], axis=1)

    @cached_property
    def apart_pairs(self) -> IntArray:
        """[np, 2] heavy atoms three or more bonds apart."""
        return np.argwhere(np.triu(self.molecule.graph_distance >= 3))

    @cached_property
    def apart_distances(self) -> FloatArray:
        """[np] distance in Å below which `apart_pairs` would be taken for bonded or collapsed."""
        pairs = self.apart_pairs
        bonded = COVALENT_RADII[self.molecule.numbers[pairs]].sum(axis=1) + BOND_SLACK
        # Cages hold such atoms close: never ask for more than the conformers do.
        closest = self._distances[:, pairs[:, 0], pairs[:, 1]].min(axis=0)
        return np.asarray(np.minimum(bonded, 0.9 * closest))

    @cached_property
    def stereo_handles(self) -> tuple[IntArray, IntArray]:
        """Heavy atoms that tell the sense of each stereo element (`Stereo.handles`)."""
        return self.stereo.handles()

    @cached_property
    def stereo_senses(self) -> FloatArray:
        """[m] sign of each stereo element in the conformers, 0 where heavy atoms do not tell."""
        return np.asarray(np.sign(senses(self.heavy[0], *self.stereo_handles)))

    @cached_property
    def automorphisms(self) -> IntArray:
        """[A, n] permutations of the heavy atoms that leave the molecular graph as it is."""
        return heavy_automorphisms(self.molecule)

    @cached_property
    def hydrogens_of(self) -> tuple[IntArray, ...]:
        """For each heavy atom the indices of its hydrogens in `positions`."""
        parent = hydrogen_parents(self.molecule)
        n = self.molecule.n_heavy
        return tuple(n + np.flatnonzero(parent == k) for k in range(n))

    def permutation_with_hydrogens(self, heavy: IntArray) -> IntArray:
        """[n_atoms] permutation that takes along the hydrogens of permuted heavy atoms [n]."""
        out = np.empty(self.molecule.n_atoms, dtype=np.int64)
        out[: len(heavy)] = heavy
        for k, source in enumerate(heavy.tolist()):
            out[self.hydrogens_of[k]] = self.hydrogens_of[source]
        return out


def conformer_pool(molecule: Molecule, n_conformers: int = 20, seed: int = 0) -> ConformerPool:
    """Conformers of a molecule, computed once per process for the same arguments.

    ETKDGv3 embeds (with random starting coordinates where the usual ones fail), MMFF94 or else
    UFF relaxes, duplicates and conformers whose stereochemistry went wrong are dropped.

    Args:
        molecule: the molecule.
        n_conformers: conformers to embed; fewer may remain.
        seed: seed of the embedding.

    Raises:
        ConformerError: nothing could be embedded.
    """
    pool = _pool_or_error(molecule.smiles, n_conformers, seed)
    if isinstance(pool, ConformerError):
        raise pool
    return pool


@lru_cache(maxsize=64)
def _pool_or_error(smiles: str, n_conformers: int, seed: int) -> ConformerPool | ConformerError:
    """The pool, or the error: a hopeless embedding takes long and must not be tried again."""
    try:
        return _make_pool(smiles, n_conformers, seed)
    except ConformerError as error:
        return error


def _make_pool(smiles: str, n_conformers: int, seed: int) -> ConformerPool:
    molecule = Molecule.from_smiles(smiles)
    stereo = stereo_of(molecule)
    mol, conformers = _embed(molecule, n_conformers, seed)
    energies, force_field = _optimise(mol, len(conformers))
    positions = np.stack([mol.GetConformer(c).GetPositions() for c in conformers])
    finite = np.isfinite(positions).all(axis=(1, 2))
    # The labels of all conformers must agree, so that one sense per element can be expected.
    good = [k for k in np.flatnonzero(finite) if not stereo.inverted_in(positions[k]).any()]
    if not good:
        raise ConformerError(
            f"No 3D conformer of '{smiles}' could be made with the stereochemistry it asks for; "
            "check the SMILES."
        )
    keep = np.array(good)
    positions, energies = positions[keep], energies[keep]
    order = np.argsort(energies, kind="stable")
    positions, energies = positions[order], energies[order]
    n = molecule.n_heavy
    positions = positions - positions[:, :n].mean(axis=1, keepdims=True)
    distinct: list[int] = []
    for k in range(len(positions)):
        if all(_rmsd(positions[k, :n], positions[d, :n]) > _PRUNE_RMSD for d in distinct):
            distinct.append(k)
    positions, energies = positions[distinct], energies[distinct]
    positions.setflags(write=False)
    logger.debug("%s: %d conformers (%s)", smiles, len(positions), force_field)
    return ConformerPool(molecule, positions, energies - energies[0], force_field, stereo)


def hydrogen_parents(molecule: Molecule) -> IntArray:
    """[n_atoms - n] heavy atom that each hydrogen of `Molecule.rdmol_h` sits on."""
    atoms = list(molecule.rdmol_h.GetAtoms())[molecule.n_heavy :]
    return np.array([a.GetNeighbors()[0].GetIdx() for a in atoms], dtype=np.int64)


def heavy_automorphisms(molecule: Molecule, limit: int = _MAX_AUTOMORPHISMS) -> IntArray:
    """[A, n] symmetries of the heavy-atom graph, the identity first, at most `limit`.

    Elements, hydrogen counts, charges and bond types have to agree, except that terminal atoms of
    a resonant group (nitro, carboxylate, sulfonate) count as alike. A symmetry of the graph only
    renames atoms, so it never changes the stereochemistry of a molecule in space.
    """
    mol = labelled_graph(molecule)
    identity = tuple(range(molecule.n_heavy))
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=limit)
    rest = sorted({tuple(m) for m in matches} - {identity})
    return np.array([identity, *rest[: limit - 1]], dtype=np.int64)


def labelled_graph(molecule: Molecule) -> Chem.RWMol:
    """Heavy atoms and bonds, labelled so that matches of RDKit are the symmetries of the graph.

    The isotope is the number of hydrogens plus one; stereochemistry is left out, and terminal
    atoms of a resonant group have the same charge and the same bond.
    """
    mol = Chem.RWMol(molecule.rdmol)
    Chem.RemoveStereochemistry(mol)
    for atom in mol.GetAtoms():
        # The isotope is the one atom label, free here, that substructure search compares.
        atom.SetIsotope(atom.GetTotalNumHs() + 1)
    for atom in mol.GetAtoms():
        ends: dict[int, list[Chem.Atom]] = {}
        for near in atom.GetNeighbors():
            if near.GetDegree() == 1 and near.GetTotalNumHs() == 0:
                ends.setdefault(near.GetAtomicNum(), []).append(near)
        for group in ends.values():
            if len({a.GetFormalCharge() for a in group}) > 1:
                for end in group:
                    end.SetFormalCharge(0)
                    bond = mol.GetBondBetweenAtoms(atom.GetIdx(), end.GetIdx())
                    bond.SetBondType(Chem.BondType.ONEANDAHALF)
    return mol


def _embed(molecule: Molecule, n_conformers: int, seed: int) -> tuple[Chem.Mol, list[int]]:
    """Molecule with hydrogens and embedded conformers, and the conformers' ids."""
    for random_start in (False, True):
        for basic in (False, True):
            mol = Chem.Mol(molecule.rdmol_h)
            parameters: Any = rdDistGeom.ETKDGv3()  # the stub has a wrong type for every field
            parameters.randomSeed = seed + 1  # RDKit takes -1 for "no seed"
            parameters.numThreads = 1
            parameters.useRandomCoords = random_start
            parameters.useBasicKnowledge = not basic
            parameters.useExpTorsionAnglePrefs = not basic
            parameters.maxIterations = 50
            parameters.pruneRmsThresh = 0.1
            try:
                ids = list(rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters))
            except (RuntimeError, ValueError):
                ids = []
            if ids:
                return mol, ids
    raise ConformerError(
        f"No 3D conformer of '{molecule.smiles}' could be embedded; check the SMILES, its "
        "stereochemistry above all."
    )


def _optimise(mol: Chem.Mol, n: int) -> tuple[FloatArray, str]:
    """Relax all conformers; energies [n] in kcal/mol and the force field's name."""
    helpers = rdForceFieldHelpers
    try:
        if helpers.MMFFHasAllMoleculeParams(mol):
            name = "MMFF94"
            result = helpers.MMFFOptimizeMoleculeConfs(mol, 1, _FORCE_FIELD_STEPS)
        elif helpers.UFFHasAllMoleculeParams(mol):
            name = "UFF"
            result = helpers.UFFOptimizeMoleculeConfs(mol, 1, _FORCE_FIELD_STEPS)
        else:
            return np.full(n, np.nan), "none"
    except (RuntimeError, ValueError):
        return np.full(n, np.nan), "none"
    return np.array([energy for _, energy in result], dtype=np.float64), name


def _rmsd(a: FloatArray, b: FloatArray) -> float:
    """RMSD in Å of two centred point sets [n, 3] after the best proper rotation."""
    covariance = np.einsum("ai,aj->ij", a, b)
    s = np.linalg.svd(covariance, compute_uv=False)
    s[2] *= np.sign(np.linalg.det(covariance)) or 1.0
    square = (np.square(a).sum() + np.square(b).sum() - 2.0 * s.sum()) / max(len(a), 1)
    return float(np.sqrt(max(square, 0.0)))
