"""Search for the conformers of a molecule: embed, relax, judge, prune.

ETKDG (Riniker and Landrum, J. Chem. Inf. Model. 2015, 55, 2562; version 3 with the torsions of
Wang et al., ibid. 2020, 60, 2044) draws geometries from the torsions found in crystals; a force
field relaxes them. Work is bounded by the number of embeddings, never by a clock, so the result
is the same on a slow machine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from packflow_core.chem.conformer_atoms import is_bonded_as
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

#: Å that rounding may add to a lower bound of an RMSD.
_ROUNDING = 1e-6

#: A search is called incomplete where more than this share of finds happened once, of so many
#: conformers at least.
_INCOMPLETE, _MANY = 0.2, 5

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
        ConformerError: nothing could be embedded with the right bonds and stereochemistry.
    """
    asked = params.embeddings(molecule)
    with rdBase.BlockLogs():  # missing parameters are said in our own words
        mol, ids = _embed(molecule, asked, params.seed, threads)
        energies, method = _relax(mol, len(ids), params.force_field, threads)
    positions = np.stack([mol.GetConformer(c).GetPositions() for c in ids])
    return select_conformers(
        molecule, positions, energies, params, method, asked, _about_force_field(params, method)
    )


def select_conformers(
    molecule: Molecule,
    positions: FloatArray,
    energies: FloatArray,
    params: ConformerParams,
    method: str,
    asked: int,
    notes: Sequence[str] = (),
    weights: IntArray | None = None,
) -> ConformerEnsemble:
    """The ensemble of relaxed geometries: sound, within the window, each conformer once.

    Args:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å in the order of `Molecule`, K above 0.
        energies: [K] kJ/mol on any scale, or NaN for all.
        params: window, thresholds and the largest number.
        method: what gave geometries and energies.
        asked: geometries that were asked for.
        notes: sentences to begin with.
        weights: [K] embeddings that gave each geometry; one where not given.

    Raises:
        ConformerError: no geometry has the right bonds and stereochemistry.
    """
    sound = _sound(molecule, positions, energies)
    if not len(sound):
        raise ConformerError(
            f"No 3D conformer of '{molecule.smiles}' could be made with the bonds and the "
            "stereochemistry it asks for; check the SMILES, or give a file with conformers of your "
            "own."
        )
    sound = sound[np.argsort(energies[sound], kind="stable")]
    above = energies[sound] - energies[sound[0]]
    # Without energies, which are NaN then, all are inside.
    inside = ~(above > params.window_kJ_mol)
    close, above = positions[sound[inside]], above[inside]
    kept, parent = _distinct(molecule, close, params)
    given = np.ones(len(positions), dtype=np.int64) if weights is None else weights
    found = np.zeros(len(kept), dtype=np.int64)
    np.add.at(found, parent, given[sound[inside]][: len(parent)])
    looked_at = len(parent)
    counts = SearchCounts(
        asked=asked,
        embedded=len(positions),
        wrong=len(positions) - len(sound),
        outside=len(sound) - len(close),
        duplicates=looked_at - len(kept),
        beyond=len(close) - looked_at,
    )
    logger.debug("%s: %d conformers, %s, %s", molecule.smiles, len(kept), method, counts)
    x = close[kept]
    x = x - x[:, : molecule.n_heavy].mean(axis=1, keepdims=True)
    told = (*notes, *_about_stereoisomers(molecule, x), *_about_completeness(found))
    return ConformerEnsemble(molecule, x, above[kept], method, found, counts, told)


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
    return np.array([k for k in right if is_bonded_as(molecule, positions[k])], dtype=np.int64)


def _distinct(
    molecule: Molecule, positions: FloatArray, params: ConformerParams
) -> tuple[IntArray, IntArray]:
    """Conformers [k] unlike any that comes before them, and whose duplicate each one is [L].

    Args:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å, in the order in which they are to be kept.
        params: settings; once there are `max_conformers`, the rest is not looked at (L < K).
    """
    comparer = Comparer.of(molecule)
    shapes = comparer.shapes(positions)
    kept: list[int] = []
    parent: list[int] = []
    for k in range(len(positions)):
        if len(kept) == params.max_conformers:
            break
        earlier = np.array(kept, dtype=np.int64)
        bound = comparer.at_least(shapes.take(earlier), shapes.take(np.array([k])))[:, 0]
        near = np.flatnonzero(bound <= params.rmsd_A + _ROUNDING)
        earlier = earlier[near]
        same = comparer.alike(
            shapes,
            shapes,
            earlier,
            np.full(len(earlier), k),
            params.rmsd_A,
            params.polar_hydrogens,
        )
        if same.any():
            parent.append(int(near[np.argmax(same)]))
        else:
            parent.append(len(kept))
            kept.append(k)
    return np.array(kept, dtype=np.int64), np.array(parent, dtype=np.int64)


def _about_force_field(params: ConformerParams, method: str) -> list[str]:
    """What to say where another force field than the wanted one was taken."""
    if method == NO_FORCE_FIELD:
        return [
            "No force field has parameters for this molecule: the conformers are as embedded, "
            "without energies, and the energy window does not apply."
        ]
    if method != params.force_field:
        return [f"{params.force_field} lacks parameters for this molecule; {method} is used."]
    return []


def _about_stereoisomers(molecule: Molecule, positions: FloatArray) -> list[str]:
    """What to say where conformers [K, n_atoms, 3] Å of several stereoisomers are in the pool."""
    mirror = Comparer.of(molecule).mirror
    isomers = {min(_hands(molecule, x)) if mirror else _hands(molecule, x)[0] for x in positions}
    if len(isomers) == 1:
        return []
    return [
        f"The SMILES leaves stereochemistry open: the conformers are of {len(isomers)} different "
        "stereoisomers; mark the one you mean in the SMILES."
    ]


def _hands(molecule: Molecule, positions: FloatArray) -> tuple[str, str]:
    """SMILES of the stereoisomer that a geometry [n_atoms, 3] Å is, and of its mirror image."""
    names = []
    for sign in (1.0, -1.0):
        mol = Chem.Mol(molecule.rdmol_h)
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(sign * positions))
        mol.RemoveAllConformers()
        mol.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(mol)
        names.append(str(Chem.MolToSmiles(Chem.RemoveHs(mol))))
    return names[0], names[1]


def _about_completeness(found: IntArray) -> list[str]:
    """What to say where many conformers were found once only.

    The share of finds that happened once estimates the probability that one more embedding gives
    something new (Good, Biometrika 1953, 40, 237).
    """
    once = int((found == 1).sum())
    if len(found) < _MANY or once <= _INCOMPLETE * int(found.sum()):
        return []
    return [
        f"The search is not complete: {once} of {len(found)} conformers were found only once; "
        "more embeddings (n_embed) would find more."
    ]
