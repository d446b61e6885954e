"""Search for the conformers of a molecule: embed, relax, judge, prune.

ETKDG (Riniker and Landrum, J. Chem. Inf. Model. 2015, 55, 2562; version 3 with the torsions of
Wang et al., ibid. 2020, 60, 2044) draws geometries from the torsions found in crystals; a force
field relaxes them. Work is bounded by the number of embeddings, never by a clock, so the result
is the same on a slow machine.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from packflow_core.chem.conformer_atoms import bonds_by_distance, sorted_bonds
from packflow_core.chem.conformer_ensemble import ConformerEnsemble, SearchCounts
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_rmsd import Comparer
from packflow_core.chem.conformers import ConformerError
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

KCAL_TO_KJ = 4.184
_FORCE_FIELD_STEPS = 2000
#: Tries of one embedding; where coordinates to start from cannot be had, more of them are in vain.
_TRIES = 10

NO_FORCE_FIELD = "distance geometry"


def search_conformers(
    molecule: Molecule, params: ConformerParams, threads: int = 1
) -> ConformerEnsemble:
    """Conformers of a molecule, lowest energy first.

    Args:
        molecule: the molecule.
        params: settings; `file` is not looked at.
        threads: of the embedding and the force field; 0: one per processor. No number depends
            on it.

    Raises:
        ConformerError: nothing could be embedded, or nothing with the right stereochemistry.
    """
    asked = params.embeddings(molecule)
    mol, ids = _embed(molecule, asked, params.seed, threads)
    energies, method = _relax(mol, len(ids), params.force_field, threads)
    positions = np.stack([mol.GetConformer(c).GetPositions() for c in ids])
    sound = _sound(molecule, positions, energies)
    if not len(sound):
        raise ConformerError(
            f"No 3D conformer of '{molecule.smiles}' could be made with the stereochemistry it "
            "asks for; check the SMILES."
        )
    sound = sound[np.argsort(energies[sound], kind="stable")]
    positions, energies = positions[sound], energies[sound]
    above = energies - energies[0]
    # Without energies, which are NaN then, all are inside.
    inside = np.flatnonzero(~(above > params.window_kJ_mol))
    positions = positions[inside]
    kept, looked_at = _distinct(molecule, positions, params)
    counts = SearchCounts(
        asked=asked,
        embedded=len(ids),
        wrong=len(ids) - len(sound),
        outside=len(sound) - len(inside),
        duplicates=looked_at - len(kept),
        beyond=len(inside) - looked_at,
    )
    logger.debug("%s: %d conformers, %s, %s", molecule.smiles, len(kept), method, counts)
    positions = positions[kept]
    positions = positions - positions[:, : molecule.n_heavy].mean(axis=1, keepdims=True)
    notes = _notes(molecule, params, method)
    return ConformerEnsemble(molecule, positions, above[inside][kept], method, counts, notes)


def _embed(molecule: Molecule, n: int, seed: int, threads: int) -> tuple[Chem.Mol, list[int]]:
    """Molecule with hydrogens and at most n embedded conformers, and their ids.

    Random coordinates to start from make up for those that the usual ones do not give; plain
    distance geometry, which knows no chemistry, comes in where nothing else gave anything.
    """
    mol = Chem.Mol(molecule.rdmol_h)
    mol.RemoveAllConformers()
    for stage, (random_start, plain) in enumerate(
        [(False, False), (True, False), (False, True), (True, True)]
    ):
        missing = n - mol.GetNumConformers()
        if not missing or (plain and mol.GetNumConformers()):
            break
        parameters: Any = rdDistGeom.ETKDGv3()  # the stub has a wrong type for every field
        parameters.randomSeed = 4 * seed + stage + 1  # not 0, whose multiples are all the same
        parameters.numThreads = threads
        parameters.clearConfs = False
        parameters.useRandomCoords = random_start
        parameters.useBasicKnowledge = not plain
        parameters.useExpTorsionAnglePrefs = not plain
        parameters.maxIterations = _TRIES
        try:
            rdDistGeom.EmbedMultipleConfs(mol, missing, parameters)
        except (RuntimeError, ValueError) as error:
            logger.debug("%s: embedding %d failed: %s", molecule.smiles, stage, error)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    if not ids:
        raise ConformerError(
            f"No 3D conformer of '{molecule.smiles}' could be embedded; check the SMILES, its "
            "stereochemistry above all, or give a file with conformers of your own."
        )
    return mol, ids


def _relax(mol: Chem.Mol, n: int, wanted: str, threads: int) -> tuple[FloatArray, str]:
    """Relax all conformers; energies [n] in kJ/mol, and what gave them."""
    helpers: Any = rdForceFieldHelpers
    start = Chem.Mol(mol)
    for name in dict.fromkeys([wanted, "UFF"]):
        try:
            if name == "UFF":
                if not helpers.UFFHasAllMoleculeParams(mol):
                    continue
                result = helpers.UFFOptimizeMoleculeConfs(mol, threads, _FORCE_FIELD_STEPS)
            else:
                if not helpers.MMFFHasAllMoleculeParams(mol):
                    continue
                result = helpers.MMFFOptimizeMoleculeConfs(mol, threads, _FORCE_FIELD_STEPS, name)
        except (RuntimeError, ValueError) as error:
            logger.debug("%s failed: %s", name, error)
            _restore(mol, start)
            continue
        if all(status >= 0 for status, _ in result):
            return KCAL_TO_KJ * np.array([energy for _, energy in result]), name
        _restore(mol, start)
    return np.full(n, np.nan), NO_FORCE_FIELD


def _restore(mol: Chem.Mol, start: Chem.Mol) -> None:
    """Give the conformers of `mol` the positions they have in `start`."""
    for old, new in zip(start.GetConformers(), mol.GetConformers(), strict=True):
        new.SetPositions(np.ascontiguousarray(old.GetPositions()))


def _sound(molecule: Molecule, positions: FloatArray, energies: FloatArray) -> IntArray:
    """Conformers [k] that are the molecule of the SMILES, out of [K, n_atoms, 3] Å."""
    stereo = stereo_of(molecule)
    finite = np.isfinite(positions).all(axis=(1, 2))
    if np.isfinite(energies).any():
        finite &= np.isfinite(energies)
    right = [k for k in np.flatnonzero(finite) if not stereo.inverted_in(positions[k]).any()]
    bonds = sorted_bonds(molecule.bonds_h)
    whole = [
        k
        for k in right
        if np.array_equal(bonds_by_distance(molecule.numbers_h, positions[k]), bonds)
    ]
    # Some molecules have bonds that no table of radii expects; then the force field is right.
    return np.array(whole or right, dtype=np.int64)


def _distinct(
    molecule: Molecule, positions: FloatArray, params: ConformerParams
) -> tuple[IntArray, int]:
    """Conformers [k] unlike any that comes before them, and how many were looked at for that.

    Args:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å, in the order in which they are to be kept.
        params: settings.
    """
    comparer = Comparer.of(molecule)
    shapes = comparer.shapes(positions)
    bound = comparer.at_least(shapes, shapes)
    kept: list[int] = []
    for k in range(len(positions)):
        if len(kept) == params.max_conformers:
            return np.array(kept, dtype=np.int64), k
        earlier = np.array(kept, dtype=np.int64)
        earlier = earlier[bound[earlier, k] <= params.rmsd_A + 1e-9]
        same = comparer.alike(
            shapes,
            shapes,
            earlier,
            np.full(len(earlier), k),
            params.rmsd_A,
            params.polar_hydrogens,
        )
        if not same.any():
            kept.append(k)
    return np.array(kept, dtype=np.int64), len(positions)


def _notes(molecule: Molecule, params: ConformerParams, method: str) -> tuple[str, ...]:
    """What a user should know about a search."""
    notes: list[str] = []
    if method == NO_FORCE_FIELD:
        notes.append(
            "No force field has parameters for this molecule: the conformers are as embedded, "
            "without energies, and the energy window does not apply."
        )
    elif method != params.force_field:
        notes.append(f"{params.force_field} lacks parameters for this molecule; {method} is used.")
    elements = list(Chem.FindPotentialStereo(molecule.rdmol))
    centre = Chem.StereoType.Atom_Tetrahedral
    left = [e for e in elements if e.specified == Chem.StereoSpecified.Unspecified]
    # One open centre alone: its two hands are mirror images, which are one conformer anyway.
    if len(left) > 1 or (left and (left[0].type != centre or len(elements) > 1)):
        notes.append(
            f"The SMILES leaves {len(left)} stereo element{'s' if len(left) > 1 else ''} open: "
            "conformers of different stereoisomers may stand side by side."
        )
    return tuple(notes)
