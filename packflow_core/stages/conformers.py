"""The conformers of a run: one pool for every stage and process, kept in the run's folder."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformers import ConformerError
from packflow_core.chem.molecule import Molecule
from packflow_core.devices import usable_cpus
from packflow_core.stages.run_store import RunStore
from packflow_core.store.conformer_table import CONFORMERS_FILE, stored_ensemble

logger = logging.getLogger(__name__)

_lock = threading.Lock()
#: Searches of this process that found nothing, by key: one takes long and is not made again.
_failed: dict[str, ConformerError] = {}


def conformers_of(run: RunStore) -> ConformerEnsemble:
    """The pool of a run: made when it is first asked for, then read from the run's folder.

    Ask for it in the run's own process before its workers do, or each of them makes it.

    Raises:
        ConformerError: the molecule has no conformer.
        UserInputError: a file of conformers is gone before it was read.
    """
    spec, key = run.plan.spec, run.plan.conformers
    molecule = Molecule.from_smiles(spec.smiles)
    with _lock:
        if key in _failed:
            raise _failed[key]
        try:
            return stored_ensemble(run.folder, molecule, spec.conformers, key, usable_cpus())
        except ConformerError as error:
            _failed[key] = error
            raise


def conformers_file(run: RunStore) -> Path | None:
    """File with the pool of a run; None where the molecule has no conformer, which is logged.

    A generator that needs none, PackFlow's, does not fail for that.
    """
    try:
        conformers_of(run)
    except ConformerError as error:
        logger.warning("%s The molecules of candidates are not compared with conformers.", error)
        return None
    return run.folder / CONFORMERS_FILE
