"""Stages `relax_h` and `relax`: one candidate, relaxed; runs inside a worker process."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import Row, crystal_of, next_row
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.chem.molecule import Molecule

__all__ = ["RelaxParams", "relax"]


def relax(row: Row, molecule_smiles: str, engine: str, params: RelaxParams) -> Row:
    """Relax the crystal of a row.

    Args:
        row: upstream row whose crystal has all its hydrogens.
        molecule_smiles: SMILES of the molecule; its canonical order is that of the atoms.
        engine: name of the energy engine.
        params: the protocol.

    Returns:
        The row of this stage: `ok`, or `unconverged` (MAX_STEPS, STRESS), `rejected` before the
        first step (CLASH, BAD_CELL, BROKEN_MOLECULE), or `failed` (EXPLODED, NAN, TOPOLOGY,
        ENGINE). It holds the last sound geometry, with the energy and the forces there.

    Raises:
        UserInputError: an unknown engine, or one that is not installed.
    """
    from packflow_core.engines.registry import engine_identity, get_engine
    from packflow_core.relax.relaxation import relax_crystal

    identity = engine_identity(engine)
    common: dict[str, Any] = {"engine": identity, "protocol": params.protocol, "device": "cpu"}
    molecule = _molecule(molecule_smiles)
    try:
        start = crystal_of(row)
        if start.numbers.tolist() != molecule.numbers_h.tolist() * start.z:
            raise ValueError(f"atoms are not {start.z} times {molecule.formula} in its atom order")
    except ValueError as error:
        return next_row(
            row, status=Status.FAILED, reason=Reason.INTERNAL, detail=str(error), **common
        )
    done = relax_crystal(start, get_engine(engine), params, molecule.bonds_h)
    first, last = done.first, done.last
    return next_row(
        row,
        status=done.status,
        reason=done.reason,
        detail=done.detail,
        crystal=done.crystal,
        energy_eV=last.energy if last else None,
        fmax_eV_A=last.fmax if last else None,
        stress_GPa=last.stress if last else None,
        n_steps=done.n_steps,
        energy_start_eV=first.energy if first else None,
        fmax_start_eV_A=first.fmax if first else None,
        density_start_g_cm3=start.density,
        replicas=list(done.replicas) if done.replicas else None,
        **common,
    )


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    from packflow_core.chem.molecule import Molecule

    return Molecule.from_smiles(smiles)
