"""One crystal, or one molecule, relaxed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import Engine, EngineError, boxed
from packflow_core.relax.driver import Driver, Job
from packflow_core.relax.outcome import Relaxation, Step
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def relax_crystal(
    crystal: Crystal,
    engine: Engine,
    params: RelaxParams,
    bonds: IntArray,
    observer: Callable[[Step], None] | None = None,
) -> Relaxation:
    """Relax a crystal; whatever goes wrong is in the result, not raised.

    Where the engine remembers its start, the energy of the result is that of a freshly prepared
    one at the final geometry, so it depends on that geometry alone. If the two differ by more
    than allowed, the relaxation goes on from there once; if they still differ, it fails.

    Args:
        crystal: molecules whole.
        engine: the energy engine.
        params: the protocol.
        bonds: [nb, 2] bonds of one molecule, hydrogens included.
        observer: called after every evaluation.
    """
    watch = None if observer is None else lambda _, step: observer(step)
    driver: Driver[int] = Driver(engine, params, bonds, observer=watch)
    ends = [end for end in driver.run([Job(0, crystal)]) if end is not None]
    return ends[0][1]


def gas_phase(
    engine: Engine, numbers: IntArray, positions: FloatArray, fmax: float = 0.01
) -> tuple[float, FloatArray]:
    """Energy of a relaxed molecule on its own, the reference of lattice energies.

    Args:
        engine: the energy engine.
        numbers: [n] atomic numbers.
        positions: [n, 3] Å, the conformer to start from.
        fmax: largest force at the end, eV/Å.

    Returns:
        Energy in eV and relaxed positions [n, 3] in Å.

    Raises:
        EngineError: the engine fails, or it takes more than 1000 steps.
    """
    from ase.optimize import BFGS

    start = boxed(numbers, positions)
    atoms = start.to_ase()
    atoms.calc = engine.as_ase(start)
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=1000):
        raise EngineError(Reason.MAX_STEPS, "the molecule did not relax in 1000 steps")
    return float(atoms.get_potential_energy()), np.asarray(atoms.get_positions())
