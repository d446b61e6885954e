"""Conformers relaxed again with an energy engine, each molecule on its own in a large box."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_search import select_conformers
from packflow_core.engines.base import EV_TO_KJ_MOL, EngineError
from packflow_core.errors import RunFailedError
from packflow_core.store.schema import Status

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Largest force on an atom at the end, eV/Å.
FMAX = 0.02


def relax_conformers(
    ensemble: ConformerEnsemble,
    engine: str,
    params: ConformerParams,
    pool: WorkerPool,
    observer: Callable[[Status], None] | None = None,
    timeout_s: float = 3600.0,
) -> ConformerEnsemble:
    """Relax every conformer with an engine, then sort, judge and prune again by its energies.

    Args:
        ensemble: where to start from.
        engine: name of an engine that may be used, see `trust.check_trusted`.
        params: window, thresholds and the largest number, which apply to the relaxed conformers.
        pool: workers; native engines may crash on odd geometries.
        observer: called after every conformer, with ok or failed.
        timeout_s: time limit of one conformer, s.

    Raises:
        RunFailedError: no conformer could be relaxed.
        ConformerError: none kept its stereochemistry.
    """
    numbers = ensemble.molecule.numbers_h
    items = [(k, (engine, numbers, x)) for k, x in enumerate(ensemble.positions)]
    relaxed: dict[int, tuple[float, FloatArray]] = {}
    failures: dict[int, str] = {}
    for outcome in pool.map(relax_one, items, timeout_s):
        k = outcome.key
        assert isinstance(k, int)
        if outcome.error is not None:
            failures[k] = outcome.detail or outcome.error
        elif isinstance(outcome.value, str):
            failures[k] = outcome.value
        else:
            relaxed[k] = outcome.value
        if observer is not None:
            observer(Status.OK if k in relaxed else Status.FAILED)
    if not relaxed:
        raise RunFailedError(
            f"The engine {engine} could relax none of the {len(ensemble)} conformers; the first "
            f"failed with: {failures[min(failures)]}."
        )
    order = sorted(relaxed)  # outcomes come as they are finished, results must not depend on that
    notes = [
        f"Conformer {k} of the search was not relaxed: {failures[k]}." for k in sorted(failures)
    ]
    return select_conformers(
        ensemble.molecule,
        np.stack([relaxed[k][1] for k in order]),
        EV_TO_KJ_MOL * np.array([relaxed[k][0] for k in order]),
        params,
        engine,
        len(ensemble),
        notes,
        None if ensemble.found is None else ensemble.found[order],
    )


def relax_one(
    engine: str, numbers: IntArray, positions: FloatArray
) -> tuple[float, FloatArray] | str:
    """Energy in eV and positions [n, 3] in Å of a relaxed molecule, or why there are none.

    Args:
        engine: name of the engine.
        numbers: [n] atomic numbers.
        positions: [n, 3] Å to start from.
    """
    from packflow_core.engines.registry import get_engine
    from packflow_core.relax.relaxation import gas_phase

    try:
        return gas_phase(get_engine(engine), numbers, positions, FMAX)
    except EngineError as error:
        return error.detail
