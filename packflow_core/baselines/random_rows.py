"""Rows of the baselines `random` and `random+press`, in the place of those of stage `generate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.molecular_symmetry import MolecularSymmetry, symmetries
from packflow_core.baselines.names import RANDOM_PRESS
from packflow_core.baselines.press import Pressed, calibrated, press
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import Packed, PackParams, pack
from packflow_core.baselines.random_params import RANDOM_VERSION, RandomParams
from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.contacts import bond_errors, bond_statistics
from packflow_core.crystal.crystal import Crystal
from packflow_core.stages.generate_params import z_of_index
from packflow_core.store.rows import Row, crystal_columns
from packflow_core.store.schema import Reason, Status

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

#: Second part of the seed for the choice of a conformer.
_STREAM = 0xC04F


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What all candidates of a molecule share."""

    molecule: Molecule
    conformers: FloatArray
    symmetry: tuple[list[MolecularSymmetry], ...]
    pack: PackParams
    press: PressParams | None


def random_rows(
    indices: Sequence[int],
    *,
    conformers: ConformerEnsemble,
    z_values: Sequence[int],
    seed: int,
    target: str,
    params: RandomParams,
    method: str = RANDOM_PRESS,
) -> list[Row]:
    """Rows of the candidates with the given indices, in their order, hydrogens included.

    A candidate depends on the seed, its Z and its number among those of that Z, and on nothing
    else. Molecules that cannot be packed or pressed are rows with a reason.

    Args:
        indices: numbers in the sampling sequence of (seed, molecule, z_values).
        conformers: of the molecule; each candidate draws one, all alike.
        z_values: molecules per primitive cell, taken in turns; a Z may be in it several times.
        seed: campaign seed.
        target: first part of the candidate ids.
        params: settings.
        method: "random", or "random+press".

    Raises:
        UserInputError: no space group for a Z under these settings.
    """
    prepared = _prepared(conformers, params, method == RANDOM_PRESS)
    rows: dict[int, Row] = {}
    packed: list[tuple[int, Packed]] = []
    for index in indices:
        z, number = z_of_index(index, z_values)
        started = time.monotonic()
        rng = np.random.default_rng([_STREAM, seed, z, number])
        chosen = int(rng.integers(len(prepared.conformers)))
        found = pack(
            prepared.molecule.numbers_h,
            prepared.conformers[chosen],
            z,
            seed,
            number,
            prepared.pack,
            prepared.symmetry[chosen],
        )
        packed.append((index, found))
        rows[index] = {
            "candidate_id": f"{target}-z{z}-{index:06d}",
            "index": index,
            "target": target,
            "method": method,
            "seed": seed,
            "z": z,
            "engine": f"{method} {RANDOM_VERSION}",
            "device": "cpu",
            "wall_s": time.monotonic() - started,
            "space_group_drawn": found.choice.number,
            "conformer": chosen,
            "status": str(Status.FAILED),
            "reason": str(found.reason),
            "detail": found.detail,
        }
    ready = [(index, found.packing) for index, found in packed if found.packing is not None]
    if prepared.press is None:
        for index, packing in ready:
            _succeed(rows[index], packing.crystal(), prepared.molecule)
        return [rows[index] for index in indices]
    started = time.monotonic()
    outcomes = press([packing for _, packing in ready], prepared.press)
    share = (time.monotonic() - started) / max(1, len(ready))
    for (index, _), outcome in zip(ready, outcomes, strict=True):
        rows[index]["wall_s"] += share
        _pressed(rows[index], outcome, prepared.molecule)
    return [rows[index] for index in indices]


@lru_cache(maxsize=8)
def _prepared(ensemble: ConformerEnsemble, params: RandomParams, pressed: bool) -> _Prepared:
    """Conformers, their symmetry, and the press made fit for the molecule; once per process."""
    molecule, conformers = ensemble.molecule, ensemble.positions
    symmetry = tuple(
        symmetries(molecule, x) if params.pack.special_positions else [] for x in conformers
    )
    packing = params.pack
    if packing.handedness == "auto":
        hand = "racemic" if stereo_of(molecule).mirror_allowed else "enantiopure"
        packing = packing.model_copy(update={"handedness": hand})
    fit = params.press if pressed else None
    if fit is not None:
        fit = calibrated(molecule.numbers_h, conformers[0], fit)
        log.debug("%s: hard-sphere diameter %s of vdW sum", molecule.smiles, fit.wanted_contact)
    return _Prepared(molecule, conformers, symmetry, packing, fit)


def _pressed(row: Row, outcome: Pressed, molecule: Molecule) -> None:
    """Columns of a pressed candidate."""
    row["n_steps"] = outcome.evaluations
    if outcome.crystal is None:
        row.update(reason=str(outcome.reason), detail=outcome.detail)
    else:
        _succeed(row, outcome.crystal, molecule)


def _succeed(row: Row, crystal: Crystal, molecule: Molecule) -> None:
    """Columns of a candidate that has a crystal."""
    row.update(status=str(Status.OK), reason=str(Reason.NONE), detail="")
    row.update(crystal_columns(crystal))
    sound, worst = bond_statistics(bond_errors(crystal, molecule.bonds))
    row.update(bonds_ok=sound, max_bond_error_A=worst)
