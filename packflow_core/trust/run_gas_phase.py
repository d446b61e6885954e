"""The gas-phase reference of a run: taken from its folder or the user's cache, or computed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pyarrow.compute as pc

from packflow_core import progress
from packflow_core.chem.molecule import Molecule
from packflow_core.engines.registry import engine_identity
from packflow_core.engines.trust import check_trusted
from packflow_core.errors import UserInputError
from packflow_core.spec import engine_of
from packflow_core.stages.pools import go_on
from packflow_core.stages.run_store import RunStore
from packflow_core.trust.gas_phase import GasPhase, compute_gas_phase, gas_phase_key
from packflow_core.trust.gas_phase_file import (
    read_gas_phase,
    read_shared,
    write_gas_phase,
    write_shared,
)
from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

#: Seconds that a relaxation of the molecule may take at least, and how often the time of the
#: slowest crystal, which holds several molecules.
_LEAST_S, _TIMES = 600.0, 2.0


def reference_of(run: RunStore, workers: Callable[[], WorkerPool] | None) -> GasPhase:
    """The reference of a run's lattice energies, by the engine whose energies are ranked.

    Args:
        run: held by this process where workers are given.
        workers: gives the pool where something is to be computed; nothing is computed when None.

    Returns:
        The reference; one with a reason instead of an energy where there is none. It is never a
        reason for a run to fail.

    Raises:
        StorageFullError: no space left.
    """
    spec, identity = run.plan.spec, run.plan.engine
    engine = engine_of(spec, run.plan.last_relaxation)
    smiles = Molecule.from_smiles(spec.smiles).smiles
    key = gas_phase_key(smiles, identity)
    kept = read_gas_phase(run.folder, key)
    if kept is not None and (kept.energy_eV is not None or workers is None):
        return kept
    shared = read_shared(engine, key)
    if shared is not None:
        if workers is not None:
            write_gas_phase(run.folder, shared)
        return shared
    if workers is None:
        reason = "the molecule was not computed yet; 'csp rank DIR --rerank' does it."
        return GasPhase(key, smiles, identity, reason=reason)
    if problem := engine_problem(engine, identity):
        found = GasPhase(key, smiles, identity, reason=problem)
    else:
        logger.info("gas phase: conformers of %s by %s", smiles, identity)
        found = compute_gas_phase(smiles, engine, identity, workers(), limit_of(run), go_on)
        logger.info("gas phase: %s", found.as_dict() | {"positions": "...", "numbers": "..."})
    write_gas_phase(run.folder, found)
    write_shared(engine, found)
    if found.energy_eV is None:
        logger.warning("no lattice energies: %s", found.reason)
        progress.current().warn(
            f"Lattice energies against the gas phase are left empty: {found.reason}"
        )
    return found


def engine_problem(engine: str, identity: str) -> str:
    """Why an engine cannot give energies that belong to those of a run; empty where it can.

    Args:
        engine: its name.
        identity: that of the run's energies.
    """
    try:
        check_trusted(engine)
        installed = engine_identity(engine)
    except UserInputError as error:
        return str(error)
    if installed != identity:
        return f"The run's energies are of {identity}, but {installed} is installed."
    return ""


def limit_of(run: RunStore) -> float:
    """Time limit of one relaxation, s, from what those of the run took."""
    times = run.stage(run.plan.last_relaxation).table(["wall_s"])["wall_s"]
    slowest = pc.max(times).as_py() if len(times) else None
    return max(_LEAST_S, _TIMES * (slowest or 0.0))
